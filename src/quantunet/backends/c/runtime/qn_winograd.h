/* Winograd F(2x2, 3x3): a 3x3 convolution of stride 1 with 16 products for 2x2 outputs, exact, in the 16-bit lanes of
 * Arm's DSP extension.
 *
 * A tile is 2x2 outputs of 4x4 inputs d and weights g. Out = A' [(G g G') * (B' d B)] A / 4, with
 *     B' d   : d0 - d2, d1 + d2, d2 - d1, d1 - d3          at most 4 x 255 in both directions
 *     G g    : 2 g0, g0 + g1 + g2, g0 - g1 + g2, 2 g2      twice the usual one: integers, at most 9 x 128
 *     A' m   : m0 + m1 + m2, m1 - m2 - m3
 * The two factors 2 of G are the division by 4. Both transforms fit 16 bits; sums may wrap in 32 on the way, the result
 * does not: the exporter has proven it. Two tiles side by side and two filters are multiplied at a time.
 *
 * Of an input whose pixels are repeated 2x2, d1 = d2 in both directions, since tiles begin on even pixels and the
 * padding is 1: position 2 is zero, and 9 of 16 are left.
 *
 * Channels come in fours (qn_lanes.h). Transformed inputs of two tiles, and transformed weights of two filters:
 *     [16 positions][fours of plain parts][4 words], then [9 positions][fours of doubled parts][4 words]
 */
#ifndef QN_WINOGRAD_H
#define QN_WINOGRAD_H

#include "qn_lanes.h"
#include "qn_runtime.h"

#define QN_POSITIONS 16
#define QN_POSITIONS_DOUBLED 9

/* A tensor that is read beside others. */
typedef struct {
    const qn_tensor *x;
    int32_t is_doubled; /* each of its pixels stands for 2x2 */
} qn_part;

typedef struct {
    const qn_conv2d *node;
    const qn_part *parts;
    int32_t parts_count;
    const qn_tensor *out;
    qn_rows rows;
    int32_t channels;       /* of all parts */
    int32_t plain, doubled; /* fours of channels */
    int32_t first, filters; /* the block of filters */
    qn_word *weights;
    qn_word *inputs;
    uint8_t *gathered; /* inputs of two tiles, of one part */
} qn_winograd_block;

/* The parts' channels lie side by side, as if they were one tensor of the size of `out`. */
void qn_winograd_run(const qn_conv2d *node, const qn_part *parts, int32_t parts_count, const qn_tensor *out,
                     qn_rows rows, const qn_scratch *scratch);

/* Unpacks and transforms the block's weights; returns the byte after them. */
const uint8_t *qn_winograd_expand(const qn_winograd_block *b, const uint8_t *packed);

/* Transforms the inputs of the tiles whose outputs begin at (y, x0). */
void qn_winograd_gather(const qn_winograd_block *b, int32_t y, int32_t x0);

/* Words of the transforms of two tiles, or of two filters. */
static inline int32_t qn_winograd_words(const qn_winograd_block *b)
{
    return 4 * (QN_POSITIONS * b->plain + QN_POSITIONS_DOUBLED * b->doubled);
}

static inline int32_t qn_fours(int32_t channels)
{
    return (channels + 3) / 4;
}

#endif
