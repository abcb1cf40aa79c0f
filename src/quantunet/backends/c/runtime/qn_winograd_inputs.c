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
static inline void pixel_load(const uint8_t *codes, qn_storage storage, qn_word pairs[2])
{
    uint32_t four = codes[0];

    if (storage == QN_U2) {
        four |= four << 12;
        pairs[0] = (qn_word)(four & 0x00030003u);
        pairs[1] = (qn_word)(four >> 2 & 0x00030003u);
    } else if (storage == QN_U4) {
        uint16_t both;
        memcpy(&both, codes, sizeof both);
        four = both | (uint32_t)both << 8;
        pairs[0] = (qn_word)(four & 0x000f000fu);
        pairs[1] = (qn_word)(four >> 4 & 0x000f000fu);
    } else {
        memcpy(&four, codes, sizeof four); /* a byte more than QN_U6 has: there is one, as `tiles_find` sees to */
        if (storage == QN_U6) {
            pairs[0] = (qn_word)(four & 0x003f003fu);
            pairs[1] = (qn_word)((four >> 6 & 0x0003003fu) | (four << 6 & 0x003c0000u));
        } else {
            pairs[0] = qn_lanes_of_bytes(four, storage == QN_S8);
            pairs[1] = qn_lanes_of_bytes(four >> 8 | four << 24, storage == QN_S8);
        }
    }
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

/* Where the first column of each input row lies. */
typedef struct {
    const uint8_t *rows[ROWS];
    int32_t pixel_bytes;
} pixels;

/* Of four channels. */
static inline int32_t four_bytes_of(qn_storage storage)
{
    return storage >= QN_U2 ? (int32_t)storage - QN_U2 + 1 : 4;
}

/* One part of two tiles. */
static inline void plain_transform(const pixels *from, int32_t fours, qn_word *out, int32_t distance,
                                   qn_storage storage)
{
    const uint8_t *const *rows = from->rows;
    const int32_t four_bytes = four_bytes_of(storage);

    for (int32_t c = 0; c < fours * four_bytes; c += four_bytes, out += 4) {
        qn_word lines[COLUMNS][2][4]; /* by column: B' of it, both pairs */
#pragma GCC unroll 6
        for (int32_t column = 0; column < COLUMNS; column++) {
            qn_word d0[2], d1[2], d2[2], d3[2];
            const int32_t at = column * from->pixel_bytes + c;
            pixel_load(rows[0] + at, storage, d0);
            pixel_load(rows[1] + at, storage, d1);
            pixel_load(rows[2] + at, storage, d2);
            pixel_load(rows[3] + at, storage, d3);
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
static inline void doubled_transform(const pixels *from, int32_t fours, qn_word *out, int32_t distance,
                                     qn_storage storage)
{
    const uint8_t *const *rows = from->rows;
    const int32_t four_bytes = four_bytes_of(storage);

    for (int32_t c = 0; c < fours * four_bytes; c += four_bytes, out += 4) {
        qn_word lines[COLUMNS_DOUBLED][2][3];
#pragma GCC unroll 4
        for (int32_t column = 0; column < COLUMNS_DOUBLED; column++) {
            qn_word d0[2], d1[2], d2[2];
            const int32_t at = column * from->pixel_bytes + c;
            pixel_load(rows[0] + at, storage, d0);
            pixel_load(rows[1] + at, storage, d1);
            pixel_load(rows[2] + at, storage, d2);
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
static void row_gather(const qn_tensor *x, int32_t row, int32_t column, int32_t columns, size_t stride, uint8_t *to)
{
    const size_t pixel_bytes = qn_pixel_bytes(x);

    memset(to, 0, (size_t)columns * stride);
    if (row < 0 || row >= x->height) {
        return;
    }
    const uint8_t *codes = qn_tensor_row(x, row);
    const int32_t begin = column < 0 ? -column : 0;
    const int32_t end = column + columns > x->width ? x->width - column : columns;
    for (int32_t k = begin; k < end; k++) {
        memcpy(to + (size_t)k * stride, codes + (size_t)(column + k) * pixel_bytes, pixel_bytes);
    }
}

/* `rows` rows of x from (row, column) on. */
static pixels tiles_find(const qn_winograd_block *b, const qn_tensor *x, int32_t row, int32_t rows, int32_t column,
                         int32_t columns)
{
    const int32_t channels = x->channels;
    pixels found = {{NULL, NULL, NULL, NULL}, (int32_t)qn_pixel_bytes(x)};
    /* where the last four channels are not all there, the next pixels' are read too: their weights are zero */
    const int32_t stride = four_bytes_of(x->storage) * qn_fours(channels);
    const int32_t behind = stride + (x->storage == QN_U6) - found.pixel_bytes;
    const int32_t spare = behind == 0 ? 0 : found.pixel_bytes > 2 ? 1 : 3;

    if (row >= 0 && row + rows <= x->height && column >= 0 && column + columns + spare <= x->width) {
        for (int32_t k = 0; k < rows; k++) {
            found.rows[k] = qn_tensor_row(x, row + k) + column * found.pixel_bytes;
        }
        return found;
    }
    found.pixel_bytes = stride;
    for (int32_t k = 0; k < rows; k++) {
        uint8_t *to = b->gathered + k * columns * found.pixel_bytes;
        row_gather(x, row + k, column, columns, (size_t)found.pixel_bytes, to);
        found.rows[k] = to;
    }
    return found;
}

/* Calls a transform with the storage as a constant. */
#define FOR_STORAGE(transform, storage, ...)     \
    switch (storage) {                           \
    case QN_S8:                                  \
        transform(__VA_ARGS__, QN_S8);           \
        break;                                   \
    case QN_U2:                                  \
        transform(__VA_ARGS__, QN_U2);           \
        break;                                   \
    case QN_U4:                                  \
        transform(__VA_ARGS__, QN_U4);           \
        break;                                   \
    case QN_U6:                                  \
        transform(__VA_ARGS__, QN_U6);           \
        break;                                   \
    default:                                     \
        transform(__VA_ARGS__, QN_U8);           \
        break;                                   \
    }

void qn_winograd_gather(const qn_winograd_block *b, int32_t y, int32_t x0)
{
    const int32_t row = y - b->node->padding, column = x0 - b->node->padding;
    qn_word *plain = b->inputs, *doubled = b->inputs + QN_POSITIONS * 4 * b->plain;

    for (int32_t k = 0; k < b->parts_count; k++) {
        const qn_tensor *x = b->parts[k].x;
        const int32_t fours = qn_fours(x->channels);
        if (b->parts[k].is_doubled) { /* row and column are odd */
            const pixels from = tiles_find(b, x, y / 2 - 1, ROWS_DOUBLED, x0 / 2 - 1, COLUMNS_DOUBLED);
            FOR_STORAGE(doubled_transform, x->storage, &from, fours, doubled, 4 * b->doubled)
            doubled += 4 * fours;
        } else {
            const pixels from = tiles_find(b, x, row, ROWS, column, COLUMNS);
            FOR_STORAGE(plain_transform, x->storage, &from, fours, plain, 4 * b->plain)
            plain += 4 * fours;
        }
    }
}
