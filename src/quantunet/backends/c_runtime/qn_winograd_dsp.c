/* Winograd F(2x2, 3x3) in the 16-bit lanes of Arm's DSP extension; exact, for integers.
 *
 * A tile is 2x2 outputs of 4x4 inputs d and weights g. Out = A' [(G g G') * (B' d B)] A / 4, with
 *     B' d   : d0 - d2, d1 + d2, d2 - d1, d1 - d3          at most 4 x 255 in both directions
 *     G g    : 2 g0, g0 + g1 + g2, g0 - g1 + g2, 2 g2      twice the usual one: integers, at most 9 x 128
 *     A' m   : m0 + m1 + m2, m1 - m2 - m3
 * The two factors 2 of G are the division by 4. Both transforms fit 16 bits; sums may wrap in 32 on the way, the result
 * does not. Two tiles side by side and two filters are multiplied at a time.
 *
 * Channels come in fours, as two pairs of lanes: (c0, c2) and (c1, c3). For each of the 16 positions and each four:
 *     transformed weights  first filter (c0, c2), second (c0, c2), first (c1, c3), second (c1, c3)
 *     transformed inputs   the same with the two tiles
 */
#include <arm_acle.h>
#include <string.h>

#include "qn_codes.h"
#include "qn_winograd.h"

#define POSITIONS 16
#define TILE_COLUMNS 6 /* inputs of two tiles */

typedef int32_t __attribute__((may_alias)) word;

typedef struct {
    const qn_conv2d *node;
    const qn_tensor *x;
    const qn_tensor *out;
    qn_rows rows;
    int32_t fours;          /* of input channels */
    int32_t first, filters; /* the block of filters */
    word *weights;          /* [filters / 2][POSITIONS][fours][4] */
    word *inputs;           /* [POSITIONS][fours][4] */
    uint8_t *gathered;      /* [4][TILE_COLUMNS][fours * 4] */
} block;

static inline int32_t lanes_add(int32_t a, int32_t b)
{
    return __sadd16(a, b);
}

static inline int32_t lanes_subtract(int32_t a, int32_t b)
{
    return __ssub16(a, b);
}

/* G' of three weights each, in both lanes; out is `distance` apart. */
static inline void weights_spread(int32_t g0, int32_t g1, int32_t g2, word *out, int32_t distance)
{
    const int32_t outer = lanes_add(g0, g2);

    out[0] = lanes_add(g0, g0);
    out[distance] = lanes_add(outer, g1);
    out[2 * distance] = lanes_subtract(outer, g1);
    out[3 * distance] = lanes_add(g2, g2);
}

/* Weights of channels c and c + 2 at one position of the kernel; none behind the last channel. */
static inline int32_t weights_pair(const int16_t *at, int32_t count)
{
    const uint32_t first = count > 0 ? (uint16_t)at[0] : 0, second = count > 2 ? (uint16_t)at[2] : 0;

    return (int32_t)(first | second << 16);
}

/* One pair of channels; count: how many there are from the first one on. */
static inline void pair_transform(const int16_t *codes, int32_t channels, int32_t count, word *out, int32_t distance)
{
    word rows[4][3];

#pragma GCC unroll 3
    for (int32_t column = 0; column < 3; column++) {
        const int16_t *at = codes + column * channels;
        weights_spread(weights_pair(at, count), weights_pair(at + 3 * channels, count),
                       weights_pair(at + 6 * channels, count), &rows[0][column], 3);
    }
#pragma GCC unroll 4
    for (int32_t row = 0; row < 4; row++) {
        weights_spread(rows[row][0], rows[row][1], rows[row][2], out + row * 4 * distance, distance);
    }
}

/* codes: [9][channels]. */
static void filter_transform(const int16_t *codes, int32_t channels, int32_t fours, word *out)
{
    for (int32_t pair = 0; pair < 2 * fours; pair++) {
        const int32_t c = pair / 2 * 4 + pair % 2;
        word *to = out + pair / 2 * 4 + pair % 2 * 2;
        if (c + 2 < channels) {
            pair_transform(codes + c, channels, 3, to, 4 * fours);
        } else {
            pair_transform(codes + c, channels, channels - c, to, 4 * fours);
        }
    }
}

static const uint8_t *block_expand(const block *b, const uint8_t *packed)
{
    int16_t *codes = (int16_t *)b->inputs; /* not in use yet */
    const int32_t plane = POSITIONS * 4 * b->fours;

    for (int32_t f = 0; f < b->filters; f++) {
        packed = qn_weights_unpack(packed, b->node->bit_width[b->first + f], 9 * b->x->channels, codes);
        filter_transform(codes, b->x->channels, b->fours, b->weights + f / 2 * plane + f % 2);
    }
    if (b->filters % 2 != 0) {
        memset(codes, 0, 9 * (size_t)b->x->channels * sizeof *codes);
        filter_transform(codes, b->x->channels, b->fours, b->weights + b->filters / 2 * plane + 1);
    }
    return packed;
}

/* Four channels of a pixel as two pairs of lanes. */
static inline void pixel_load(const uint8_t *codes, int32_t is_signed, int32_t pairs[2])
{
    uint32_t four;

    memcpy(&four, codes, sizeof four);
    const uint32_t rotated = four >> 8 | four << 24;
    if (is_signed) {
        pairs[0] = __sxtb16((int32_t)four);
        pairs[1] = __sxtb16((int32_t)rotated);
    } else {
        pairs[0] = (int32_t)__uxtb16(four);
        pairs[1] = (int32_t)__uxtb16(rotated);
    }
}

/* B' of four inputs. */
static inline void inputs_spread(int32_t d0, int32_t d1, int32_t d2, int32_t d3, word *out, int32_t distance)
{
    out[0] = lanes_subtract(d0, d2);
    out[distance] = lanes_add(d1, d2);
    out[2 * distance] = lanes_subtract(d2, d1);
    out[3 * distance] = lanes_subtract(d1, d3);
}

/* Two tiles; rows: where the first column of each input row lies, pixels `pixel_bytes` apart. */
static inline void tiles_transform(const block *b, const uint8_t *const rows[4], int32_t pixel_bytes,
                                   int32_t is_signed)
{
    const int32_t distance = 4 * b->fours;
    word *out = b->inputs;

    for (int32_t c = 0; c < 4 * b->fours; c += 4) {
        word lines[TILE_COLUMNS][2][4]; /* by column: B' of it, both pairs */
#pragma GCC unroll 6
        for (int32_t column = 0; column < TILE_COLUMNS; column++) {
            int32_t d0[2], d1[2], d2[2], d3[2];
            const int32_t at = column * pixel_bytes + c;
            pixel_load(rows[0] + at, is_signed, d0);
            pixel_load(rows[1] + at, is_signed, d1);
            pixel_load(rows[2] + at, is_signed, d2);
            pixel_load(rows[3] + at, is_signed, d3);
            inputs_spread(d0[0], d1[0], d2[0], d3[0], lines[column][0], 1);
            inputs_spread(d0[1], d1[1], d2[1], d3[1], lines[column][1], 1);
        }
#pragma GCC unroll 4
        for (int32_t k = 0; k < 4; k++) {
            word *to = out + k * 4 * distance;
            for (int32_t pair = 0; pair < 2; pair++, to += 2) {
                const int32_t e0 = lines[0][pair][k], e1 = lines[1][pair][k], e2 = lines[2][pair][k],
                              e3 = lines[3][pair][k], e4 = lines[4][pair][k], e5 = lines[5][pair][k];
                inputs_spread(e0, e1, e2, e3, to, distance);
                inputs_spread(e2, e3, e4, e5, to + 1, distance);
            }
        }
        out += 4;
    }
}

/* Input row `row`, columns from `column` on, zeros outside the image and behind the last channel. */
static void row_gather(const block *b, int32_t row, int32_t column, uint8_t *to)
{
    const qn_tensor *x = b->x;
    const size_t channels = (size_t)x->channels, stride = 4 * (size_t)b->fours;

    memset(to, 0, TILE_COLUMNS * stride);
    if (row < 0 || row >= x->height) {
        return;
    }
    const uint8_t *codes = qn_tensor_row(x, row);
    const int32_t begin = column < 0 ? -column : 0;
    const int32_t end = column + TILE_COLUMNS > x->width ? x->width - column : TILE_COLUMNS;
    for (int32_t k = begin; k < end; k++) {
        memcpy(to + (size_t)k * stride, codes + (size_t)(column + k) * channels, channels);
    }
}

static void tiles_gather(const block *b, int32_t y, int32_t x0)
{
    const int32_t row = y - b->node->padding, column = x0 - b->node->padding, channels = b->x->channels;
    const int32_t is_signed = b->x->storage == QN_S8;
    const uint8_t *rows[4];
    int32_t pixel_bytes = channels;

    /* where the last four channels are not all there, the next pixel's are read too: their weights are zero */
    if (row >= 0 && row + 4 <= b->x->height && column >= 0 &&
        column + TILE_COLUMNS + (channels % 4 != 0 ? 4 : 0) <= b->x->width) {
        for (int32_t k = 0; k < 4; k++) {
            rows[k] = qn_tensor_row(b->x, row + k) + column * channels;
        }
    } else {
        pixel_bytes = 4 * b->fours;
        for (int32_t k = 0; k < 4; k++) {
            uint8_t *to = b->gathered + k * TILE_COLUMNS * pixel_bytes;
            row_gather(b, row + k, column, to);
            rows[k] = to;
        }
    }
    if (is_signed) {
        tiles_transform(b, rows, pixel_bytes, 1);
    } else {
        tiles_transform(b, rows, pixel_bytes, 0);
    }
}

/* 11 instructions for 16 products: of four channels of two tiles with two filters. */
#define MULTIPLY_FOUR                     \
    "ldmia %[u]!, {r4, r5, r6, r8}\n"     \
    "ldrd r9, r10, [%[v]], #8\n"          \
    "smlad %[a], r9, r4, %[a]\n"          \
    "smlad %[b], r9, r5, %[b]\n"          \
    "smlad %[c], r10, r4, %[c]\n"         \
    "smlad %[d], r10, r5, %[d]\n"         \
    "ldrd r9, r10, [%[v]], #8\n"          \
    "smlad %[a], r9, r6, %[a]\n"          \
    "smlad %[b], r9, r8, %[b]\n"          \
    "smlad %[c], r10, r6, %[c]\n"         \
    "smlad %[d], r10, r8, %[d]\n"
#define MULTIPLY_LOOP(body)                                                                                         \
    __asm__ volatile("1:\n" body "subs %[n], #1\n"                                                                  \
                     "bne 1b"                                                                                       \
                     : [u] "+r"(u), [v] "+r"(v), [n] "+r"(n), [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d)    \
                     :                                                                                              \
                     : "r4", "r5", "r6", "r8", "r9", "r10", "cc", "memory")

/* sums: of tile 0 with both filters, then of tile 1. */
static inline void position_multiply(const word **weights, const word **inputs, int32_t fours, int32_t sums[4])
{
    const word *u = *weights, *v = *inputs;
    int32_t a = 0, b = 0, c = 0, d = 0;

    if (fours % 4 == 0) {
        int32_t n = fours / 4;
        MULTIPLY_LOOP(MULTIPLY_FOUR MULTIPLY_FOUR MULTIPLY_FOUR MULTIPLY_FOUR);
    } else {
        int32_t n = fours;
        MULTIPLY_LOOP(MULTIPLY_FOUR);
    }
    *weights = u;
    *inputs = v;
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}

/* A' m A of one tile and filter, four times the results; sums are 4 apart. */
static inline void tile_finish(const int32_t *sums, int32_t values[4])
{
    uint32_t upper[4], lower[4];

#pragma GCC unroll 4
    for (int32_t k = 0; k < 4; k++) {
        const uint32_t m1 = (uint32_t)sums[4 * k + 16], m2 = (uint32_t)sums[4 * k + 32];
        upper[k] = (uint32_t)sums[4 * k] + m1 + m2;
        lower[k] = m1 - m2 - (uint32_t)sums[4 * k + 48];
    }
    values[0] = (int32_t)(upper[0] + upper[1] + upper[2]);
    values[1] = (int32_t)(upper[1] - upper[2] - upper[3]);
    values[2] = (int32_t)(lower[0] + lower[1] + lower[2]);
    values[3] = (int32_t)(lower[1] - lower[2] - lower[3]);
}

/* Where the results of two tiles go; `lower` is NULL where its row is not asked for. */
typedef struct {
    uint8_t *upper, *lower;
    int32_t columns; /* of 4 */
    size_t pixel_bytes, code_bytes;
} target;

static inline uint8_t code_of(int32_t value, int32_t offset, int32_t shift, int32_t q_min, int32_t q_max)
{
    value = (value + offset) >> shift;
    value = value < q_min ? q_min : value;
    return (uint8_t)(value > q_max ? q_max : value);
}

/* Both tiles of filter f, all eight results, to codes of a byte by a shift: what the exporter has proven to fit. */
static inline void filter_store_bytes(const block *b, const int32_t *sums, int32_t f, const target *to)
{
    const qn_requantize *stage = b->node->requantize;
    const int32_t q_min = stage->q_min, q_max = stage->q_max, shift = stage->shift[f] + 2;
    const int32_t offset = (int32_t)(4 * ((uint32_t)b->node->bias[f] + (((uint32_t)1 << shift) >> 3)));
    uint8_t *upper = to->upper + f, *lower = to->lower + f;

    for (int32_t tile = 0; tile < 2; tile++) {
        int32_t values[4];
        tile_finish(sums + 2 * tile, values);
        upper[0] = code_of(values[0], offset, shift, q_min, q_max);
        upper[to->pixel_bytes] = code_of(values[1], offset, shift, q_min, q_max);
        lower[0] = code_of(values[2], offset, shift, q_min, q_max);
        lower[to->pixel_bytes] = code_of(values[3], offset, shift, q_min, q_max);
        upper += 2 * to->pixel_bytes;
        lower += 2 * to->pixel_bytes;
    }
}

/* The same at the edges, and for any requantization. */
static void filter_store(const block *b, const int32_t *sums, int32_t f, const target *to)
{
    const qn_requantize *stage = b->node->requantize;

    for (int32_t k = 0; k < 8; k++) {
        const int32_t column = k / 4 * 2 + k % 2;
        uint8_t *row = k % 4 < 2 ? to->upper : to->lower;
        int32_t values[4];
        if (row == NULL || column >= to->columns) {
            continue;
        }
        tile_finish(sums + k / 4 * 2, values);
        int32_t value = (values[k % 4] >> 2) + b->node->bias[f];
        if (stage != NULL) {
            qn_acc_requantize_s32(stage, &value, f, 1);
        }
        qn_codes_store_s32(row + (size_t)column * to->pixel_bytes + (size_t)f * to->code_bytes, b->out->storage, &value,
                           1);
    }
}

static void tiles_multiply(const block *b, int32_t y, int32_t x0)
{
    const qn_tensor *out = b->out;
    const qn_requantize *stage = b->node->requantize;
    const size_t code_bytes = qn_storage_bytes(out->storage), pixel_bytes = (size_t)out->channels * code_bytes;
    const size_t at = (size_t)x0 * pixel_bytes;
    const target to = {
        qn_tensor_row(out, y) + at,
        y + 1 < b->rows.first + b->rows.count ? qn_tensor_row(out, y + 1) + at : NULL,
        out->width - x0 < 4 ? out->width - x0 : 4,
        pixel_bytes,
        code_bytes,
    };
    const int32_t is_whole =
        to.lower != NULL && to.columns == 4 && code_bytes == 1 && stage != NULL && stage->is_narrow;
    const word *weights = b->weights;

    for (int32_t f = 0; f < b->filters; f += 2) {
        const int32_t last = b->filters - f < 2 ? 1 : 2;
        const word *inputs = b->inputs;
        int32_t sums[POSITIONS * 4];
        for (int32_t position = 0; position < POSITIONS; position++) {
            position_multiply(&weights, &inputs, b->fours, sums + 4 * position);
        }
        for (int32_t k = 0; k < last; k++) {
            if (is_whole) {
                filter_store_bytes(b, sums + k, b->first + f + k, &to);
            } else {
                filter_store(b, sums + k, b->first + f + k, &to);
            }
        }
    }
}

void qn_winograd_run(const qn_conv2d *node, const qn_tensor *x, const qn_tensor *out, qn_rows rows,
                     const qn_scratch *scratch)
{
    const int32_t fours = (x->channels + 3) / 4;
    const uint8_t *packed = node->weight;
    block b = {node, x, out, rows, fours, 0, 0, (word *)scratch->filters, (word *)scratch->patches, NULL};

    b.gathered = (uint8_t *)(b.inputs + POSITIONS * fours * 4);
    for (b.first = 0; b.first < node->out_channels; b.first += node->filter_block) {
        const int32_t left = node->out_channels - b.first;
        b.filters = left < node->filter_block ? left : node->filter_block;
        packed = block_expand(&b, packed);
        for (int32_t y = rows.first; y < rows.first + rows.count; y += 2) {
            for (int32_t x0 = 0; x0 < out->width; x0 += 4) {
                tiles_gather(&b, y, x0);
                tiles_multiply(&b, y, x0);
            }
        }
    }
}
