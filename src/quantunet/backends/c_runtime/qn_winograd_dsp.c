/* Winograd's products, and their sums to codes: see qn_winograd.h. */
#include <string.h>

#include "qn_codes.h"
#include "qn_winograd.h"

/* sums: by position, of tile 0 with both filters, then of tile 1. */
static inline void positions_multiply(const qn_winograd_block *b, const qn_word *weights, int32_t *sums)
{
    const qn_word *inputs = b->inputs;

    if (b->plain == 0) {
        memset(sums, 0, QN_POSITIONS * 4 * sizeof *sums);
    } else {
        for (int32_t position = 0; position < QN_POSITIONS; position++) {
            qn_lanes_multiply(&weights, &inputs, b->plain, 0, sums + 4 * position);
        }
    }
    if (b->doubled != 0) {
        for (int32_t row = 0; row < 4; row += 1 + row % 2) { /* 0, 1, 3 */
            for (int32_t column = 0; column < 4; column += 1 + column % 2) {
                qn_lanes_multiply(&weights, &inputs, b->doubled, 1, sums + 4 * (4 * row + column));
            }
        }
    }
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
static inline void filter_store_bytes(const qn_winograd_block *b, const int32_t *sums, int32_t f, const target *to)
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
static void filter_store(const qn_winograd_block *b, const int32_t *sums, int32_t f, const target *to)
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

static void tiles_multiply(const qn_winograd_block *b, int32_t y, int32_t x0)
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
    const qn_word *weights = b->weights;

    for (int32_t f = 0; f < b->filters; f += 2) {
        const int32_t last = b->filters - f < 2 ? 1 : 2;
        int32_t sums[QN_POSITIONS * 4];
        positions_multiply(b, weights, sums);
        weights += qn_winograd_words(b);
        for (int32_t k = 0; k < last; k++) {
            if (is_whole) {
                filter_store_bytes(b, sums + k, b->first + f + k, &to);
            } else {
                filter_store(b, sums + k, b->first + f + k, &to);
            }
        }
    }
}

void qn_winograd_run(const qn_conv2d *node, const qn_part *parts, int32_t parts_count, const qn_tensor *out,
                     qn_rows rows, const qn_scratch *scratch)
{
    const uint8_t *packed = node->weight;
    qn_winograd_block b = {node, parts, parts_count, out, rows, 0, 0, 0, 0, 0, NULL, NULL, NULL};

    for (int32_t k = 0; k < parts_count; k++) {
        const int32_t fours = qn_fours(parts[k].x->channels);
        b.channels += parts[k].x->channels;
        b.plain += parts[k].is_doubled ? 0 : fours;
        b.doubled += parts[k].is_doubled ? fours : 0;
    }
    b.weights = (qn_word *)(void *)scratch->filters;
    b.inputs = (qn_word *)(void *)scratch->patches;
    b.gathered = (uint8_t *)(b.inputs + qn_winograd_words(&b));
    for (b.first = 0; b.first < node->out_channels; b.first += node->filter_block) {
        const int32_t left = node->out_channels - b.first;
        b.filters = left < node->filter_block ? left : node->filter_block;
        packed = qn_winograd_expand(&b, packed);
        for (int32_t y = rows.first; y < rows.first + rows.count; y += 2) {
            for (int32_t x0 = 0; x0 < out->width; x0 += 4) {
                qn_winograd_gather(&b, y, x0);
                tiles_multiply(&b, y, x0);
            }
        }
    }
}
