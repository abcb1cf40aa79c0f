/* Winograd F(2x2, 3x3) with AVX-512 VNNI: 16 products of bytes in the place of 36, all integers, nothing rounded.
 *
 * Transformed inputs are sums of four codes, transformed weights are four times those of the textbook: both fit a byte
 * where qn_host_winograd_fits says so, and sums are four times the convolution's. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <string.h>

#include "qn_host_vnni512.h"

/* Masked stores of bytes are slow: whole vectors where their ends are free or `channels` is their size. */
INLINE void bytes_store(uint8_t *out, __m512i bytes, __mmask64 mask, const int width)
{
    if (width == 64) {
        _mm512_storeu_si512(out, bytes);
    } else if (width == 32) {
        _mm256_storeu_si256((__m256i *)(void *)out, _mm512_castsi512_si256(bytes));
    } else if (width == 16) {
        _mm_storeu_si128((__m128i *)(void *)out, _mm512_castsi512_si128(bytes));
    } else {
        _mm512_mask_storeu_epi8(out, mask, bytes);
    }
}

/* Up to 64 channels: columns slide along the row, so that each pixel is read once. */
INLINE void plain_transform(const qn_tile_input *input, int32_t first, const int width)
{
    const __m512i offset = _mm512_set1_epi8((char)128);
    const int32_t channels = input->channels;

    const int32_t left = channels - first;
    const __mmask64 mask = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
    const uint8_t *row_0 = input->row[0] + first, *row_1 = input->row[1] + first;
    const uint8_t *row_2 = input->row[2] + first, *row_3 = input->row[3] + first;
    uint8_t *out = input->out + first;
    __m512i v[4][4] = {{_mm512_setzero_si512()}};

    for (int32_t pixel = -2; pixel < 2 * input->count; pixel += 2) {
#pragma GCC unroll 2
        for (int j = 2; j < 4; j++) {
            const __m512i a = _mm512_maskz_loadu_epi8(mask, row_0), b = _mm512_maskz_loadu_epi8(mask, row_1);
            const __m512i c = _mm512_maskz_loadu_epi8(mask, row_2), d = _mm512_maskz_loadu_epi8(mask, row_3);
            v[0][j] = _mm512_sub_epi8(a, c);
            v[1][j] = _mm512_add_epi8(b, c);
            v[2][j] = _mm512_sub_epi8(c, b);
            v[3][j] = _mm512_sub_epi8(b, d);
            row_0 += channels, row_1 += channels, row_2 += channels, row_3 += channels;
        }
        if (pixel >= 0) {
            uint8_t *at = out;
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const __m512i sum = _mm512_add_epi8(v[i][1], v[i][2]);
                bytes_store(at, _mm512_xor_si512(_mm512_sub_epi8(v[i][0], v[i][2]), offset), mask, width);
                at += input->plane_bytes;
                bytes_store(at, i == 1 ? sum : _mm512_xor_si512(sum, offset), mask, width);
                at += input->plane_bytes;
                bytes_store(at, _mm512_xor_si512(_mm512_sub_epi8(v[i][2], v[i][1]), offset), mask, width);
                at += input->plane_bytes;
                bytes_store(at, _mm512_xor_si512(_mm512_sub_epi8(v[i][1], v[i][3]), offset), mask, width);
                at += input->plane_bytes;
            }
            out += input->tile_bytes;
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
    const __m512i offset = _mm512_set1_epi8((char)128);
    const int32_t channels = input->channels;

    const int32_t left = channels - first;
    const __mmask64 mask = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
    const uint8_t *row_0 = input->row[0] + first, *row_1 = input->row[1] + first, *row_2 = input->row[2] + first;
    uint8_t *out = input->out + first;
    __m512i v[3][3] = {{_mm512_setzero_si512()}};

    for (int32_t pixel = -2; pixel < input->count; pixel++) {
        const __m512i a = _mm512_maskz_loadu_epi8(mask, row_0), b = _mm512_maskz_loadu_epi8(mask, row_1);
        const __m512i c = _mm512_maskz_loadu_epi8(mask, row_2);
        v[0][2] = _mm512_sub_epi8(a, b);
        v[1][2] = _mm512_add_epi8(b, b);
        v[2][2] = _mm512_sub_epi8(b, c);
        row_0 += channels, row_1 += channels, row_2 += channels;
        if (pixel >= 0) {
#pragma GCC unroll 3
            for (int i = 0; i < 3; i++) {
                uint8_t *at = out + (size_t)(i == 2 ? 12 : 4 * i) * input->plane_bytes;
                const __m512i sum = _mm512_add_epi8(v[i][1], v[i][1]);
                bytes_store(at, _mm512_xor_si512(_mm512_sub_epi8(v[i][0], v[i][1]), offset), mask, width);
                at += input->plane_bytes;
                bytes_store(at, i == 1 ? sum : _mm512_xor_si512(sum, offset), mask, width);
                at += 2 * input->plane_bytes;
                bytes_store(at, _mm512_xor_si512(_mm512_sub_epi8(v[i][1], v[i][2]), offset), mask, width);
            }
            out += input->tile_bytes;
        }
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++) {
            v[i][0] = v[i][1];
            v[i][1] = v[i][2];
        }
    }
}

/* Sources come with the last bytes of a tile first, and so do their channels here: what a vector writes too much at the end
 * of a tile lies in the next tile, which is written later. */
static void winograd512_transform(const qn_tile_input *input)
{
    for (int32_t first = (input->channels - 1) / 64 * 64; first >= 0; first -= 64) {
        const int32_t left = input->channels - first;
        const int width = left >= 64 || input->is_last ? 64 : left == 32 || left == 16 ? left : 0;
        if (input->is_doubled) {
            width == 64   ? doubled_transform(input, first, 64)
            : width == 32 ? doubled_transform(input, first, 32)
            : width == 16 ? doubled_transform(input, first, 16)
                          : doubled_transform(input, first, 0);
        } else {
            width == 64   ? plain_transform(input, first, 64)
            : width == 32 ? plain_transform(input, first, 32)
            : width == 16 ? plain_transform(input, first, 16)
                          : plain_transform(input, first, 0);
        }
    }
}

/* Products of one position, for `tiles` tiles. */
INLINE void position_run(const uint8_t *x, size_t step, const int8_t *w, int32_t chunks, const int32_t *start,
                         __m512i *products, const int tiles, const int vectors)
{
    const uint8_t *x4 = x + 4 * step;
    __m512i acc[2 * QN_WINOGRAD_TILES];

#pragma GCC unroll 16
    for (int i = 0; i < tiles * vectors; i++) {
        acc[i] = _mm512_loadu_si512(start + LANES * (i % vectors));
    }
    for (; chunks > 0; chunks--, x += 4, x4 += 4, w += 64 * vectors) {
        __m512i weight[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            weight[v] = _mm512_loadu_si512(w + 64 * v);
        }
#pragma GCC unroll 8
        for (int t = 0; t < tiles; t++) {
            int32_t bytes;
            memcpy(&bytes, (t < 4 ? x : x4) + (size_t)(t % 4) * step, 4);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) {
                acc[t * vectors + v] = _mm512_dpbusd_epi32(acc[t * vectors + v], _mm512_set1_epi32(bytes), weight[v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < tiles * vectors; i++) {
        _mm512_storeu_si512(products + i, acc[i]);
    }
}

/* The 2x2 outputs of one tile and one vector from its 16 products, `distance` apart. */
INLINE void tile_inverse(const __m512i *m, size_t distance, __m512i bias, __m512i *y)
{
    __m512i top[4], bottom[4];

#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        const __m512i m1 = m[(4 + j) * distance], m2 = m[(8 + j) * distance];
        top[j] = _mm512_add_epi32(_mm512_add_epi32(m[j * distance], m1), m2);
        bottom[j] = _mm512_sub_epi32(_mm512_sub_epi32(m1, m2), m[(12 + j) * distance]);
    }
    const __m512i top_1 = _mm512_add_epi32(top[1], bias), bottom_1 = _mm512_add_epi32(bottom[1], bias);
    y[0] = _mm512_add_epi32(_mm512_add_epi32(top[0], top_1), top[2]);
    y[1] = _mm512_sub_epi32(_mm512_sub_epi32(top_1, top[2]), top[3]);
    y[2] = _mm512_add_epi32(_mm512_add_epi32(bottom[0], bottom_1), bottom[2]);
    y[3] = _mm512_sub_epi32(_mm512_sub_epi32(bottom_1, bottom[2]), bottom[3]);
}

/* Two pixels of 16 * vectors channels each. */
INLINE void pair_store(const qn_tile_row *row, uint8_t *out, __m512i codes, int32_t pixels, const int vectors)
{
    if (vectors == 2) {
        const __mmask32 mask = (__mmask32)(0xffffffffu >> (32 - row->channels));
        if (row->channels == 32 && row->out_step == 32 && pixels == 2) {
            _mm512_storeu_si512(out, codes);
            return;
        }
        if (row->channels == 32) {
            _mm256_storeu_si256((__m256i *)(void *)out, _mm512_castsi512_si256(codes));
            if (pixels == 2) {
                _mm256_storeu_si256((__m256i *)(void *)(out + row->out_step), _mm512_extracti64x4_epi64(codes, 1));
            }
            return;
        }
        _mm256_mask_storeu_epi8(out, mask, _mm512_castsi512_si256(codes));
        if (pixels == 2) {
            _mm256_mask_storeu_epi8(out + row->out_step, mask, _mm512_extracti64x4_epi64(codes, 1));
        }
    } else {
        const __mmask16 mask = (__mmask16)(0xffffu >> (16 - row->channels));
        if (row->channels == 16) {
            _mm_storeu_si128((__m128i *)(void *)out, quarter(codes, 0));
            if (pixels == 2) {
                _mm_storeu_si128((__m128i *)(void *)(out + row->out_step), quarter(codes, 1));
            }
            return;
        }
        _mm_mask_storeu_epi8(out, mask, quarter(codes, 0));
        if (pixels == 2) {
            _mm_mask_storeu_epi8(out + row->out_step, mask, quarter(codes, 1));
        }
    }
}

INLINE void group_run(const qn_tile_row *row, int32_t first, const int tiles, const int vectors)
{
    __m512i *products = (__m512i *)(void *)row->products;
    const int8_t *w = row->weights;
    const size_t distance = (size_t)(tiles * vectors);

    for (int position = 0; position < 16; position++) {
        const int32_t chunks = position / 4 == 2 || position % 4 == 2 ? row->few_chunks : row->chunks;
        position_run(row->tiles + (size_t)position * row->plane_bytes + (size_t)first * row->tile_bytes, row->tile_bytes,
                     w, chunks, row->start + LANES * vectors * position, products + (size_t)position * distance, tiles,
                     vectors);
        w += 64 * (ptrdiff_t)vectors * chunks;
    }
    for (int t = 0; t < tiles; t++) {
        const int32_t pixel = 2 * (first + t), pixels = row->pixels - pixel < 2 ? 1 : 2;
        __m512i y[2][4];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            const __m512i shift = _mm512_loadu_si512(row->shift + LANES * v);
            tile_inverse(products + t * vectors + v, distance, _mm512_loadu_si512(row->bias + LANES * v), y[v]);
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                y[v][k] = _mm512_srav_epi32(y[v][k], shift);
            }
        }
        if (vectors == 2) {
#pragma GCC unroll 2
            for (int k = 0; k < 2; k++) {
                const __m512i four[4] = {y[0][2 * k], y[1][2 * k], y[0][2 * k + 1], y[1][2 * k + 1]};
                if (row->out[k] != NULL) {
                    pair_store(row, row->out[k] + pixel * row->out_step,
                               codes_saturate(four, row->q_min, row->q_max, row->is_signed), pixels, 2);
                }
            }
        } else {
            const __m512i codes = codes_saturate(y[0], row->q_min, row->q_max, row->is_signed);
            pair_store(row, row->out[0] + pixel * row->out_step, codes, pixels, 1);
            if (row->out[1] != NULL) {
                pair_store(row, row->out[1] + pixel * row->out_step, _mm512_shuffle_i64x2(codes, codes, 0x4e), pixels, 1);
            }
        }
    }
}

INLINE void tile_row_run(const qn_tile_row *row, const int vectors)
{
    int32_t t = 0;

    for (; t + QN_WINOGRAD_TILES <= row->count; t += QN_WINOGRAD_TILES) {
        group_run(row, t, QN_WINOGRAD_TILES, vectors);
    }
    if (t < row->count && row->count >= QN_WINOGRAD_TILES) {
        group_run(row, row->count - QN_WINOGRAD_TILES, QN_WINOGRAD_TILES, vectors);
        return;
    }
    for (; t < row->count; t++) {
        group_run(row, t, 1, vectors);
    }
}

static void winograd512_tiles(const qn_tile_row *row)
{
    if (row->vectors == 2) {
        tile_row_run(row, 2);
    } else {
        tile_row_run(row, 1);
    }
}

static int winograd512_pays(const qn_host_conv *conv)
{
    return qn_host_winograd_pays(conv, LANES);
}

const qn_host_kernel qn_host_kernel_winograd512 = {
    .name = "winograd512",
    .lanes = LANES,
    .max_vectors = 2,
    .min_split = 1,
    .max_split = 1,
    .fits = qn_host_winograd_fits,
    .pays = winograd512_pays,
    .transform = winograd512_transform,
    .tiles = winograd512_tiles,
};

#else
typedef int qn_host_winograd512_is_left_out;
#endif
