/* Four unsigned codes c0, c1, c2, c3 in 1, 2 or 3 bytes, the lowest bits first.
 *
 *     2 bits   c0, c1, c2, c3
 *     4 bits   c0, c1, c2, c3
 *     6 bits   c0, c1, upper four bits of c3, c2, lower two bits of c3: c0 and c2 lie 16 bits apart, as lanes do
 */
#ifndef QN_PACKED_H
#define QN_PACKED_H

#include <stdint.h>

static inline int32_t qn_packed_code(uint32_t four, int32_t bits, int32_t index)
{
    if (bits == 6 && index >= 2) {
        return (int32_t)(index == 2 ? four >> 16 & 0x3f : (four >> 12 & 0xf) << 2 | four >> 22);
    }
    return (int32_t)(four >> (bits * index) & (((uint32_t)1 << bits) - 1));
}

/* Codes (first, second) of channels 0 and 1, or 2 and 3, of a four; the first pair goes first, as it clears what both
 * share. count: 1 where there is no second one, nor a byte for it. */
static inline void qn_packed_store(uint8_t *four, int32_t bits, int32_t is_upper, int32_t first, int32_t second,
                                   int32_t count)
{
    if (bits == 4) {
        four[is_upper] = (uint8_t)(first | second << 4);
    } else if (bits == 2) {
        const int32_t both = first | second << 2;
        four[0] = (uint8_t)(is_upper ? four[0] | both << 4 : both);
    } else if (is_upper) {
        four[1] = (uint8_t)(four[1] | (second >> 2) << 4);
        four[2] = (uint8_t)(first | second << 6);
    } else {
        four[0] = (uint8_t)(first | second << 6);
        if (count > 1) {
            four[1] = (uint8_t)(second >> 2);
        }
    }
}

#endif
