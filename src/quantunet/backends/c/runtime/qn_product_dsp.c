/* Arm's DSP extension (Cortex-M4, M7, M33): SMLAD multiplies two pairs of 16-bit numbers and adds both products. */
#include <string.h>

#include "qn_lanes.h"
#include "qn_product.h"

typedef char qn_lanes_come_in_fours[QN_LANES % 4 == 0 && QN_PATCH_BITS == 16 ? 1 : -1];

static inline qn_word pair(const int16_t *codes)
{
    qn_word both;

    memcpy(&both, codes, sizeof both);
    return both;
}

/* Two filters and two pixels at a time. */
void qn_product_run(const qn_patch_code *patches, const qn_filter_code *filters, size_t length, int32_t filter_rows,
                    int32_t pixels, int32_t *acc)
{
    for (int32_t p = 0; p < pixels; p += 2) {
        const qn_patch_code *const begin = patches + (size_t)p * length, *const end = begin + length;
        const qn_filter_code *w0 = filters;
        int32_t *out = acc + p * filter_rows;
        for (int32_t f = 0; f < filter_rows; f += 2, out += 2) {
            const qn_filter_code *w1 = w0 + length;
            const qn_patch_code *x0 = begin, *x1 = end;
            int32_t a0 = 0, a1 = 0, b0 = 0, b1 = 0;
            while (x0 < end) {
                qn_word v0 = pair(x0), v1 = pair(x1), u0 = pair(w0), u1 = pair(w1);
                a0 = qn_lanes_multiply_add(v0, u0, a0);
                a1 = qn_lanes_multiply_add(v0, u1, a1);
                b0 = qn_lanes_multiply_add(v1, u0, b0);
                b1 = qn_lanes_multiply_add(v1, u1, b1);
                v0 = pair(x0 + 2), v1 = pair(x1 + 2), u0 = pair(w0 + 2), u1 = pair(w1 + 2);
                a0 = qn_lanes_multiply_add(v0, u0, a0);
                a1 = qn_lanes_multiply_add(v0, u1, a1);
                b0 = qn_lanes_multiply_add(v1, u0, b0);
                b1 = qn_lanes_multiply_add(v1, u1, b1);
                x0 += 4, x1 += 4, w0 += 4, w1 += 4;
            }
            out[0] = a0, out[1] = a1;
            out[filter_rows] = b0, out[filter_rows + 1] = b1;
            w0 = w1;
        }
    }
}
