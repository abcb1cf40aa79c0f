/* Plain C, a loop that compilers turn into the machine's dot-product instruction. */
#include "qn_product.h"

/* Four filters and two pixels at a time. */
void qn_product_run(const qn_patch_code *patches, const qn_filter_code *filters, size_t length, int32_t filter_rows,
                    int32_t pixels, int32_t *acc)
{
    length = length / QN_LANES * QN_LANES; /* so the compiler sees the multiple */
    for (int32_t f = 0; f < filter_rows; f += 4) {
        const qn_filter_code *w0 = filters + (size_t)f * length, *w1 = w0 + length, *w2 = w1 + length, *w3 = w2 + length;
        for (int32_t p = 0; p < pixels; p += 2) {
            const qn_patch_code *x0 = patches + (size_t)p * length, *x1 = x0 + length;
            int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
            for (size_t k = 0; k < length; k++) {
                a0 += (int32_t)x0[k] * w0[k];
                a1 += (int32_t)x0[k] * w1[k];
                a2 += (int32_t)x0[k] * w2[k];
                a3 += (int32_t)x0[k] * w3[k];
                b0 += (int32_t)x1[k] * w0[k];
                b1 += (int32_t)x1[k] * w1[k];
                b2 += (int32_t)x1[k] * w2[k];
                b3 += (int32_t)x1[k] * w3[k];
            }
            int32_t *out = acc + p * filter_rows + f;
            out[0] = a0, out[1] = a1, out[2] = a2, out[3] = a3;
            out += filter_rows;
            out[0] = b0, out[1] = b1, out[2] = b2, out[3] = b3;
        }
    }
}
