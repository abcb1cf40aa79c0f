/* Two 16-bit lanes in a 32-bit word, and the loop that multiplies them: Arm's DSP instructions where there are such.
 *
 * Without them the same in C: for a test of the kernels on another machine, under sanitizers.
 */
#ifndef QN_LANES_H
#define QN_LANES_H

#include <stdint.h>

typedef int32_t __attribute__((may_alias)) qn_word;

#ifdef __ARM_FEATURE_DSP
#include <arm_acle.h>

static inline qn_word qn_lanes_add(qn_word a, qn_word b)
{
    return __sadd16(a, b);
}

static inline qn_word qn_lanes_subtract(qn_word a, qn_word b)
{
    return __ssub16(a, b);
}

/* Bytes 0 and 2 of a word as lanes. */
static inline qn_word qn_lanes_of_bytes(uint32_t bytes, int32_t is_signed)
{
    return is_signed ? __sxtb16((int32_t)bytes) : (int32_t)__uxtb16(bytes);
}

/* sum + a0 b0 + a1 b1; sums wrap. */
static inline int32_t qn_lanes_multiply_add(qn_word a, qn_word b, int32_t sum)
{
    return __smlad(a, b, sum);
}

/* 11 instructions for 16 products: of four channels of two tiles with two filters. */
#define QN_MULTIPLY_FOUR                  \
    "ldmia %[u]!, {r4, r5, r6, r8}\n"     \
    "ldrd r9, r10, [%[v]], #8\n"          \
    "smlad %[a], r9, r4, %[a]\n"          \
    "smlad %[b], r9, r5, %[b]\n"          \
    "smlad %[c], r10, r4, %[c]\n"         \
    "smlad %[d], r10, r5, %[d]\n"         \
    "ldrd r9, r10, [%[v]], #8\n"          \
    "smlad %[a], r9, r6, %[a]\n"          \
    "smlad %[b], r9, r8, %[b]\n"          \
    "smlad %[c], r10, r6, %[c]\n"         \
    "smlad %[d], r10, r8, %[d]\n"
#define QN_MULTIPLY_LOOP(body)                                                                                      \
    __asm__ volatile("1:\n" body "subs %[n], #1\n"                                                                  \
                     "bne 1b"                                                                                       \
                     : [u] "+r"(u), [v] "+r"(v), [n] "+r"(n), [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d)    \
                     :                                                                                              \
                     : "r4", "r5", "r6", "r8", "r9", "r10", "cc", "memory")

#else

static inline qn_word qn_lanes_join(uint32_t low, uint32_t high)
{
    return (qn_word)((low & 0xffff) | high << 16);
}

static inline qn_word qn_lanes_add(qn_word a, qn_word b)
{
    return qn_lanes_join((uint32_t)a + (uint32_t)b, ((uint32_t)a >> 16) + ((uint32_t)b >> 16));
}

static inline qn_word qn_lanes_subtract(qn_word a, qn_word b)
{
    return qn_lanes_join((uint32_t)a - (uint32_t)b, ((uint32_t)a >> 16) - ((uint32_t)b >> 16));
}

static inline qn_word qn_lanes_of_bytes(uint32_t bytes, int32_t is_signed)
{
    const uint8_t low = (uint8_t)bytes, high = (uint8_t)(bytes >> 16);

    return is_signed ? qn_lanes_join((uint32_t)(int8_t)low, (uint32_t)(int8_t)high) : qn_lanes_join(low, high);
}

static inline int32_t qn_lanes_multiply_add(qn_word a, qn_word b, int32_t sum)
{
    const int32_t low = (int16_t)a * (int16_t)b, high = (int16_t)(a >> 16) * (int16_t)(b >> 16);

    return (int32_t)((uint32_t)sum + (uint32_t)low + (uint32_t)high);
}
#endif

/* The products of `fours` fours of channels, at least one, added to the sums if `adds`: of tile 0 with both filters, then of tile 1.
 * Weights, of each four: first filter (c0, c2), second (c0, c2), first (c1, c3), second (c1, c3); inputs likewise. */
static inline void qn_lanes_multiply(const qn_word **weights, const qn_word **inputs, int32_t fours,
                                     int32_t adds, int32_t sums[4])
{
    const qn_word *u = *weights, *v = *inputs;
    int32_t a = adds ? sums[0] : 0, b = adds ? sums[1] : 0, c = adds ? sums[2] : 0, d = adds ? sums[3] : 0;

#ifdef __ARM_FEATURE_DSP
    if (fours % 4 == 0) {
        int32_t n = fours / 4;
        QN_MULTIPLY_LOOP(QN_MULTIPLY_FOUR QN_MULTIPLY_FOUR QN_MULTIPLY_FOUR QN_MULTIPLY_FOUR);
    } else {
        int32_t n = fours;
        QN_MULTIPLY_LOOP(QN_MULTIPLY_FOUR);
    }
#else
    for (int32_t n = 0; n < 2 * fours; n++, u += 2, v += 2) {
        a = qn_lanes_multiply_add(v[0], u[0], a);
        b = qn_lanes_multiply_add(v[0], u[1], b);
        c = qn_lanes_multiply_add(v[1], u[0], c);
        d = qn_lanes_multiply_add(v[1], u[1], d);
    }
#endif
    *weights = u;
    *inputs = v;
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}

#endif
