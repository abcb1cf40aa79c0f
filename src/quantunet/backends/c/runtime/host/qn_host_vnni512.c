/* AVX-512 VNNI: 64 products of unsigned by signed bytes an instruction, added into 16 sums of 32 bits, which wrap. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <string.h>

#include "qn_host_vnni512.h"

/* A chunk of one pixel in every lane, or its parts in turn. */
INLINE __m512i chunk_broadcast(const uint8_t *bytes, const int split)
{
    int32_t bytes_4;
    int64_t bytes_8;

    if (split == 1) {
        memcpy(&bytes_4, bytes, 4);
        return _mm512_set1_epi32(bytes_4);
    }
    if (split == 2) {
        memcpy(&bytes_8, bytes, 8);
        return _mm512_set1_epi64(bytes_8);
    }
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)bytes));
}

/* Lanes (channel, part) of two groups of pixels to (group, channel, part / 2), neighbouring parts added. */
INLINE __m512i parts_add(__m512i a, __m512i b)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);

    return _mm512_add_epi32(_mm512_permutex2var_epi32(a, even, b), _mm512_permutex2var_epi32(a, odd, b));
}

/* Four vectors of accumulators to 64 codes in order; table[i] is the vector of the tables that belongs to acc[i]. */
INLINE __m512i codes_pack(const qn_row *row, const __m512i *acc, const int *table)
{
    __m512i code[4];

    for (int i = 0; i < 4; i++) {
        const __m512i shift = _mm512_loadu_si512(row->shift + LANES * table[i]);
        if (row->finish == QN_FINISH_MULTIPLY) {
            const __m512i multiplier = _mm512_loadu_si512(row->multiplier + LANES * table[i]);
            code[i] = multiply_shift(acc[i], multiplier, shift, row->q_min, row->q_max);
        } else {
            code[i] = _mm512_srav_epi32(acc[i], shift);
        }
    }
    return codes_saturate(code, row->q_min, row->q_max, row->is_signed);
}

/* 64 codes of 4 * split / vectors pixels to memory, of which the first `pixels` exist. */
INLINE void codes_store(const qn_row *row, uint8_t *out, __m512i codes, int32_t pixels, const int vectors,
                        const int split)
{
    const int32_t channels = row->pass->channels;
    const int width = vectors == 3 ? 64 : LANES * vectors / split; /* bytes of a pixel within `codes` */

    if (channels == width && row->out_step == width && pixels * width == 64) {
        _mm512_storeu_si512(out, codes);
    } else if (vectors >= 3) {
        _mm512_mask_storeu_epi8(out, ((__mmask64)~(uint64_t)0) >> (64 - channels), codes);
    } else if (vectors == 2 && channels == 32) { /* masked stores of bytes are slow */
        _mm256_storeu_si256((__m256i *)(void *)out, _mm512_castsi512_si256(codes));
        if (pixels > 1) {
            _mm256_storeu_si256((__m256i *)(void *)(out + row->out_step), _mm512_extracti64x4_epi64(codes, 1));
        }
    } else if (vectors == 2) {
        const __mmask32 mask = (__mmask32)(0xffffffffu >> (32 - channels));
        _mm256_mask_storeu_epi8(out, mask, _mm512_castsi512_si256(codes));
        if (pixels > 1) {
            _mm256_mask_storeu_epi8(out + row->out_step, mask, _mm512_extracti64x4_epi64(codes, 1));
        }
    } else if (split == 1 && channels == 16) {
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            if (p < pixels) {
                _mm_storeu_si128((__m128i *)(void *)(out + p * row->out_step), quarter(codes, p));
            }
        }
    } else if (split == 1) {
        const __mmask16 mask = (__mmask16)(0xffffu >> (16 - channels));
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            if (p < pixels) {
                _mm_mask_storeu_epi8(out + p * row->out_step, mask, quarter(codes, p));
            }
        }
    } else if (split == 2 && channels == 8 && pixels == 8) {
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            const __m128i two = quarter(codes, p);
            _mm_storel_epi64((__m128i *)(void *)(out + 2 * p * row->out_step), two);
            _mm_storel_epi64((__m128i *)(void *)(out + (2 * p + 1) * row->out_step), _mm_unpackhi_epi64(two, two));
        }
    } else {
        const __mmask16 mask = (__mmask16)(0xffffu >> (16 - channels));
        uint8_t bytes[64 + 16];
        _mm512_storeu_si512(bytes, codes);
        for (int32_t p = 0; p < pixels; p++) {
            const __m128i pixel = _mm_loadu_si128((const __m128i *)(const void *)(bytes + p * width));
            _mm_mask_storeu_epi8(out + p * row->out_step, mask, pixel);
        }
    }
}

INLINE void sums_store(const qn_row *row, uint8_t *out, __m512i acc, int32_t pixels, const int split, int vector)
{
    const int width = LANES / split;
    int32_t sums[LANES];
    int32_t channels = row->pass->channels - LANES * vector;

    channels = channels < width ? channels : width;
    _mm512_storeu_si512(sums, acc);
    for (int32_t p = 0; p < pixels; p++) {
        memcpy(out + p * row->out_step + 4 * LANES * vector, sums + p * width, 4 * (size_t)channels);
    }
}

/* With parts, compilers copy and spill the sums of the intrinsic: the instruction itself leaves them where they are. */
INLINE void product_add(__m512i *acc, __m512i codes, __m512i weight, const int split)
{
    if (split > 1) {
        __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(codes), "v"(weight));
    } else {
        *acc = _mm512_dpbusd_epi32(*acc, codes, weight);
    }
}

/* `pixels` pixels from the first on, at once. */
INLINE void tile_run(const qn_row *row, ptrdiff_t first, const int pixels, const int vectors, const int split)
{
    enum { GROUP = 4 };
    const int32_t segments = row->pass->segments;
    const int8_t *w = row->weights;
    uint8_t *out = row->out + first * row->out_step;
    __m512i acc[QN_MAX_VECTORS * GROUP * GROUP];

#pragma GCC unroll 16
    for (int i = 0; i < pixels * vectors; i++) {
        acc[i] = _mm512_loadu_si512(row->start + LANES * (i % vectors));
    }
    for (int32_t s = 0; s < segments; s++) {
        const ptrdiff_t step = row->segments[s].step, step_3 = 3 * step;
        const uint8_t *x = row->segments[s].base + first * step;
        const uint8_t *x4 = x + 4 * step, *x8 = x + 8 * step, *x12 = x8 + 4 * step;
        for (int32_t chunk = row->segments[s].chunks; chunk > 0; chunk--) {
            __m512i weight[QN_MAX_VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) {
                weight[v] = _mm512_loadu_si512(w + 64 * v);
            }
#pragma GCC unroll 16
            for (int p = 0; p < pixels; p++) {
                const uint8_t *group = p < 4 ? x : p < 8 ? x4 : p < 12 ? x8 : x12;
                const __m512i codes = chunk_broadcast(group + (p % 4 == 3 ? step_3 : p % 4 * step), split);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) {
                    product_add(&acc[p * vectors + v], codes, weight[v], split);
                }
            }
            w += 64 * vectors;
            x += 4 * split, x4 += 4 * split, x8 += 4 * split, x12 += 4 * split;
        }
    }
    if (split > 1) { /* only with one vector */
#pragma GCC unroll 16
        for (int i = 0; i < pixels; i += 2) {
            acc[i / 2] = parts_add(acc[i], acc[pixels == 1 ? 0 : i + 1]);
        }
    }
    if (split > 2) {
#pragma GCC unroll 16
        for (int i = 0; i < (pixels + 1) / 2; i += 2) {
            acc[i / 2] = parts_add(acc[i], acc[pixels == 1 ? 0 : i + 1]);
        }
    }
    const int count = (pixels * vectors + split - 1) / split; /* vectors that are left */
    if (row->finish == QN_FINISH_S32) {
        if (split == 4 && pixels == 16 && row->pass->channels == 1 && row->out_step == 4) { /* lane 0 of every four */
            const __m512i first_of_8 = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
            const __m512i low = _mm512_permutex2var_epi32(acc[0], first_of_8, acc[1]);
            const __m512i high = _mm512_permutex2var_epi32(acc[2], first_of_8, acc[3]);
            _mm512_storeu_si512(out, _mm512_inserti64x4(low, _mm512_castsi512_si256(high), 1));
            return;
        }
#pragma GCC unroll 16
        for (int i = 0; i < count; i++) {
            sums_store(row, out + i / vectors * split * row->out_step, acc[i], pixels < split ? pixels : split, split,
                       i % vectors);
        }
        return;
    }
    const int pack_step = vectors == 3 ? 3 : 4; /* three vectors: one pixel a pack */
    const int pack_pixels = vectors == 3 ? 1 : 4 * split / vectors;
#pragma GCC unroll 16
    for (int i = 0; i < count; i += pack_step) {
        __m512i four[4];
        int table[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const int index = i + j < count && j < pack_step ? i + j : i;
            four[j] = acc[index];
            table[j] = index % vectors;
        }
        codes_store(row, out, codes_pack(row, four, table), pixels < pack_pixels ? pixels : pack_pixels, vectors, split);
        out += pack_pixels * row->out_step;
    }
}

/* Whole tiles, then one that overlaps the last of them, then smaller ones where a row is shorter than a tile. */
INLINE void row_run(const qn_row *row, const int pixels, const int small, const int vectors, const int split)
{
    ptrdiff_t p = 0;

    for (; p + pixels <= row->pixels; p += pixels) {
        tile_run(row, p, pixels, vectors, split);
    }
    if (p < row->pixels && row->pixels >= pixels) {
        tile_run(row, row->pixels - pixels, pixels, vectors, split);
        return;
    }
    for (; p + small <= row->pixels; p += small) {
        tile_run(row, p, small, vectors, split);
    }
    for (; p < row->pixels; p++) {
        tile_run(row, p, 1, vectors, split);
    }
}

static void vnni512_row(const qn_row *row)
{
    switch (row->pass->vectors * 8 + row->pass->split) {
    case 8 + 1:
        row_run(row, 16, 4, 1, 1);
        break;
    case 8 + 2:
        row_run(row, 16, 8, 1, 2);
        break;
    case 8 + 4:
        row_run(row, 16, 16, 1, 4);
        break;
    case 16 + 1:
        row_run(row, 8, 2, 2, 1);
        break;
    case 24 + 1:
        row_run(row, 4, 1, 3, 1);
        break;
    default:
        row_run(row, 4, 1, 4, 1);
        break;
    }
}

const qn_host_kernel qn_host_kernel_vnni512 = {
    .name = "vnni512", .lanes = LANES, .max_vectors = 2, .min_split = 1, .max_split = 4, .row = vnni512_row,
};

#else
typedef int qn_host_vnni512_is_left_out;
#endif
