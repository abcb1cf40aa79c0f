/* Rows in plain C: the kernel of every other processor, and what the others are compared with. */
#include <string.h>

#include "qn_host_kernel.h"

enum { LANES = 4, PIXELS = 2 };

static void pixels_run(const qn_row *row, int32_t first, int32_t pixels)
{
    const qn_pass *pass = row->pass;
    const int8_t *w = row->weights;
    uint32_t acc[PIXELS][LANES]; /* unsigned: sums may wrap on the way, the result does not */

    for (int32_t p = 0; p < PIXELS; p++) {
        for (int32_t lane = 0; lane < LANES; lane++) {
            acc[p][lane] = (uint32_t)row->start[lane];
        }
    }
    for (int32_t s = 0; s < pass->segments; s++) {
        const uint8_t *a = row->segments[s].base + first * row->segments[s].step;
        const uint8_t *b = a + (pixels - 1) * row->segments[s].step;
        for (int32_t chunk = row->segments[s].chunks; chunk > 0; chunk--, a += 4, b += 4, w += 4 * LANES) {
            for (int32_t lane = 0; lane < LANES; lane++) {
                const int8_t *v = w + 4 * lane;
                acc[0][lane] += (uint32_t)(a[0] * v[0] + a[1] * v[1] + a[2] * v[2] + a[3] * v[3]);
                acc[1][lane] += (uint32_t)(b[0] * v[0] + b[1] * v[1] + b[2] * v[2] + b[3] * v[3]);
            }
        }
    }
    for (int32_t p = 0; p < pixels; p++) {
        uint8_t *out = row->out + (first + p) * row->out_step;
        for (int32_t lane = 0; lane < pass->channels; lane++) {
            const int32_t code = qn_host_finish_one(row, lane, (int32_t)acc[p][lane]);
            if (row->finish == QN_FINISH_S32) {
                memcpy(out + 4 * lane, &code, 4);
            } else {
                out[lane] = (uint8_t)code;
            }
        }
    }
}

static void portable_row(const qn_row *row)
{
    for (int32_t p = 0; p < row->pixels; p += PIXELS) {
        pixels_run(row, p, row->pixels - p < PIXELS ? 1 : PIXELS);
    }
}

const qn_host_kernel qn_host_kernel_portable = {"portable", LANES, 1, 1, NULL, portable_row};
