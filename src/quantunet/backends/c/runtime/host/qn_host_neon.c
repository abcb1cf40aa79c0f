/* NEON without dot products: signed bytes are multiplied into 16 bits (smull, smlal), and these added in pairs into 32 bits
 * (sadalp). A vector holds 16 bytes of one channel.
 *
 * How many products 16 bits hold follows from the weights of a pass: many of few bits, two of all pairs of bytes but -128
 * times -128 twice over, always one. */
#include "qn_host_kernel.h"

#if defined(QN_HAS_NEON)
#include <stdlib.h>

#include "qn_host_neon.h"

/* LONG_RUN: chunks from which on it pays to keep sums of 16 bits beside those of 32. */
enum { BYTES = 16, CHANNELS = 4, PIXELS = 4, LONG_RUN = 6 };
typedef enum { ONE_PRODUCT, TWO_PRODUCTS, LONG_RUNS } qn_form;

/* A chunk of one pixel or, `apart` sums from it, of two, in one piece: compilers begin so many products at a time that sums
 * no longer fit the registers. */
INLINE void chunk_add(int32x4_t *acc, int apart, const int8x16_t *codes, int8x16_t weight, const int pixels,
                      const qn_form form)
{
    int16x8_t first, second;

    if (form == TWO_PRODUCTS && pixels == 2) {
        __asm__("smull %2.8h, %4.8b, %6.8b\n\tsmull %3.8h, %5.8b, %6.8b\n\t"
                "smlal2 %2.8h, %4.16b, %6.16b\n\tsmlal2 %3.8h, %5.16b, %6.16b\n\t"
                "sadalp %0.4s, %2.8h\n\tsadalp %1.4s, %3.8h"
                : "+w"(acc[0]), "+w"(acc[apart]), "=&w"(first), "=&w"(second)
                : "w"(codes[0]), "w"(codes[1]), "w"(weight));
    } else if (form == TWO_PRODUCTS) {
        first = vmlal_high_s8(vmull_s8(vget_low_s8(codes[0]), vget_low_s8(weight)), codes[0], weight);
        acc[0] = vpadalq_s16(acc[0], first);
    } else if (pixels == 2) {
        __asm__("smull %2.8h, %4.8b, %6.8b\n\tsmull %3.8h, %5.8b, %6.8b\n\t"
                "sadalp %0.4s, %2.8h\n\tsadalp %1.4s, %3.8h\n\t"
                "smull2 %2.8h, %4.16b, %6.16b\n\tsmull2 %3.8h, %5.16b, %6.16b\n\t"
                "sadalp %0.4s, %2.8h\n\tsadalp %1.4s, %3.8h"
                : "+w"(acc[0]), "+w"(acc[apart]), "=&w"(first), "=&w"(second)
                : "w"(codes[0]), "w"(codes[1]), "w"(weight));
    } else {
        acc[0] = vpadalq_s16(acc[0], vmull_s8(vget_low_s8(codes[0]), vget_low_s8(weight)));
        acc[0] = vpadalq_s16(acc[0], vmull_high_s8(codes[0], weight));
    }
}

INLINE void sums_run(const qn_row *row, ptrdiff_t first, const int pixels, const int channels, const qn_form form,
                     int32x4_t *acc)
{
    const int8_t *w = row->weights;
    const int32_t run = form == LONG_RUNS ? row->pass->run : INT32_MAX;
    int32_t room = run;
    int16x8_t few[PIXELS * CHANNELS];

#pragma GCC unroll 16
    for (int i = 0; i < pixels * channels; i++) {
        few[i] = vdupq_n_s16(0);
    }
    for (int32_t s = 0; s < row->pass->segments; s++) {
        const ptrdiff_t step = row->segments[s].step;
        const uint8_t *x = row->segments[s].base + first * step;
        for (int32_t left = row->segments[s].chunks; left > 0;) {
            int32_t chunk = left < room ? left : room;
            left -= chunk;
            room -= chunk;
            for (; chunk > 0; chunk--, x += BYTES, w += BYTES * channels) {
                int8x16_t codes[PIXELS];
#pragma GCC unroll 4
                for (int p = 0; p < pixels; p++) {
                    codes[p] = vreinterpretq_s8_u8(vld1q_u8(x + p * step));
                }
                const int8x16x4_t weights = weights_read(w, channels);
#pragma GCC unroll 4
                for (int c = 0; c < channels; c++) {
                    const int8x16_t weight = weights.val[c];
                    if (form == LONG_RUNS) {
#pragma GCC unroll 4
                        for (int p = 0; p < pixels; p++) {
                            int16x8_t *sum = &few[p * channels + c];
                            *sum = vmlal_s8(*sum, vget_low_s8(codes[p]), vget_low_s8(weight));
                            *sum = vmlal_high_s8(*sum, codes[p], weight);
                        }
                    } else {
#pragma GCC unroll 4
                        for (int p = 0; p < pixels; p += 2) {
                            chunk_add(acc + p * channels + c, channels, codes + p, weight, pixels < 2 ? 1 : 2, form);
                        }
                    }
                }
            }
            if (form == LONG_RUNS && room == 0) {
#pragma GCC unroll 16
                for (int i = 0; i < pixels * channels; i++) {
                    acc[i] = vpadalq_s16(acc[i], few[i]);
                    few[i] = vdupq_n_s16(0);
                }
                room = run;
            }
        }
    }
    if (form == LONG_RUNS && room < run) {
#pragma GCC unroll 16
        for (int i = 0; i < pixels * channels; i++) {
            acc[i] = vpadalq_s16(acc[i], few[i]);
        }
    }
}

/* Sums of four channels of some pixels, one vector a pixel. */
INLINE void sums_finish(const qn_row *row, uint8_t *out, const int32x4_t *sums, int32_t pixels, qn_neon_table table)
{
    const qn_neon_table tables[PIXELS] = {table, table, table, table};

    if (row->finish == QN_FINISH_S32) {
        for (int32_t p = 0; p < pixels; p++) {
            sums_store(row, out + p * row->out_step, sums[p], 1, CHANNELS, 0);
        }
        return;
    }
    codes_store(row, out, codes_pack(row, sums, tables), pixels, CHANNELS);
}

INLINE void tile_run(const qn_row *row, ptrdiff_t first, const int pixels, const int channels, const qn_form form,
                     qn_neon_table table)
{
    int32x4_t acc[PIXELS * CHANNELS], sums[PIXELS];

#pragma GCC unroll 16
    for (int i = 0; i < pixels * channels; i++) {
        acc[i] = vld1q_s32(row->start + LANES * (i % channels));
    }
    sums_run(row, first, pixels, channels, form, acc);
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; p++) { /* four channels of a pixel side by side */
        const int32x4_t *of_pixel = acc + (p < pixels ? p : 0) * channels, none = vdupq_n_s32(0);
        const int32x4_t low = vpaddq_s32(of_pixel[0], channels > 1 ? of_pixel[1] : none);
        const int32x4_t high = channels > 2 ? vpaddq_s32(of_pixel[2], channels > 3 ? of_pixel[3] : none) : none;
        sums[p] = vpaddq_s32(low, high);
    }
    sums_finish(row, row->out + first * row->out_step, sums, pixels, table);
}

/* Tiles, the last of which may overlap the one before, or single pixels where a row is shorter than a tile. */
INLINE void row_run(const qn_row *given, const int channels, const qn_form form)
{
    const qn_row copy = *given, *row = &copy; /* which stores of codes leave as it is */
    int32_t shift[CHANNELS] = {0}, multiplier[CHANNELS] = {0};
    const ptrdiff_t last = row->pixels - PIXELS;
    ptrdiff_t p = 0;

    for (int c = 0; c < channels; c++) {
        shift[c] = row->shift[LANES * c];
        multiplier[c] = row->multiplier[LANES * c];
    }
    const qn_neon_table table = table_of(shift, multiplier);
    for (; p < row->pixels && last >= 0; p += PIXELS) {
        tile_run(row, p < last ? p : last, PIXELS, channels, form, table);
    }
    for (; p < row->pixels; p++) {
        tile_run(row, p, 1, channels, form, table);
    }
}

INLINE void form_run(const qn_row *row, const int channels)
{
    if (row->pass->run >= LONG_RUN) {
        row_run(row, channels, LONG_RUNS);
    } else if (row->pass->run > 0) {
        row_run(row, channels, TWO_PRODUCTS);
    } else {
        row_run(row, channels, ONE_PRODUCT);
    }
}

static void neon_row(const qn_row *row)
{
    switch (row->pass->vectors) {
    case 1:
        form_run(row, 1);
        break;
    case 2:
        form_run(row, 2);
        break;
    case 3:
        form_run(row, 3);
        break;
    default:
        form_run(row, CHANNELS);
        break;
    }
}

/* Whether runs of that many chunks stay within 16 bits: bytes k and k + 8 of a chunk meet in one sum. */
static int run_fits(const qn_pass *pass, const int8_t *weights, int32_t chunks, int32_t run, int32_t largest)
{
    const ptrdiff_t chunk_bytes = (ptrdiff_t)BYTES * pass->vectors;

    for (int32_t first = 0; first < chunks; first += run) {
        const int32_t end = chunks - first < run ? chunks : first + run;
        for (ptrdiff_t k = 0; k < chunk_bytes; k++) {
            int64_t sum = 0;
            for (int32_t chunk = first; chunk < end && k % BYTES < 8; chunk++) {
                const int8_t *w = weights + chunk * chunk_bytes + k;
                sum += abs(w[0]) + abs(w[8]);
            }
            if (sum * largest > INT16_MAX) {
                return 0;
            }
        }
    }
    return 1;
}

static int32_t neon_run_length(const qn_pass *pass, const int8_t *weights, int32_t chunks, int32_t largest)
{
    int32_t run = chunks;

    while (run > 0 && !run_fits(pass, weights, chunks, run, largest)) {
        run = run == 1 ? 0 : (run + 1) / 2;
    }
    return run;
}

const qn_host_kernel qn_host_kernel_neon = {
    .name = "neon",
    .lanes = LANES,
    .max_vectors = CHANNELS,
    .min_split = 4,
    .max_split = 4,
    .is_signed = 1,
    .row = neon_row,
    .run_length = neon_run_length,
};

#else
typedef int qn_host_neon_is_left_out;
#endif
