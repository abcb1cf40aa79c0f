/* Products by Armv8.2's dot product, for the kernels of that family. */
#ifndef QN_HOST_NEON_DOT_H
#define QN_HOST_NEON_DOT_H

#include "qn_host_neon.h"

/* Compilers copy and spill the sums of the intrinsic, vdotq_laneq_s32: the instruction itself leaves them where they are. */
#define SDOT(acc, weight, codes, lane) \
    __asm__("sdot %0.4s, %1.16b, %2.4b[" #lane "]" : "+w"(acc) : "w"(weight), "w"(codes))

/* Chunk `index` of `codes` times the weights. */
INLINE int32x4_t product_add(int32x4_t acc, int8x16_t weight, int8x16_t codes, const int index)
{
    if (index == 0) {
        SDOT(acc, weight, codes, 0);
    } else if (index == 1) {
        SDOT(acc, weight, codes, 1);
    } else if (index == 2) {
        SDOT(acc, weight, codes, 2);
    } else {
        SDOT(acc, weight, codes, 3);
    }
    return acc;
}

/* Some chunks, four at the most, of all pixels and vectors. */
INLINE void some_chunks_add(int32x4_t *acc, const uint8_t *x, ptrdiff_t step, const int8_t *w, const int chunks,
                            const int pixels, const int vectors)
{
    int8x16_t codes[8];

#pragma GCC unroll 8
    for (int p = 0; p < pixels; p++) {
        if (chunks == 4) {
            codes[p] = vreinterpretq_s8_u8(vld1q_u8(x + p * step));
        } else {
            uint32_t four;
            memcpy(&four, x + p * step, 4);
            codes[p] = vreinterpretq_s8_u32(vsetq_lane_u32(four, vdupq_n_u32(0), 0));
        }
    }
#pragma GCC unroll 4
    for (int chunk = 0; chunk < chunks; chunk++) {
        const int8x16x4_t weights = weights_read(w + 16 * chunk * vectors, vectors);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
#pragma GCC unroll 8
            for (int p = 0; p < pixels; p++) {
                acc[p * vectors + v] = product_add(acc[p * vectors + v], weights.val[v], codes[p], chunk);
            }
        }
    }
}

/* All chunks that lie side by side. Gives the weights behind theirs. */
INLINE const int8_t *chunks_add(int32x4_t *acc, const uint8_t *x, ptrdiff_t step, const int8_t *w, int32_t chunks,
                                const int pixels, const int vectors)
{
    for (; chunks >= 4; chunks -= 4, x += 16, w += 64 * vectors) {
        some_chunks_add(acc, x, step, w, 4, pixels, vectors);
    }
    for (; chunks > 0; chunks--, x += 4, w += 16 * vectors) {
        some_chunks_add(acc, x, step, w, 1, pixels, vectors);
    }
    return w;
}

#endif
