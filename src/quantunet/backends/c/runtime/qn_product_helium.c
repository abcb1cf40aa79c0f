/* Helium (Cortex-M55, M85): VMLADAVA multiplies 16 pairs of signed bytes and adds all products to a 32-bit sum. */
#include <arm_mve.h>

#include "qn_product.h"

typedef char qn_lanes_come_in_sixteens[QN_LANES % 16 == 0 && QN_PATCH_SIGNED ? 1 : -1];

/* Two filters and two pixels at a time. */
void qn_product_run(const qn_patch_code *patches, const qn_filter_code *filters, size_t length, int32_t filter_rows,
                    int32_t pixels, int32_t *acc)
{
    for (int32_t p = 0; p < pixels; p += 2, patches += 2 * length) {
        const qn_filter_code *w0 = filters;
        int32_t *near = acc + p * filter_rows, *far = near + filter_rows;
        for (int32_t f = filter_rows; f > 0; f -= 2) {
            const qn_patch_code *x0 = patches, *x1 = patches + length;
            const qn_filter_code *w1 = w0 + length;
            int32_t a0 = 0, a1 = 0, b0 = 0, b1 = 0, k = (int32_t)(length / 16);
            do {
                const int8x16_t v0 = vldrbq_s8(x0), v1 = vldrbq_s8(x1), u0 = vldrbq_s8(w0), u1 = vldrbq_s8(w1);
                a0 = vmladavaq_s8(a0, v0, u0);
                a1 = vmladavaq_s8(a1, v0, u1);
                b0 = vmladavaq_s8(b0, v1, u0);
                b1 = vmladavaq_s8(b1, v1, u1);
                x0 += 16, x1 += 16, w0 += 16, w1 += 16;
            } while (--k > 0);
            w0 = w1;
            *near++ = a0, *near++ = a1;
            *far++ = b0, *far++ = b1;
        }
    }
}
