/* NEON without dot products: signed bytes are multiplied into 16 bits (smull, smlal), and these added in pairs into 32 bits
 * (sadalp). A vector holds 16 bytes of one channel.
 *
 * How many products 16 bits hold follows from the weights of a pass: many of few bits, two of all pairs of bytes but -128
 * times -128 twice over, always one. */
#if defined(__ARM_NEON) && defined(__aarch64__)
#include <stdlib.h>

#include "qn_host_neon.h"

/* LONG_RUN: chunks from which on it pays to keep sums of 16 bits beside those of 32. */
enum { BYTES = 16, CHANNELS = 4, PIXELS = 4, LONG_RUN = 6 };
typedef enum { ONE_PRODUCT, TWO_PRODUCTS, LONG_RUNS } qn_form;

INLINE int32x4_t chunk_add(int32x4_t acc, int8x16_t codes, int8x16_t weight, const qn_form form)
{
    const int16x8_t low = vmull_s8(vget_low_s8(codes), vget_low_s8(weight));

    if (form == TWO_PRODUCTS) {
        return vpadalq_s16(acc, vmlal_high_s8(low, codes, weight));
    }
    return vpadalq_s16(vpadalq_s16(acc, low), vmull_high_s8(codes, weight));
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
#pragma GCC unroll 4
                for (int c = 0; c < channels; c++) {
                    const int8x16_t weight = vld1q_s8(w + BYTES * c);
#pragma GCC unroll 4
                    for (int p = 0; p < pixels; p++) {
                        const int i = p * channels + c;
                        if (form == LONG_RUNS) {
                            few[i] = vmlal_s8(few[i], vget_low_s8(codes[p]), vget_low_s8(weight));
                            few[i] = vmlal_high_s8(few[i], codes[p], weight);
                        } else {
                            acc[i] = chunk_add(acc[i], codes[p], weight, form);
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

/* Whole tiles, then one that overlaps the last of them, or single pixels where a row is shorter than a tile. */
INLINE void row_run(const qn_row *given, const int channels, const qn_form form)
{
    const qn_row copy = *given, *row = &copy; /* which stores of codes leave as it is */
    int32_t shift[CHANNELS] = {0}, multiplier[CHANNELS] = {0};
    ptrdiff_t p = 0;

    for (int c = 0; c < channels; c++) {
        shift[c] = row->shift[LANES * c];
        multiplier[c] = row->multiplier[LANES * c];
    }
    const qn_neon_table table = table_of(shift, multiplier);
    for (; p + PIXELS <= row->pixels; p += PIXELS) {
        tile_run(row, p, PIXELS, channels, form, table);
    }
    if (p < row->pixels && row->pixels >= PIXELS) {
        tile_run(row, row->pixels - PIXELS, PIXELS, channels, form, table);
        return;
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
