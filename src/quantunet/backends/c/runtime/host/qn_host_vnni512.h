/* From sums to codes with AVX-512, for the kernels of that family. */
#ifndef QN_HOST_VNNI512_H
#define QN_HOST_VNNI512_H

#include <immintrin.h>

#include "qn_host_kernel.h"

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16 };

INLINE __m512i multiply_shift(__m512i acc, __m512i multiplier, __m512i shift, int32_t least, int32_t largest)
{
    const __m512i low = _mm512_set1_epi64(0xffffffff), one = _mm512_set1_epi64(1);
    const __m512i q_min = _mm512_set1_epi64(least), q_max = _mm512_set1_epi64(largest);
    const __m512i shift_even = _mm512_and_si512(shift, low), shift_odd = _mm512_srli_epi64(shift, 32);
    __m512i even = _mm512_mul_epi32(acc, multiplier);
    __m512i odd = _mm512_mul_epi32(_mm512_srli_epi64(acc, 32), _mm512_srli_epi64(multiplier, 32));

    even = _mm512_add_epi64(even, _mm512_srli_epi64(_mm512_sllv_epi64(one, shift_even), 1));
    odd = _mm512_add_epi64(odd, _mm512_srli_epi64(_mm512_sllv_epi64(one, shift_odd), 1));
    even = _mm512_max_epi64(_mm512_srav_epi64(even, shift_even), q_min);
    odd = _mm512_max_epi64(_mm512_srav_epi64(odd, shift_odd), q_min);
    even = _mm512_min_epi64(even, q_max);
    odd = _mm512_min_epi64(odd, q_max);
    return _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
}

/* Four vectors of 32-bit codes, not yet in range, to 64 bytes in order, saturated. */
INLINE __m512i codes_saturate(const __m512i *code, int32_t q_min, int32_t q_max, int32_t is_signed)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i low = _mm512_packs_epi32(code[0], code[1]), high = _mm512_packs_epi32(code[2], code[3]);
    __m512i bytes;

    if (is_signed) {
        bytes = _mm512_min_epi8(_mm512_packs_epi16(low, high), _mm512_set1_epi8((char)q_max));
        bytes = _mm512_max_epi8(bytes, _mm512_set1_epi8((char)q_min));
    } else { /* q_min is 0 */
        bytes = _mm512_min_epu8(_mm512_packus_epi16(low, high), _mm512_set1_epi8((char)q_max));
    }
    return _mm512_permutexvar_epi32(order, bytes);
}

INLINE __m128i quarter(__m512i codes, const int index)
{
    return index == 0   ? _mm512_castsi512_si128(codes)
           : index == 1 ? _mm512_extracti32x4_epi32(codes, 1)
           : index == 2 ? _mm512_extracti32x4_epi32(codes, 2)
                        : _mm512_extracti32x4_epi32(codes, 3);
}

#endif
