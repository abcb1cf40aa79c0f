/* What surrounds the products, by Helium: codes moved by 128, accumulators to codes. */
#ifndef QN_HELIUM_H
#define QN_HELIUM_H

#include <arm_mve.h>
#include <stdint.h>

/* Copies `count` bytes, 16 at a time, and adds `offset` to each: 128 or 0. */
static inline void qn_helium_copy(uint8_t *to, const uint8_t *from, int32_t count, uint8_t offset)
{
    const uint8x16_t offsets = vdupq_n_u8(offset);

    for (; count > 0; count -= 16, to += 16, from += 16) {
        const mve_pred16_t live = vctp8q((uint32_t)count);
        vstrbq_p_u8(to, veorq_u8(vldrbq_z_u8(from, live), offsets), live);
    }
}

/* A stage with is_narrow, four accumulators at a time: (acc - correction + bias) shifted right, half upwards, and
 * limited, as bytes. */
static inline void qn_helium_finish(const int32_t *acc, const int32_t *corrections, const int32_t *bias,
                                    const int8_t *shift, int32_t q_min, int32_t q_max, int32_t count, int8_t *out)
{
    const int32x4_t low = vdupq_n_s32(q_min), high = vdupq_n_s32(q_max);

    for (; count > 0; count -= 4, acc += 4, corrections += 4, bias += 4, shift += 4, out += 4) {
        const mve_pred16_t live = vctp32q((uint32_t)count);
        int32x4_t code = vsubq_s32(vldrwq_z_s32(acc, live), vldrwq_z_s32(corrections, live));
        code = vaddq_s32(code, vldrwq_z_s32(bias, live));
        code = vrshlq_s32(code, vnegq_s32(vldrbq_z_s32(shift, live)));
        vstrbq_p_s32(out, vminq_s32(vmaxq_s32(code, low), high), live);
    }
}

#endif
