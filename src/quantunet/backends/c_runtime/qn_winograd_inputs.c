/* Transformed inputs of Winograd: see qn_winograd.h. */
#include <string.h>

#include "qn_codes.h"
#include "qn_winograd.h"

/* What two tiles side by side read of a part. */
#define ROWS 4
#define COLUMNS 6
#define ROWS_DOUBLED 3
#define COLUMNS_DOUBLED 4

/* Four channels of a pixel as two pairs of lanes. */
static inline void pixel_load(const uint8_t *codes, int32_t is_signed, qn_word pairs[2])
{
    uint32_t four;

    memcpy(&four, codes, sizeof four);
    pairs[0] = qn_lanes_of_bytes(four, is_signed);
    pairs[1] = qn_lanes_of_bytes(four >> 8 | four << 24, is_signed);
}

/* B' of four inputs. */
static inline void inputs_spread(qn_word d0, qn_word d1, qn_word d2, qn_word d3, qn_word *out, int32_t distance)
{
    out[0] = qn_lanes_subtract(d0, d2);
    out[distance] = qn_lanes_add(d1, d2);
    out[2 * distance] = qn_lanes_subtract(d2, d1);
    out[3 * distance] = qn_lanes_subtract(d1, d3);
}

/* The same of d0, d1, d1, d2, without the zero. */
static inline void inputs_spread_doubled(qn_word d0, qn_word d1, qn_word d2, qn_word *out, int32_t distance)
{
    out[0] = qn_lanes_subtract(d0, d1);
    out[distance] = qn_lanes_add(d1, d1);
    out[2 * distance] = qn_lanes_subtract(d1, d2);
}

/* One part of two tiles; rows: where the first column of each input row lies, pixels `pixel_bytes` apart. */
static inline void plain_transform(const uint8_t *const rows[], int32_t pixel_bytes, int32_t fours, int32_t is_signed,
                                   qn_word *out, int32_t distance)
{
    for (int32_t c = 0; c < 4 * fours; c += 4, out += 4) {
        qn_word lines[COLUMNS][2][4]; /* by column: B' of it, both pairs */
#pragma GCC unroll 6
        for (int32_t column = 0; column < COLUMNS; column++) {
            qn_word d0[2], d1[2], d2[2], d3[2];
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
            qn_word *to = out + k * 4 * distance;
            for (int32_t pair = 0; pair < 2; pair++, to += 2) {
                const qn_word e0 = lines[0][pair][k], e1 = lines[1][pair][k], e2 = lines[2][pair][k],
                              e3 = lines[3][pair][k], e4 = lines[4][pair][k], e5 = lines[5][pair][k];
                inputs_spread(e0, e1, e2, e3, to, distance);
                inputs_spread(e2, e3, e4, e5, to + 1, distance);
            }
        }
    }
}

/* The same of a part whose pixels are repeated 2x2. */
static inline void doubled_transform(const uint8_t *const rows[], int32_t pixel_bytes, int32_t fours,
                                     int32_t is_signed, qn_word *out, int32_t distance)
{
    for (int32_t c = 0; c < 4 * fours; c += 4, out += 4) {
        qn_word lines[COLUMNS_DOUBLED][2][3];
#pragma GCC unroll 4
        for (int32_t column = 0; column < COLUMNS_DOUBLED; column++) {
            qn_word d0[2], d1[2], d2[2];
            const int32_t at = column * pixel_bytes + c;
            pixel_load(rows[0] + at, is_signed, d0);
            pixel_load(rows[1] + at, is_signed, d1);
            pixel_load(rows[2] + at, is_signed, d2);
            inputs_spread_doubled(d0[0], d1[0], d2[0], lines[column][0], 1);
            inputs_spread_doubled(d0[1], d1[1], d2[1], lines[column][1], 1);
        }
#pragma GCC unroll 3
        for (int32_t k = 0; k < 3; k++) {
            qn_word *to = out + k * 3 * distance;
            for (int32_t pair = 0; pair < 2; pair++, to += 2) {
                const qn_word e0 = lines[0][pair][k], e1 = lines[1][pair][k], e2 = lines[2][pair][k],
                              e3 = lines[3][pair][k];
                inputs_spread_doubled(e0, e1, e2, to, distance);
                inputs_spread_doubled(e1, e2, e3, to + 1, distance);
            }
        }
    }
}

/* Input row `row`, `columns` of them from `column` on, zeros outside the image and behind the last channel. */
static void row_gather(const qn_tensor *x, int32_t row, int32_t column, int32_t columns, uint8_t *to)
{
    const size_t channels = (size_t)x->channels, stride = 4 * (size_t)qn_fours(x->channels);

    memset(to, 0, (size_t)columns * stride);
    if (row < 0 || row >= x->height) {
        return;
    }
    const uint8_t *codes = qn_tensor_row(x, row);
    const int32_t begin = column < 0 ? -column : 0;
    const int32_t end = column + columns > x->width ? x->width - column : columns;
    for (int32_t k = begin; k < end; k++) {
        memcpy(to + (size_t)k * stride, codes + (size_t)(column + k) * channels, channels);
    }
}

/* Where `rows` rows of x lie from column `column` on; returns the bytes of a pixel there. */
static int32_t tiles_find(const qn_winograd_block *b, const qn_tensor *x, int32_t row, int32_t rows, int32_t column,
                          int32_t columns, const uint8_t *at[])
{
    const int32_t channels = x->channels, stride = 4 * qn_fours(channels);
    /* where the last four channels are not all there, the next pixels' are read too: their weights are zero */
    const int32_t spare = channels % 4 == 0 ? 0 : channels > 2 ? 1 : 3;

    if (row >= 0 && row + rows <= x->height && column >= 0 && column + columns + spare <= x->width) {
        for (int32_t k = 0; k < rows; k++) {
            at[k] = qn_tensor_row(x, row + k) + column * channels;
        }
        return channels;
    }
    for (int32_t k = 0; k < rows; k++) {
        uint8_t *to = b->gathered + k * columns * stride;
        row_gather(x, row + k, column, columns, to);
        at[k] = to;
    }
    return stride;
}

void qn_winograd_gather(const qn_winograd_block *b, int32_t y, int32_t x0)
{
    const int32_t row = y - b->node->padding, column = x0 - b->node->padding;
    qn_word *plain = b->inputs, *doubled = b->inputs + QN_POSITIONS * 4 * b->plain;

    for (int32_t k = 0; k < b->parts_count; k++) {
        const qn_tensor *x = b->parts[k].x;
        const int32_t fours = qn_fours(x->channels), is_signed = x->storage == QN_S8;
        const uint8_t *at[ROWS];
        if (b->parts[k].is_doubled) { /* row and column are odd */
            const int32_t pixel_bytes =
                tiles_find(b, x, y / 2 - 1, ROWS_DOUBLED, x0 / 2 - 1, COLUMNS_DOUBLED, at);
            doubled_transform(at, pixel_bytes, fours, is_signed, doubled, 4 * b->doubled);
            doubled += 4 * fours;
            continue;
        }
        const int32_t pixel_bytes = tiles_find(b, x, row, ROWS, column, COLUMNS, at);
        if (is_signed) {
            plain_transform(at, pixel_bytes, fours, 1, plain, 4 * b->plain);
        } else {
            plain_transform(at, pixel_bytes, fours, 0, plain, 4 * b->plain);
        }
        plain += 4 * fours;
    }
}
