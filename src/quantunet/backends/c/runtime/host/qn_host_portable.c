/* Rows in plain C, one output channel at a time: loops over bytes side by side, which compilers turn into the machine's
 * dot-product instruction. The kernel of every other processor, and what the others are compared with. */
#include <string.h>

#include "qn_host_kernel.h"

enum { PIXELS = 4, BLOCK = 32768 }; /* 255 * 128 * BLOCK stays below 2^31 */

/* sums[p] += bytes of pixel p times weights; sums may wrap on the way, the result does not. */
static void bytes_multiply(const uint8_t *x, ptrdiff_t step, const int8_t *w, int32_t count, uint32_t *sums)
{
    const uint8_t *x1 = x + step, *x2 = x1 + step, *x3 = x2 + step;
    int32_t a = 0, b = 0, c = 0, d = 0;

    for (int32_t k = 0; k < count; k++) {
        a += x[k] * w[k];
        b += x1[k] * w[k];
        c += x2[k] * w[k];
        d += x3[k] * w[k];
    }
    sums[0] += (uint32_t)a;
    sums[1] += (uint32_t)b;
    sums[2] += (uint32_t)c;
    sums[3] += (uint32_t)d;
}

static void pixels_run(const qn_row *row, int32_t first, int32_t pixels)
{
    const uint32_t start = (uint32_t)row->start[0];
    const int8_t *w = row->weights;
    uint32_t sums[PIXELS] = {start, start, start, start};

    for (int32_t s = 0; s < row->pass->segments; s++) {
        const qn_segment *segment = &row->segments[s];
        const ptrdiff_t step = pixels == PIXELS ? segment->step : 0;
        const uint8_t *x = segment->base + first * segment->step;
        for (int32_t done = 0, count = 4 * segment->chunks; done < count; done += BLOCK) {
            bytes_multiply(x + done, step, w + done, count - done < BLOCK ? count - done : BLOCK, sums);
        }
        w += 4 * segment->chunks;
    }
    for (int32_t p = 0; p < pixels; p++) {
        uint8_t *out = row->out + (first + p) * row->out_step;
        const int32_t code = qn_host_finish_one(row, 0, (int32_t)sums[p]);
        if (row->finish == QN_FINISH_S32) {
            memcpy(out, &code, 4);
        } else {
            out[0] = (uint8_t)code;
        }
    }
}

static void portable_row(const qn_row *row)
{
    int32_t p = 0;

    for (; p + PIXELS <= row->pixels; p += PIXELS) {
        pixels_run(row, p, PIXELS);
    }
    for (; p < row->pixels; p++) {
        pixels_run(row, p, 1);
    }
}

const qn_host_kernel qn_host_kernel_portable = {
    .name = "portable", .lanes = 1, .max_vectors = 1, .min_split = 1, .max_split = 1, .row = portable_row,
};
