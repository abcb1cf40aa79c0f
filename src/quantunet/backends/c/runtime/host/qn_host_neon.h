/* From sums to codes with NEON, for the kernels of that family. */
#ifndef QN_HOST_NEON_H
#define QN_HOST_NEON_H

#include <arm_neon.h>
#include <string.h>

#include "qn_host_kernel.h"

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 4 };

/* What the four lanes of a vector are shifted by, to the left, and multiplied by. */
typedef struct {
    int32x4_t shift, multiplier;
} qn_neon_table;

/* 16 bytes for each vector, as many at a time as an instruction loads. */
INLINE int8x16x4_t weights_read(const int8_t *w, const int vectors)
{
    int8x16x4_t result;

    if (vectors == 4) {
        return vld1q_s8_x4(w);
    }
    for (int v = 0; v < vectors; v++) {
        result.val[v] = vld1q_s8(w + 16 * v);
    }
    for (int v = vectors; v < 4; v++) {
        result.val[v] = vdupq_n_s8(0);
    }
    return result;
}

INLINE qn_neon_table table_of(const int32_t *shift, const int32_t *multiplier)
{
    return (qn_neon_table){vnegq_s32(vld1q_s32(shift)), vld1q_s32(multiplier)};
}

INLINE int32x4_t code_of(const qn_row *row, int32x4_t acc, qn_neon_table table)
{
    if (row->finish == QN_FINISH_MULTIPLY) { /* rounded half up */
        const int64x2_t low = vmull_s32(vget_low_s32(acc), vget_low_s32(table.multiplier));
        const int64x2_t high = vmull_high_s32(acc, table.multiplier);
        const int64x2_t shift_low = vmovl_s32(vget_low_s32(table.shift)), shift_high = vmovl_high_s32(table.shift);
        return vqmovn_high_s64(vqmovn_s64(vrshlq_s64(low, shift_low)), vrshlq_s64(high, shift_high));
    }
    return vshlq_s32(acc, table.shift);
}

/* Four vectors of 32-bit codes, not yet in range, to 16 bytes in order, saturated. */
INLINE uint8x16_t codes_saturate(const int32x4_t *code, int32_t q_min, int32_t q_max, int32_t is_signed)
{
    const int16x8_t low = vqmovn_high_s32(vqmovn_s32(code[0]), code[1]);
    const int16x8_t high = vqmovn_high_s32(vqmovn_s32(code[2]), code[3]);

    if (is_signed) {
        const int8x16_t bytes = vminq_s8(vqmovn_high_s16(vqmovn_s16(low), high), vdupq_n_s8((int8_t)q_max));
        return vreinterpretq_u8_s8(vmaxq_s8(bytes, vdupq_n_s8((int8_t)q_min)));
    } /* else q_min is 0 */
    return vminq_u8(vqmovun_high_s16(vqmovun_s16(low), high), vdupq_n_u8((uint8_t)q_max));
}

/* Four vectors of accumulators to 16 codes in order. */
INLINE uint8x16_t codes_pack(const qn_row *row, const int32x4_t *acc, const qn_neon_table *table)
{
    const int32x4_t code[4] = {code_of(row, acc[0], table[0]), code_of(row, acc[1], table[1]),
                               code_of(row, acc[2], table[2]), code_of(row, acc[3], table[3])};

    return codes_saturate(code, row->q_min, row->q_max, row->is_signed);
}

/* Less than `width` bytes. */
INLINE void bytes_copy(uint8_t *out, const uint8_t *bytes, int32_t count, const int width)
{
    int32_t done = 0;

    if (width > 8 && (count & 8)) {
        memcpy(out, bytes, 8);
        done = 8;
    }
    if (width > 4 && (count & 4)) {
        memcpy(out + done, bytes + done, 4);
        done += 4;
    }
    if (width > 2 && (count & 2)) {
        memcpy(out + done, bytes + done, 2);
        done += 2;
    }
    if (count & 1) {
        out[done] = bytes[done];
    }
}

/* Codes of `pixels` pixels, `width` bytes each, of which `channels` are stored. */
INLINE void codes_store(const qn_row *row, uint8_t *out, uint8x16_t codes, int32_t pixels, const int width)
{
    const int32_t channels = row->pass->channels;
    uint8_t bytes[16];

    if (row->out_step == width && channels == width && pixels * width == 16) {
        vst1q_u8(out, codes);
        return;
    }
    vst1q_u8(bytes, codes);
    for (int32_t p = 0; p < pixels; p++) {
        if (channels == width) {
            memcpy(out + p * row->out_step, bytes + p * width, (size_t)width);
        } else {
            bytes_copy(out + p * row->out_step, bytes + p * width, channels, width);
        }
    }
}

/* Accumulators of `pixels` pixels, `width` each; `first` of this pass's channels lie before them. */
INLINE void sums_store(const qn_row *row, uint8_t *out, int32x4_t acc, int32_t pixels, const int width, int32_t first)
{
    const int32_t left = row->pass->channels - first, channels = left < width ? left : width;
    int32_t sums[LANES];

    vst1q_s32(sums, acc);
    for (int32_t p = 0; p < pixels; p++) {
        for (int32_t c = 0; c < channels; c++) {
            memcpy(out + p * row->out_step + 4 * (first + c), &sums[p * width + c], 4);
        }
    }
}

#endif
