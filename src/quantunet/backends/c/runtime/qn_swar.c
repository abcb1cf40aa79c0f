/* Two products in one 32-bit multiplication, exact.
 *
 * (x0 + x1 2^16) (w1 + w0 2^16) = x0 w1 + (x0 w0 + x1 w1) 2^16, modulo 2^32. Sums of it hold the sum wanted in their
 * upper half and another in the lower one; both stay within 16 bits, so the lower one is known, and taken off at the end.
 * Four filters and four pixels at a time.
 */
#include <string.h>

#include "qn_codes.h"
#include "qn_swar.h"

typedef uint32_t __attribute__((may_alias)) word;

#define PIXELS 4
#define FILTERS 4

typedef struct {
    const qn_conv2d *node;
    const qn_tensor *x;
    const qn_tensor *out;
    const qn_scratch *scratch;
    int32_t length, pairs; /* codes of a patch, and pairs of them */
    int32_t first, filters;
    word *weights; /* [filters, rounded up][pairs] */
    word *patches; /* [PIXELS][pairs] */
} block;

static const uint8_t *block_expand(const block *b, const uint8_t *packed)
{
    int16_t *codes = (int16_t *)b->patches; /* not in use yet */
    word *to = b->weights;

    for (int32_t f = 0; f < b->filters; f++) {
        codes[b->length] = 0; /* there are places for four patches */
        packed = qn_weights_unpack(packed, b->node->bit_width[b->first + f], b->length, codes);
        for (int32_t k = 0; k < b->pairs; k++) {
            *to++ = (uint32_t)codes[2 * k + 1] + ((uint32_t)codes[2 * k] << 16);
        }
    }
    for (int32_t f = b->filters; f % FILTERS != 0; f++) {
        memset(to, 0, (size_t)b->pairs * sizeof *to);
        to += b->pairs;
    }
    return packed;
}

/* The patch of output pixel (y, x), in pairs, zeros outside the image. */
static void patch_gather(const block *b, int32_t y, int32_t x, uint16_t *patch)
{
    const qn_conv2d *node = b->node;
    const int32_t channels = b->x->channels, columns = node->kernel_width;
    const int32_t column = x * node->stride - node->padding;
    const int32_t begin = column < 0 ? -column : 0;
    const int32_t end = column + columns > b->x->width ? b->x->width - column : columns;

    if (b->length % 2 != 0) {
        patch[b->length] = 0;
    }
    for (int32_t i = 0; i < node->kernel_height; i++, patch += columns * channels) {
        const int32_t row = y * node->stride - node->padding + i;
        if (row < 0 || row >= b->x->height || begin >= end) {
            memset(patch, 0, (size_t)(columns * channels) * sizeof *patch);
            continue;
        }
        if (begin > 0 || end < columns) {
            memset(patch, 0, (size_t)(columns * channels) * sizeof *patch);
        }
        const uint8_t *codes = qn_tensor_row(b->x, row) + (column + begin) * channels;
        uint16_t *to = patch + begin * channels, *const last = patch + end * channels;
        while (to < last) {
            *to++ = *codes++;
        }
    }
}

static inline int32_t upper_half(uint32_t sum)
{
    return (int32_t)(sum - (uint32_t)(int16_t)sum) >> 16;
}

/* acc: [PIXELS][filters, rounded up] */
static void tile_multiply(const block *b, int32_t *acc, int32_t filter_rows)
{
    const size_t pairs = (size_t)b->pairs;
    const word *w0 = b->weights;

    for (int32_t f = 0; f < filter_rows; f += FILTERS) {
        const word *w1 = w0 + pairs, *w2 = w1 + pairs, *w3 = w2 + pairs, *const end = w1;
        const word *x0 = b->patches, *x1 = x0 + pairs, *x2 = x1 + pairs, *x3 = x2 + pairs;
        uint32_t s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
        uint32_t s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
        do {
            const uint32_t u0 = *w0++, u1 = *w1++, u2 = *w2++, u3 = *w3++;
            uint32_t v = *x0++;
            s00 += v * u0, s01 += v * u1, s02 += v * u2, s03 += v * u3;
            v = *x1++;
            s10 += v * u0, s11 += v * u1, s12 += v * u2, s13 += v * u3;
            v = *x2++;
            s20 += v * u0, s21 += v * u1, s22 += v * u2, s23 += v * u3;
            v = *x3++;
            s30 += v * u0, s31 += v * u1, s32 += v * u2, s33 += v * u3;
        } while (w0 < end);
        int32_t *to = acc + f;
        to[0] = upper_half(s00), to[1] = upper_half(s01), to[2] = upper_half(s02), to[3] = upper_half(s03);
        to += filter_rows;
        to[0] = upper_half(s10), to[1] = upper_half(s11), to[2] = upper_half(s12), to[3] = upper_half(s13);
        to += filter_rows;
        to[0] = upper_half(s20), to[1] = upper_half(s21), to[2] = upper_half(s22), to[3] = upper_half(s23);
        to += filter_rows;
        to[0] = upper_half(s30), to[1] = upper_half(s31), to[2] = upper_half(s32), to[3] = upper_half(s33);
        w0 = w3;
    }
}

static void tile_run(const block *b, int32_t y, int32_t x0, int32_t pixels)
{
    const qn_conv2d *node = b->node;
    const int32_t filter_rows = (b->filters + FILTERS - 1) / FILTERS * FILTERS;
    const size_t code_bytes = qn_storage_bytes(b->out->storage);
    uint8_t *to = qn_tensor_row(b->out, y) + ((size_t)x0 * (size_t)b->out->channels + (size_t)b->first) * code_bytes;
    int32_t *acc = b->scratch->acc;

    for (int32_t p = 0; p < pixels; p++) {
        patch_gather(b, y, x0 + p, (uint16_t *)(b->patches + p * b->pairs));
    }
    tile_multiply(b, acc, filter_rows);
    for (int32_t p = 0; p < pixels; p++, acc += filter_rows, to += (size_t)b->out->channels * code_bytes) {
        for (int32_t f = 0; f < b->filters; f++) {
            acc[f] += node->bias[b->first + f];
        }
        if (node->requantize != NULL) {
            qn_acc_requantize_s32(node->requantize, acc, b->first, b->filters);
        }
        qn_codes_store_s32(to, b->out->storage, acc, b->filters);
    }
}

void qn_swar_run(const qn_conv2d *node, const qn_tensor *x, const qn_tensor *out, qn_rows rows,
                 const qn_scratch *scratch)
{
    const uint8_t *packed = node->weight;
    block b = {node, x, out, scratch, 0, 0, 0, 0, (word *)(void *)scratch->filters, NULL};

    b.patches = (word *)(void *)scratch->patches;
    b.length = x->channels * node->kernel_height * node->kernel_width;
    b.pairs = (b.length + 1) / 2;
    for (b.first = 0; b.first < node->out_channels; b.first += node->filter_block) {
        const int32_t left = node->out_channels - b.first;
        b.filters = left < node->filter_block ? left : node->filter_block;
        packed = block_expand(&b, packed);
        for (int32_t y = rows.first; y < rows.first + rows.count; y++) {
            for (int32_t x0 = 0; x0 < out->width; x0 += PIXELS) {
                tile_run(&b, y, x0, out->width - x0 < PIXELS ? out->width - x0 : PIXELS);
            }
        }
    }
}
