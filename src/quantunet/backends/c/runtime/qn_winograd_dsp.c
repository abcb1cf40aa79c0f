/* Winograd's products, and their sums to codes: see qn_winograd.h. */
#include <string.h>

#include "qn_codes.h"
#include "qn_packed.h"
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

/* What makes a code of four times a result by a shift. */
typedef struct {
    int32_t offset, shift, q_min, q_max;
} rounding;

static inline rounding rounding_of(const qn_winograd_block *b, int32_t f)
{
    const qn_requantize *stage = b->node->requantize;
    const int32_t shift = stage->shift[f] + 2;
    const rounding result = {
        (int32_t)(4 * ((uint32_t)b->node->bias[f] + (((uint32_t)1 << shift) >> 3))),
        shift,
        stage->q_min,
        stage->q_max,
    };
    return result;
}

static inline uint8_t code_of(int32_t value, rounding by)
{
    value = (value + by.offset) >> by.shift;
    value = value < by.q_min ? by.q_min : value;
    return (uint8_t)(value > by.q_max ? by.q_max : value);
}

/* Both tiles of filter f, all eight results, to codes of a byte by a shift: what the exporter has proven to fit. */
static inline void filter_store_bytes(const qn_winograd_block *b, const int32_t *sums, int32_t f, const target *to)
{
    const rounding by = rounding_of(b, f);
    uint8_t *upper = to->upper + f, *lower = to->lower + f;

    for (int32_t tile = 0; tile < 2; tile++) {
        int32_t values[4];
        tile_finish(sums + 2 * tile, values);
        upper[0] = code_of(values[0], by);
        upper[to->pixel_bytes] = code_of(values[1], by);
        lower[0] = code_of(values[2], by);
        lower[to->pixel_bytes] = code_of(values[3], by);
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

/* Filters f, even, and f + 1: all eight results of both by a shift, packed. */
static inline void pair_store_packed(const qn_winograd_block *b, const int32_t *sums, int32_t f, const target *to,
                                     int32_t bits)
{
    const rounding first = rounding_of(b, f), second = rounding_of(b, f + 1);
    const size_t four = (size_t)(f / 4 * bits / 2);
    const int32_t is_upper = f / 2 % 2;

    for (int32_t tile = 0; tile < 2; tile++) {
        int32_t a[4], c[4];
        tile_finish(sums + 2 * tile, a);
        tile_finish(sums + 2 * tile + 1, c);
#pragma GCC unroll 4
        for (int32_t k = 0; k < 4; k++) {
            uint8_t *pixel = (k < 2 ? to->upper : to->lower) + (size_t)(2 * tile + k % 2) * to->pixel_bytes;
            qn_packed_store(pixel + four, bits, is_upper,
                            code_of(a[k], first), code_of(c[k], second), 2);
        }
    }
}

/* The same at the edges, for any requantization, and for `count` 1. */
static void pair_store_packed_any(const qn_winograd_block *b, const int32_t *sums, int32_t f, int32_t count,
                                  const target *to)
{
    const int32_t bits = qn_packed_bits(b->out->storage);

    for (int32_t k = 0; k < 8; k++) {
        const int32_t column = k / 4 * 2 + k % 2;
        uint8_t *row = k % 4 < 2 ? to->upper : to->lower;
        int32_t codes[2] = {0, 0};
        if (row == NULL || column >= to->columns) {
            continue;
        }
        for (int32_t j = 0; j < count; j++) {
            int32_t values[4];
            tile_finish(sums + k / 4 * 2 + j, values);
            codes[j] = (values[k % 4] >> 2) + b->node->bias[f + j];
        }
        qn_acc_requantize_s32(b->node->requantize, codes, f, count);
        qn_packed_store(row + (size_t)column * to->pixel_bytes + (size_t)(f / 4 * bits / 2), bits, f / 2 % 2, codes[0],
                        codes[1], count);
    }
}

static void filters_store(const qn_winograd_block *b, const int32_t *sums, int32_t f, int32_t count, const target *to)
{
    const qn_requantize *stage = b->node->requantize;
    const int32_t bits = qn_packed_bits(b->out->storage);
    const int32_t is_whole = to->lower != NULL && to->columns == 4 && stage != NULL && stage->is_narrow;

    if (bits != 0) {
        if (!is_whole || count < 2) {
            pair_store_packed_any(b, sums, f, count, to);
        } else if (bits == 2) {
            pair_store_packed(b, sums, f, to, 2);
        } else if (bits == 4) {
            pair_store_packed(b, sums, f, to, 4);
        } else {
            pair_store_packed(b, sums, f, to, 6);
        }
        return;
    }
    for (int32_t k = 0; k < count; k++) {
        if (is_whole && to->code_bytes == 1) {
            filter_store_bytes(b, sums + k, f + k, to);
        } else {
            filter_store(b, sums + k, f + k, to);
        }
    }
}

static void tiles_multiply(const qn_winograd_block *b, int32_t y, int32_t x0)
{
    const qn_tensor *out = b->out;
    const size_t code_bytes = qn_storage_bytes(out->storage), pixel_bytes = qn_pixel_bytes(out);
    const size_t at = (size_t)x0 * pixel_bytes;
    const target to = {
        qn_tensor_row(out, y) + at,
        y + 1 < b->rows.first + b->rows.count ? qn_tensor_row(out, y + 1) + at : NULL,
        out->width - x0 < 4 ? out->width - x0 : 4,
        pixel_bytes,
        code_bytes,
    };
    const qn_word *weights = b->weights;

    for (int32_t f = 0; f < b->filters; f += 2) {
        const int32_t last = b->filters - f < 2 ? 1 : 2;
        int32_t sums[QN_POSITIONS * 4];
        positions_multiply(b, weights, sums);
        weights += qn_winograd_words(b);
        filters_store(b, sums, b->first + f, last, &to);
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
