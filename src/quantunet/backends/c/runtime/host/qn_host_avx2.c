/* AVX2, in two forms. Bytes: pairs of products in 16 bits (vpmaddubsw), exact where the widths prove that no pair leaves
 * them: 255 * 2 * 64, or 127 * 2 * 128. Wide: both operands are widened to 16 bits first, exact for every width. */
#if defined(__AVX2__)
#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

#include "qn_host_kernel.h"

#define INLINE static inline __attribute__((always_inline))

enum { LANES_256 = 8, PIXELS_256 = 4 };

/* Eight sums of four products each. */
INLINE __m256i products_add(__m256i acc, int32_t codes, __m256i weight, const int is_wide)
{
    const __m256i bytes = _mm256_set1_epi32(codes);

    if (is_wide) { /* even and odd bytes apart, as 16-bit numbers */
        const __m256i low = _mm256_set1_epi16(0x00ff);
        const __m256i even = _mm256_madd_epi16(_mm256_and_si256(bytes, low), _mm256_srai_epi16(_mm256_slli_epi16(weight, 8), 8));
        const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(bytes, 8), _mm256_srai_epi16(weight, 8));
        return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
    }
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, weight), _mm256_set1_epi16(1)));
}

INLINE void sums_finish(const qn_row *row, uint8_t *out, __m256i acc, int32_t vector)
{
    const int32_t *shift = row->shift + LANES_256 * vector;
    int32_t channels = row->pass->channels - LANES_256 * vector, sums[LANES_256];
    uint8_t bytes[LANES_256];

    channels = channels < LANES_256 ? channels : LANES_256;
    if (row->finish == QN_FINISH_SHIFT) {
        acc = _mm256_srav_epi32(acc, _mm256_loadu_si256((const __m256i *)(const void *)shift));
        acc = _mm256_max_epi32(acc, _mm256_set1_epi32(row->q_min));
        acc = _mm256_min_epi32(acc, _mm256_set1_epi32(row->q_max));
        const __m256i low_bytes = _mm256_shuffle_epi8(acc, _mm256_set1_epi32(0x0c080400));
        const int32_t low = _mm256_extract_epi32(low_bytes, 0), high = _mm256_extract_epi32(low_bytes, 4);
        memcpy(bytes, &low, 4);
        memcpy(bytes + 4, &high, 4);
        if (channels == LANES_256) {
            memcpy(out + LANES_256 * vector, bytes, LANES_256);
        } else {
            memcpy(out + LANES_256 * vector, bytes, (size_t)channels);
        }
        return;
    }
    _mm256_storeu_si256((__m256i *)(void *)sums, acc);
    for (int32_t k = 0; k < channels; k++) {
        const int32_t code = qn_host_finish_one(row, LANES_256 * vector + k, sums[k]);
        if (row->finish == QN_FINISH_S32) {
            memcpy(out + 4 * (LANES_256 * vector + k), &code, 4);
        } else {
            out[LANES_256 * vector + k] = (uint8_t)code;
        }
    }
}

INLINE void tile_run(const qn_row *row, ptrdiff_t first, const int pixels, const int vectors, const int is_wide)
{
    const int8_t *w = row->weights;
    __m256i acc[2 * PIXELS_256];

#pragma GCC unroll 8
    for (int i = 0; i < pixels * vectors; i++) {
        acc[i] = _mm256_loadu_si256((const __m256i *)(const void *)(row->start + LANES_256 * (i % vectors)));
    }
    for (int32_t s = 0; s < row->pass->segments; s++) {
        const ptrdiff_t step = row->segments[s].step;
        const uint8_t *x = row->segments[s].base + first * step;
        for (int32_t chunk = row->segments[s].chunks; chunk > 0; chunk--, x += 4, w += 4 * LANES_256 * vectors) {
            __m256i weight[2];
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) {
                weight[v] = _mm256_loadu_si256((const __m256i *)(const void *)(w + 4 * LANES_256 * v));
            }
#pragma GCC unroll 4
            for (int p = 0; p < pixels; p++) {
                int32_t codes;
                memcpy(&codes, x + p * step, 4);
#pragma GCC unroll 2
                for (int v = 0; v < vectors; v++) {
                    acc[p * vectors + v] = products_add(acc[p * vectors + v], codes, weight[v], is_wide);
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < pixels * vectors; i++) {
        sums_finish(row, row->out + (first + i / vectors) * row->out_step, acc[i], i % vectors);
    }
}

INLINE void row_run(const qn_row *row, const int vectors, const int is_wide)
{
    ptrdiff_t p = 0;

    for (; p + PIXELS_256 <= row->pixels; p += PIXELS_256) {
        tile_run(row, p, PIXELS_256, vectors, is_wide);
    }
    for (; p < row->pixels; p++) {
        tile_run(row, p, 1, vectors, is_wide);
    }
}

static void bytes_row(const qn_row *row)
{
    if (row->pass->vectors == 2) {
        row_run(row, 2, 0);
    } else {
        row_run(row, 1, 0);
    }
}

static void wide_row(const qn_row *row)
{
    if (row->pass->vectors == 2) {
        row_run(row, 2, 1);
    } else {
        row_run(row, 1, 1);
    }
}

/* Weights of a phase are sums of four at the most, and only those that fit a signed byte are used. */
static int bytes_fits(const qn_host_conv *conv)
{
    ptrdiff_t count = (ptrdiff_t)conv->out_channels * conv->kernel_height * conv->kernel_width;
    int32_t channels = 0, is_doubled = 0, largest = 0, most;

    for (int32_t s = 0; s < conv->source_count; s++) {
        channels += conv->source_channels[s];
        is_doubled |= conv->is_doubled[s];
    }
    for (ptrdiff_t k = 0; k < count * channels; k++) {
        largest = abs(conv->weight[k]) > largest ? abs(conv->weight[k]) : largest;
    }
    largest = is_doubled && 4 * largest < 128 ? 4 * largest : is_doubled ? 128 : largest;
    most = conv->is_signed_in ? 255 : conv->in_max;
    return 2 * most * largest <= INT16_MAX;
}

const qn_host_kernel qn_host_kernel_avx2 = {
    .name = "avx2", .lanes = LANES_256, .max_vectors = 2, .min_split = 1, .max_split = 1, .fits = bytes_fits, .row = bytes_row,
};
const qn_host_kernel qn_host_kernel_avx2_wide = {
    .name = "avx2_wide", .lanes = LANES_256, .max_vectors = 2, .min_split = 1, .max_split = 1, .row = wide_row,
};

#else
typedef int qn_host_avx2_is_left_out;
#endif
