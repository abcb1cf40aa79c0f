/* Products by bit planes of the weights, exact, without a multiplication.
 *
 * Of each four codes of a patch all 16 sums are tabulated, of four pixels at once, a byte each. A bit plane of a filter
 * then chooses one sum of each table: 16 products by a look-up and an addition. Four sums fit a byte, then it goes on in
 * 16 bits, two to a word; the planes are added up times their powers of two, the top one negative.
 */
#include <string.h>

#include "qn_bit_serial.h"
#include "qn_codes.h"

typedef uint32_t __attribute__((may_alias)) word;

#define PIXELS 4
#define CODES 4    /* of a group */
#define ENTRIES 16 /* of a group's table */
#define UNROLL 4   /* groups whose sums fit a byte; their number is rounded up */

typedef struct {
    const qn_conv2d *node;
    const qn_tensor *x;
    const qn_tensor *out;
    const qn_scratch *scratch;
    int32_t length, groups; /* codes of a patch, and groups of them */
    int32_t first, filters;
    word *places;     /* of table entries: [filters][planes][groups] */
    word *table;      /* [groups][ENTRIES], after it: */
    uint8_t *patches; /* [PIXELS][groups][CODES] */
} block;

/* Where 32 bits hold an address, a place is one, which saves an addition a look-up. */
#if UINTPTR_MAX == UINT32_MAX
static inline uint32_t place_of(const word *table, const word *entry)
{
    (void)table;
    return (uintptr_t)(const void *)entry;
}

static inline uint32_t look_up(const word *table, uint32_t place)
{
    (void)table;
    return *(const word *)(const void *)(uintptr_t)place;
}
#else
static inline uint32_t place_of(const word *table, const word *entry)
{
    return (uint32_t)(entry - table);
}

static inline uint32_t look_up(const word *table, uint32_t place)
{
    return table[place];
}
#endif

static const uint8_t *block_expand(const block *b, const uint8_t *packed)
{
    int16_t *codes = (int16_t *)(void *)b->table; /* not in use yet */
    word *to = b->places;

    for (int32_t f = 0; f < b->filters; f++) {
        const int32_t planes = b->node->bit_width[b->first + f];
        packed = qn_weights_unpack(packed, planes, b->length, codes);
        memset(codes + b->length, 0, (size_t)(b->groups * CODES - b->length) * sizeof *codes);
        for (int32_t plane = 0; plane < planes; plane++) {
            const int16_t *code = codes;
            const word *entries = b->table;
            for (int32_t g = 0; g < b->groups; g++, code += CODES, entries += ENTRIES) {
                const uint32_t chosen = ((uint32_t)code[0] >> plane & 1) | ((uint32_t)code[1] >> plane & 1) << 1 |
                                        ((uint32_t)code[2] >> plane & 1) << 2 | ((uint32_t)code[3] >> plane & 1) << 3;
                *to++ = place_of(b->table, entries + chosen);
            }
        }
    }
    return packed;
}

/* The patch of output pixel (y, x), zeros outside the image. */
static void patch_gather(const block *b, int32_t y, int32_t x, uint8_t *patch)
{
    const qn_conv2d *node = b->node;
    const int32_t channels = b->x->channels, columns = node->kernel_width;
    const int32_t column = x * node->stride - node->padding;
    const int32_t begin = column < 0 ? -column : 0;
    const int32_t end = column + columns > b->x->width ? b->x->width - column : columns;

    for (int32_t i = 0; i < node->kernel_height; i++, patch += columns * channels) {
        const int32_t row = y * node->stride - node->padding + i;
        const int32_t is_inside = row >= 0 && row < b->x->height && begin < end;
        if (!is_inside || begin > 0 || end < columns) {
            memset(patch, 0, (size_t)(columns * channels));
        }
        if (is_inside) {
            memcpy(patch + begin * channels, qn_tensor_row(b->x, row) + (column + begin) * channels,
                   (size_t)((end - begin) * channels));
        }
    }
}

static void table_fill(const block *b)
{
    const uint32_t even = 0x00ff00ffu, low = 0x0000ffffu;
    const word *p0 = (const word *)(const void *)b->patches, *p1 = p0 + b->groups, *p2 = p1 + b->groups;
    const word *p3 = p2 + b->groups, *const end = p1;

    for (word *t = b->table; p0 < end; t += ENTRIES) {
        const uint32_t a = *p0++, c = *p1++, e = *p2++, g = *p3++; /* four codes of a pixel */
        const uint32_t ac02 = (a & even) | (c & even) << 8, ac13 = (a >> 8 & even) | (c & ~even);
        const uint32_t eg02 = (e & even) | (g & even) << 8, eg13 = (e >> 8 & even) | (g & ~even);
        const uint32_t x0 = (ac02 & low) | eg02 << 16, x2 = ac02 >> 16 | (eg02 & ~low); /* a code of four pixels */
        const uint32_t x1 = (ac13 & low) | eg13 << 16, x3 = ac13 >> 16 | (eg13 & ~low);
        const uint32_t x01 = x0 + x1, x23 = x2 + x3;
        t[0] = 0, t[1] = x0, t[2] = x1, t[3] = x01;
        t[4] = x2, t[5] = x2 + x0, t[6] = x2 + x1, t[7] = x2 + x01;
        t[8] = x3, t[9] = x3 + x0, t[10] = x3 + x1, t[11] = x3 + x01;
        t[12] = x23, t[13] = x23 + x0, t[14] = x23 + x1, t[15] = x23 + x01;
    }
}

/* Of four pixels: 0 and 2, 1 and 3, each number modulo 2^16 and the second on top of the first. */
typedef struct {
    uint32_t even, odd;
} sums;

/* Of one plane. A function of its own, for the sake of registers. */
static __attribute__((noinline)) sums plane_sum(const word *table, const word *place, int32_t groups)
{
    const word *const end = place + groups;
    sums s = {0, 0};

    for (; place < end; place += UNROLL) {
        const uint32_t bytes = look_up(table, place[0]) + look_up(table, place[1]) + look_up(table, place[2]) +
                               look_up(table, place[3]);
        s.even += bytes & 0x00ff00ffu;
        s.odd += bytes >> 8 & 0x00ff00ffu;
    }
    return s;
}

/* acc: [PIXELS][filters], biases added */
static void tile_sum(const block *b, int32_t *acc)
{
    const word *place = b->places;

    for (int32_t f = 0; f < b->filters; f++) {
        const int32_t top = b->node->bit_width[b->first + f] - 1, bias = b->node->bias[b->first + f];
        uint32_t even = 0, odd = 0;
        for (int32_t plane = 0; plane < top; plane++, place += b->groups) {
            const sums s = plane_sum(b->table, place, b->groups);
            even += s.even << plane, odd += s.odd << plane;
        }
        const sums s = plane_sum(b->table, place, b->groups);
        place += b->groups;
        even -= s.even << top, odd -= s.odd << top;
        const int32_t p0 = (int16_t)even, p1 = (int16_t)odd;
        acc[f] = p0 + bias;
        acc[f + b->filters] = p1 + bias;
        acc[f + 2 * b->filters] = ((int32_t)(even - (uint32_t)p0) >> 16) + bias;
        acc[f + 3 * b->filters] = ((int32_t)(odd - (uint32_t)p1) >> 16) + bias;
    }
}

static void tile_run(const block *b, int32_t y, int32_t x0, int32_t pixels)
{
    const qn_conv2d *node = b->node;
    const size_t code_bytes = qn_storage_bytes(b->out->storage);
    uint8_t *to = qn_tensor_row(b->out, y) + ((size_t)x0 * (size_t)b->out->channels + (size_t)b->first) * code_bytes;
    int32_t *acc = b->scratch->acc;

    for (int32_t p = 0; p < PIXELS; p++) {
        patch_gather(b, y, x0 + p, b->patches + p * b->groups * CODES);
    }
    table_fill(b);
    tile_sum(b, acc);
    for (int32_t p = 0; p < pixels; p++, acc += b->filters, to += (size_t)b->out->channels * code_bytes) {
        if (node->requantize != NULL) {
            qn_acc_requantize_s32(node->requantize, acc, b->first, b->filters);
        }
        qn_codes_store_s32(to, b->out->storage, acc, b->filters);
    }
}

void qn_bit_serial_run(const qn_conv2d *node, const qn_tensor *x, const qn_tensor *out, qn_rows rows,
                       const qn_scratch *scratch)
{
    const uint8_t *packed = node->weight;
    block b = {node, x, out, scratch, 0, 0, 0, 0, (word *)(void *)scratch->filters, NULL, NULL};

    b.length = x->channels * node->kernel_height * node->kernel_width;
    b.groups = (b.length + CODES * UNROLL - 1) / (CODES * UNROLL) * UNROLL;
    b.table = (word *)(void *)scratch->patches;
    b.patches = (uint8_t *)(b.table + b.groups * ENTRIES);
    for (b.first = 0; b.first < node->out_channels; b.first += node->filter_block) {
        const int32_t left = node->out_channels - b.first;
        b.filters = left < node->filter_block ? left : node->filter_block;
        packed = block_expand(&b, packed);
        /* a patch ends in zeros, which no gathering writes */
        memset(b.patches, 0, (size_t)(PIXELS * CODES * b.groups));
        for (int32_t y = rows.first; y < rows.first + rows.count; y++) {
            for (int32_t x0 = 0; x0 < out->width; x0 += PIXELS) {
                tile_run(&b, y, x0, out->width - x0 < PIXELS ? out->width - x0 : PIXELS);
            }
        }
    }
}
