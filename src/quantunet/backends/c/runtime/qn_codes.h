/* Codes to and from memory, and requantization. */
#ifndef QN_CODES_H
#define QN_CODES_H

#include <stddef.h>
#include <stdint.h>

#include "qn_runtime.h"

/* C leaves the right shift of a negative number to the compiler: here it must be arithmetic. */
typedef char qn_right_shift_is_arithmetic[(-5 >> 1) == -3 ? 1 : -1];

/* Kernels with no wider scratch of their own work through this many 32-bit values at a time. */
#define QN_CHUNK 64

/* Of one code; of a packed tensor there is no such thing. */
size_t qn_storage_bytes(qn_storage storage);

/* Of a packed code, 0 for all other storages. */
int32_t qn_packed_bits(qn_storage storage);

size_t qn_pixel_bytes(const qn_tensor *x);

/* Where row `row` of x lies. */
uint8_t *qn_tensor_row(const qn_tensor *x, int32_t row);

/* `count` packed weights of `bit_width` bits; returns the byte after the last one that was begun. */
const uint8_t *qn_weights_unpack(const uint8_t *packed, int32_t bit_width, int32_t count, int16_t *codes);

/* From or to any storage but the packed ones. */
void qn_codes_load_s32(const uint8_t *in, qn_storage storage, int32_t *codes, int32_t count);

void qn_codes_store_s32(uint8_t *out, qn_storage storage, const int32_t *codes, int32_t count);

/* In place: accumulators of channels first, first + 1, ... become codes. */
void qn_acc_requantize_s32(const qn_requantize *stage, int32_t *acc, int32_t first, int32_t count);

#endif
