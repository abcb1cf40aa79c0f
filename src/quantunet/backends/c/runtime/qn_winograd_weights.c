/* Transformed weights of Winograd: see qn_winograd.h. */
#include <string.h>

#include "qn_codes.h"
#include "qn_winograd.h"

/* G' of three weights each, in both lanes; out is `distance` apart. */
static inline void weights_spread(qn_word g0, qn_word g1, qn_word g2, qn_word *out, int32_t distance,
                                  int32_t is_doubled)
{
    const qn_word outer = qn_lanes_add(g0, g2);

    out[0] = qn_lanes_add(g0, g0);
    out[distance] = qn_lanes_add(outer, g1);
    if (!is_doubled) {
        out[2 * distance] = qn_lanes_subtract(outer, g1);
    }
    out[(is_doubled ? 2 : 3) * distance] = qn_lanes_add(g2, g2);
}

/* Weights of channels c and c + 2 at one position of the kernel; none behind the last channel. */
static inline qn_word weights_pair(const int16_t *at, int32_t count)
{
    const uint32_t first = count > 0 ? (uint16_t)at[0] : 0, second = count > 2 ? (uint16_t)at[2] : 0;

    return (qn_word)(first | second << 16);
}

/* One pair of channels of `channels`; count: how many there are from the first one on. */
static inline void pair_transform(const int16_t *codes, int32_t channels, int32_t count, qn_word *out,
                                  int32_t distance, int32_t is_doubled)
{
    const int32_t side = is_doubled ? 3 : 4;
    qn_word rows[4][3];

#pragma GCC unroll 3
    for (int32_t column = 0; column < 3; column++) {
        const int16_t *at = codes + column * channels;
        weights_spread(weights_pair(at, count), weights_pair(at + 3 * channels, count),
                       weights_pair(at + 6 * channels, count), &rows[0][column], 3, is_doubled);
    }
#pragma GCC unroll 4
    for (int32_t row = 0; row < side; row++) {
        weights_spread(rows[row][0], rows[row][1], rows[row][2], out + row * side * distance, distance, is_doubled);
    }
}

/* The weights of one filter for one part; codes: [9][channels] of which `count` are the part's. */
static inline void part_transform(const int16_t *codes, int32_t channels, int32_t count, qn_word *out,
                                  int32_t distance, int32_t is_doubled)
{
    for (int32_t pair = 0; pair < 2 * qn_fours(count); pair++) {
        const int32_t c = pair / 2 * 4 + pair % 2;
        qn_word *to = out + pair / 2 * 4 + pair % 2 * 2;
        if (c + 2 < count) {
            pair_transform(codes + c, channels, 3, to, distance, is_doubled);
        } else {
            pair_transform(codes + c, channels, count - c, to, distance, is_doubled);
        }
    }
}

static void filter_transform(const qn_winograd_block *b, const int16_t *codes, qn_word *out)
{
    qn_word *plain = out, *doubled = out + QN_POSITIONS * 4 * b->plain;

    for (int32_t k = 0; k < b->parts_count; k++) {
        const int32_t count = b->parts[k].x->channels;
        if (b->parts[k].is_doubled) {
            part_transform(codes, b->channels, count, doubled, 4 * b->doubled, 1);
            doubled += 4 * qn_fours(count);
        } else {
            part_transform(codes, b->channels, count, plain, 4 * b->plain, 0);
            plain += 4 * qn_fours(count);
        }
        codes += count;
    }
}

const uint8_t *qn_winograd_expand(const qn_winograd_block *b, const uint8_t *packed)
{
    int16_t *codes = (int16_t *)b->inputs; /* not in use yet */
    const int32_t words = qn_winograd_words(b);

    for (int32_t f = 0; f < b->filters; f++) {
        packed = qn_weights_unpack(packed, b->node->bit_width[b->first + f], 9 * b->channels, codes);
        filter_transform(b, codes, b->weights + f / 2 * words + f % 2);
    }
    if (b->filters % 2 != 0) {
        memset(codes, 0, 9 * (size_t)b->channels * sizeof *codes);
        filter_transform(b, codes, b->weights + b->filters / 2 * words + 1);
    }
    return packed;
}
