/* memcpy and memset, for a compiler that comes without a C library; words where both addresses allow it. */
#include <stdint.h>
#include <string.h>

typedef uint32_t __attribute__((may_alias)) word;

void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
    uint8_t *out = to;
    const uint8_t *in = from;

    if ((((uintptr_t)out ^ (uintptr_t)in) & 3) == 0) {
        for (; count > 0 && ((uintptr_t)out & 3) != 0; count--) {
            *out++ = *in++;
        }
        for (; count >= 16; count -= 16, out += 16, in += 16) {
            const word a = ((const word *)in)[0], b = ((const word *)in)[1], c = ((const word *)in)[2],
                       d = ((const word *)in)[3];
            ((word *)out)[0] = a, ((word *)out)[1] = b, ((word *)out)[2] = c, ((word *)out)[3] = d;
        }
        for (; count >= 4; count -= 4, out += 4, in += 4) {
            *(word *)out = *(const word *)in;
        }
    }
    for (; count >= 4; count -= 4, out += 4, in += 4) {
        const uint8_t a = in[0], b = in[1], c = in[2], d = in[3];
        out[0] = a, out[1] = b, out[2] = c, out[3] = d;
    }
    for (; count > 0; count--) {
        *out++ = *in++;
    }
    return to;
}

void *memset(void *to, int value, size_t count)
{
    uint8_t *out = to;
    const word pattern = (uint8_t)value * 0x01010101u;

    for (; count > 0 && ((uintptr_t)out & 3) != 0; count--) {
        *out++ = (uint8_t)value;
    }
    for (; count >= 16; count -= 16, out += 16) {
        ((word *)out)[0] = pattern, ((word *)out)[1] = pattern, ((word *)out)[2] = pattern, ((word *)out)[3] = pattern;
    }
    for (; count > 0; count--) {
        *out++ = (uint8_t)value;
    }
    return to;
}
