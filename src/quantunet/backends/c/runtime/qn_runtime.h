/* Integer kernels of quantunet: C99, no floating point, no heap, no libm.
 *
 * Tensors are codes in (height, width, channels) order, one machine integer a code. Codes wider than a byte are read and
 * written through memcpy, so a tensor may lie at any address. A tensor may be a ring of its latest rows; a kernel computes
 * the rows it is asked for, and the exporter has proven that the ring holds what it reads. Every kernel computes exactly what the integer graph says;
 * the exporter has proven that no 32-bit accumulator overflows, for any input whatever.
 */
#ifndef QN_RUNTIME_H
#define QN_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#include "qn_product.h"

/* The machine integer of one code. Unsigned formats of 17 to 31 bits use QN_S32: their codes are the same bits.
 * QN_U2, QN_U4, QN_U6: packed, four channels of a pixel in 1, 2 or 3 bytes (qn_packed.h); a pixel ends with its last
 * channel's byte. Only the kernels of Winograd write such a tensor, and only they and the pooling read it. */
typedef enum { QN_U8, QN_S8, QN_U16, QN_S16, QN_S32, QN_U2, QN_U4, QN_U6 } qn_storage;

typedef struct {
    uint8_t *codes; /* kernels write to the tensor `out`, and to none else */
    qn_storage storage;
    int32_t channels, height, width;
    int32_t rows; /* kept at a time: row y lies where row y % rows does; `height` where all are kept */
} qn_tensor;

/* The rows of a tensor that a kernel writes: `first` and those after it. */
typedef struct {
    int32_t first, count;
} qn_rows;

/* saturate(floor(acc * multiplier / 2^shift + 1/2)) by channel; a negative shift shifts left. */
typedef struct {
    const int32_t *multiplier; /* NULL: every multiplier is 1 */
    const int8_t *shift;
    int32_t q_min, q_max;
    int32_t is_narrow; /* multiplier 1 and 0 <= shift <= 31: proven to fit 32 bits, rounding term included */
} qn_requantize;

/* What becomes of the accumulators of a convolution. */
typedef enum { QN_HEAD_NONE, QN_HEAD_THRESHOLD, QN_HEAD_ARGMAX } qn_head;

/* A convolution, or a transposed convolution 2x2 of stride 2 (upsample 2), which is four 1x1 convolutions.
 *
 * Packed weights: by output channel its codes in (kernel row, kernel column, input channel) order, two's complement of
 * that channel's width, least significant bit first; each output channel starts on a byte.
 */
typedef struct {
    const uint8_t *weight;
    const uint8_t *bit_width; /* by output channel, 1 to 8 */
    const int32_t *bias;
    const qn_requantize *requantize; /* NULL: 32-bit accumulators */
    int32_t out_channels, kernel_height, kernel_width, stride, padding, upsample;
    int32_t filter_block; /* filters expanded at a time; all of them where an arg-max follows */
    int32_t is_wide;      /* the input is wider than a byte: 32-bit patches */
    qn_head head;
    int64_t threshold; /* of QN_HEAD_THRESHOLD */
} qn_conv2d;

/* Owned by the caller, shared by all nodes; the sizes are the exporter's (see model.c). */
typedef struct {
    qn_filter_code *filters; /* the expanded weights of one block */
    qn_patch_code *patches;  /* QN_TILE_PIXELS patches */
    int32_t *wide;           /* QN_TILE_PIXELS patches of 32 bits; unused without wide inputs */
    int32_t *acc;            /* QN_TILE_PIXELS x filters */
    int32_t *corrections;    /* by kernel position and filter: what the offset of signed bytes added */
} qn_scratch;

/* With `upsample` 2, rows come in pairs: first and count are even. */
void qn_conv2d_run(const qn_conv2d *node, const qn_tensor *x, const qn_tensor *out, qn_rows rows,
                   const qn_scratch *scratch);

/* 2x2 blocks, stride 2. */
void qn_maxpool2d_run(const qn_tensor *x, const qn_tensor *out, qn_rows rows);

void qn_nearest2d_upsample(const qn_tensor *x, const qn_tensor *out, qn_rows rows);

/* Half-pixel centres, edges repeated; the accumulator is 16 times the value. */
void qn_bilinear2d_upsample(const qn_tensor *x, const qn_requantize *stage, const qn_tensor *out, qn_rows rows);

void qn_codes_rescale(const qn_tensor *x, const qn_requantize *stage, const qn_tensor *out, qn_rows rows);

/* Copies x into channels first_channel, first_channel + 1, ... of out. */
void qn_channels_copy(const qn_tensor *x, const qn_tensor *out, int32_t first_channel, qn_rows rows);

/* 1 where the code is greater than the threshold. */
void qn_mask_threshold(const qn_tensor *x, int64_t threshold, const qn_tensor *out, qn_rows rows);

/* The index of the largest channel; the lowest index wins a tie. */
void qn_mask_argmax(const qn_tensor *x, const qn_tensor *out, qn_rows rows);

#endif
