/* Winograd F(2x2, 3x3) with Armv8.2 dot products: 16 products of bytes in the place of 36, all integers, nothing rounded.
 *
 * Transformed inputs are sums of four codes, transformed weights are four times those of the textbook: both fit a byte
 * where qn_host_winograd_fits says so, and sums are four times the convolution's. */
#include "qn_host_kernel.h"

#if defined(QN_HAS_NEON_DOT)
#include "qn_host_neon_dot.h"

enum { BYTES = 16, POSITIONS = 16, TILES = 4 };

/* What lies behind `width` bytes is left as it is. */
INLINE void bytes_store(uint8_t *out, uint8x16_t bytes, const int width)
{
    if (width == BYTES) {
        vst1q_u8(out, bytes);
        return;
    }
    if (width >= 8) {
        vst1_u8(out, vget_low_u8(bytes));
    }
    if (width % 8 == 4) {
        const uint32_t last = width > 8 ? vgetq_lane_u32(vreinterpretq_u32_u8(bytes), 2)
                                        : vgetq_lane_u32(vreinterpretq_u32_u8(bytes), 0);
        memcpy(out + width - 4, &last, 4);
    }
}

/* Columns slide along the row, so that each pixel is read once. */
INLINE void plain_transform(const qn_tile_input *input, int32_t first, const int width)
{
    const uint8x16_t offset = vdupq_n_u8(128);
    const int32_t channels = input->channels;
    const size_t plane = input->plane_bytes, tile = input->tile_bytes;
    const uint8_t *row_0 = input->row[0] + first, *row_1 = input->row[1] + first;
    const uint8_t *row_2 = input->row[2] + first, *row_3 = input->row[3] + first;
    uint8_t *out = input->out + first;
    uint8x16_t v[4][4] = {{vdupq_n_u8(0)}};

    for (int32_t pixel = -2; pixel < 2 * input->count; pixel += 2) {
#pragma GCC unroll 2
        for (int j = 2; j < 4; j++) {
            const uint8x16_t a = vld1q_u8(row_0), b = vld1q_u8(row_1), c = vld1q_u8(row_2), d = vld1q_u8(row_3);
            v[0][j] = vsubq_u8(a, c);
            v[1][j] = vaddq_u8(b, c);
            v[2][j] = vsubq_u8(c, b);
            v[3][j] = vsubq_u8(b, d);
            row_0 += channels, row_1 += channels, row_2 += channels, row_3 += channels;
        }
        if (pixel >= 0) {
            uint8_t *at = out;
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const uint8x16_t sum = vaddq_u8(v[i][1], v[i][2]);
                bytes_store(at, vsubq_u8(v[i][0], v[i][2]), width);
                at += plane;
                bytes_store(at, i == 1 ? veorq_u8(sum, offset) : sum, width);
                at += plane;
                bytes_store(at, vsubq_u8(v[i][2], v[i][1]), width);
                at += plane;
                bytes_store(at, vsubq_u8(v[i][1], v[i][3]), width);
                at += plane;
            }
            out += tile;
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            v[i][0] = v[i][2];
            v[i][1] = v[i][3];
        }
    }
}

/* Pixels repeated 2x2: rows and columns 1 and 2 are equal, so all of row and column 2 is 0 and is left out. */
INLINE void doubled_transform(const qn_tile_input *input, int32_t first, const int width)
{
    const uint8x16_t offset = vdupq_n_u8(128);
    const int32_t channels = input->channels;
    const size_t plane = input->plane_bytes, tile = input->tile_bytes;
    const uint8_t *row_0 = input->row[0] + first, *row_1 = input->row[1] + first, *row_2 = input->row[2] + first;
    uint8_t *out = input->out + first;
    uint8x16_t v[3][3] = {{vdupq_n_u8(0)}};

    for (int32_t pixel = -2; pixel < input->count; pixel++) {
        const uint8x16_t a = vld1q_u8(row_0), b = vld1q_u8(row_1), c = vld1q_u8(row_2);
        v[0][2] = vsubq_u8(a, b);
        v[1][2] = vaddq_u8(b, b);
        v[2][2] = vsubq_u8(b, c);
        row_0 += channels, row_1 += channels, row_2 += channels;
        if (pixel >= 0) {
#pragma GCC unroll 3
            for (int i = 0; i < 3; i++) {
                uint8_t *at = out + (size_t)(i == 2 ? 12 : 4 * i) * plane;
                const uint8x16_t sum = vaddq_u8(v[i][1], v[i][1]);
                bytes_store(at, vsubq_u8(v[i][0], v[i][1]), width);
                at += plane;
                bytes_store(at, i == 1 ? veorq_u8(sum, offset) : sum, width);
                at += 2 * plane;
                bytes_store(at, vsubq_u8(v[i][1], v[i][2]), width);
            }
            out += tile;
        }
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++) {
            v[i][0] = v[i][1];
            v[i][1] = v[i][2];
        }
    }
}

INLINE void transform(const qn_tile_input *input, int32_t first, const int width)
{
    if (input->is_doubled) {
        doubled_transform(input, first, width);
    } else {
        plain_transform(input, first, width);
    }
}

/* Sources come with the last bytes of a tile first, and so do their channels here: what a vector writes too much at the end
 * of a tile lies in the next tile, which is written later. */
static void winograd_dot_transform(const qn_tile_input *input)
{
    for (int32_t first = (input->channels - 1) / BYTES * BYTES; first >= 0; first -= BYTES) {
        const int32_t left = input->channels - first;
        if (left > 12 || input->is_last) {
            transform(input, first, BYTES);
        } else if (left > 8) {
            transform(input, first, 12);
        } else if (left > 4) {
            transform(input, first, 8);
        } else {
            transform(input, first, 4);
        }
    }
}

/* The 2x2 outputs of one tile and one vector from its 16 products, `distance` apart. */
INLINE void tile_inverse(const int32_t *products, size_t distance, int32x4_t bias, int32x4_t *y)
{
    int32x4_t top[4], bottom[4];

#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        const int32x4_t m0 = vld1q_s32(products + j * distance), m1 = vld1q_s32(products + (4 + j) * distance);
        const int32x4_t m2 = vld1q_s32(products + (8 + j) * distance), m3 = vld1q_s32(products + (12 + j) * distance);
        top[j] = vaddq_s32(vaddq_s32(m0, m1), m2);
        bottom[j] = vsubq_s32(vsubq_s32(m1, m2), m3);
    }
    top[1] = vaddq_s32(top[1], bias);
    bottom[1] = vaddq_s32(bottom[1], bias);
    y[0] = vaddq_s32(vaddq_s32(top[0], top[1]), top[2]);
    y[1] = vsubq_s32(vsubq_s32(top[1], top[2]), top[3]);
    y[2] = vaddq_s32(vaddq_s32(bottom[0], bottom[1]), bottom[2]);
    y[3] = vsubq_s32(vsubq_s32(bottom[1], bottom[2]), bottom[3]);
}

/* All products of some tiles, [position][tile][vector]. */
INLINE void products_make(const qn_tile_row *row, int32_t first, const int tiles, const int vectors)
{
    const ptrdiff_t step = (ptrdiff_t)row->tile_bytes;
    const uint8_t *x = row->tiles + first * step;
    const int8_t *w = row->weights;
    const int32_t *start = row->start;
    int32_t *products = row->products;

    for (int position = 0; position < POSITIONS; position++) {
        const int32_t chunks = position / 4 == 2 || position % 4 == 2 ? row->few_chunks : row->chunks;
        int32x4_t acc[TILES * LANES];
#pragma GCC unroll 16
        for (int i = 0; i < tiles * vectors; i++) {
            acc[i] = vld1q_s32(start + LANES * (i % vectors));
        }
        w = chunks_add(acc, x, step, w, chunks, tiles, vectors);
#pragma GCC unroll 16
        for (int i = 0; i < tiles * vectors; i++) {
            vst1q_s32(products + LANES * i, acc[i]);
        }
        x += row->plane_bytes;
        start += LANES * vectors;
        products += LANES * tiles * vectors;
    }
}

/* Codes of one tile from its products. */
INLINE void outputs_make(const qn_tile_row *row, int32_t tile, const int32_t *products, size_t distance, const int vectors)
{
    const int width = LANES * vectors;
    int32x4_t y[4][4] = {{vdupq_n_s32(0)}}; /* [pixel][vector] */

#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        const int32x4_t shift = vnegq_s32(vld1q_s32(row->shift + LANES * v));
        int32x4_t sums[4];
        tile_inverse(products + LANES * v, distance, vld1q_s32(row->bias + LANES * v), sums);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            y[k][v] = vshlq_s32(sums[k], shift);
        }
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        const uint8x16_t codes = codes_saturate(y[k], row->q_min, row->q_max, row->is_signed);
        const int32_t pixel = 2 * tile + k % 2;
        uint8_t *out = row->out[k / 2], bytes[BYTES];
        if (out == NULL || pixel >= row->pixels) {
            continue;
        }
        out += pixel * row->out_step;
        if (row->channels == width) {
            bytes_store(out, codes, width);
        } else {
            vst1q_u8(bytes, codes);
            bytes_copy(out, bytes, row->channels, width);
        }
    }
}

/* Functions of their own, so that neither takes registers from the other. */
static __attribute__((noinline)) void products_run(const qn_tile_row *row, int32_t first, int32_t tiles)
{
    switch (row->vectors + (tiles == TILES ? 0 : 4)) {
    case 1:
        products_make(row, first, TILES, 1);
        break;
    case 2:
        products_make(row, first, TILES, 2);
        break;
    case 3:
        products_make(row, first, TILES, 3);
        break;
    case 4:
        products_make(row, first, TILES, 4);
        break;
    case 5:
        products_make(row, first, 1, 1);
        break;
    case 6:
        products_make(row, first, 1, 2);
        break;
    case 7:
        products_make(row, first, 1, 3);
        break;
    default:
        products_make(row, first, 1, 4);
        break;
    }
}

static __attribute__((noinline)) void outputs_run(const qn_tile_row *row, int32_t first, int32_t tiles)
{
    const size_t size = (size_t)(LANES * row->vectors), distance = (size_t)tiles * size;

    for (int32_t t = 0; t < tiles; t++) {
        const int32_t *products = row->products + (size_t)t * size;
        switch (row->vectors) {
        case 1:
            outputs_make(row, first + t, products, distance, 1);
            break;
        case 2:
            outputs_make(row, first + t, products, distance, 2);
            break;
        case 3:
            outputs_make(row, first + t, products, distance, 3);
            break;
        default:
            outputs_make(row, first + t, products, distance, 4);
            break;
        }
    }
}

/* Groups of tiles, the last of which may overlap the one before, or single tiles where a row is shorter than a group. */
static void winograd_dot_tiles(const qn_tile_row *row)
{
    const int32_t tiles = row->count < TILES ? 1 : TILES, last = row->count - tiles;

    for (int32_t t = 0; t < row->count; t += tiles) {
        products_run(row, t < last ? t : last, tiles);
        outputs_run(row, t < last ? t : last, tiles);
    }
}

/* Whether it takes fewer instructions than neon_dot: constants are counts for one tile, by vector, by 16 channels, or by both,
 * from runs of layers of 16 to 64 channels. */
static int winograd_dot_pays(const qn_host_conv *conv)
{
    const int32_t quarters[LANES] = {0, 2, 3, 4}; /* of a vector that what is left over costs neon_dot */
    const int32_t vectors = (conv->out_channels + LANES - 1) / LANES;
    const int32_t each = vectors > 2 ? 79 : 90; /* few vectors: codes are loaded more often */
    const int32_t direct = 4 * (conv->out_channels / LANES) + quarters[conv->out_channels % LANES];
    int32_t plain = 0, doubled = 0;

    for (int32_t s = 0; s < conv->source_count; s++) {
        const int32_t channels = (conv->source_channels[s] + 3) / 4 * 4;
        plain += conv->is_doubled[s] ? 0 : channels;
        doubled += conv->is_doubled[s] ? channels : 0;
    }
    return 4 * (vectors * (16 * 148 + each * plain + 44 * doubled) + 88 * plain + 48 * doubled) <
           direct * (16 * 54 + 178 * plain + 79 * doubled);
}

const qn_host_kernel qn_host_kernel_winograd_dot = {
    .name = "winograd_dot",
    .lanes = LANES,
    .max_vectors = 4,
    .min_split = 1,
    .max_split = 1,
    .is_signed = 1,
    .fits = qn_host_winograd_fits,
    .pays = winograd_dot_pays,
    .transform = winograd_dot_transform,
    .tiles = winograd_dot_tiles,
};

#else
typedef int qn_host_winograd_dot_is_left_out;
#endif
