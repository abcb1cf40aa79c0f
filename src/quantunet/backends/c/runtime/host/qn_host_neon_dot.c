/* Armv8.2 dot product: 16 products of signed bytes an instruction, added into four sums of 32 bits, which wrap. One operand
 * is a vector of weights, four channels by four bytes; the other four bytes of a pixel, any four of a vector. */
#include "qn_host_kernel.h"

#if defined(QN_HAS_NEON_DOT)
#include "qn_host_neon_dot.h"

/* A chunk whose parts are multiplied lane by lane, twice over where there are two. */
INLINE int8x16_t parts_read(const uint8_t *bytes, const int split)
{
    if (split == 2) {
        uint64_t two;
        memcpy(&two, bytes, 8);
        return vreinterpretq_s8_u64(vdupq_n_u64(two));
    }
    return vreinterpretq_s8_u8(vld1q_u8(bytes));
}

INLINE void tile_run(const qn_row *row, ptrdiff_t first, const int pixels, const int vectors, const int split,
                     const qn_neon_table *tables)
{
    const int8_t *w = row->weights;
    uint8_t *out = row->out + first * row->out_step;
    int32x4_t acc[4 * LANES];

#pragma GCC unroll 16
    for (int i = 0; i < pixels * vectors; i++) {
        acc[i] = vld1q_s32(row->start + LANES * (i % vectors));
    }
    for (int32_t s = 0; s < row->pass->segments; s++) {
        const ptrdiff_t step = row->segments[s].step;
        const uint8_t *x = row->segments[s].base + first * step;
        const int32_t chunks = row->segments[s].chunks;
        if (split == 1) {
            w = chunks_add(acc, x, step, w, chunks, pixels, vectors);
            continue;
        }
        for (int32_t chunk = chunks; chunk > 0; chunk--, x += 4 * split, w += 16) {
            const int8x16_t weight = vld1q_s8(w);
#pragma GCC unroll 16
            for (int p = 0; p < pixels; p++) {
                acc[p] = vdotq_s32(acc[p], weight, parts_read(x + p * step, split));
            }
        }
    }
    if (split > 1) { /* neighbouring parts of two pixels, or of one, added; only with one vector */
#pragma GCC unroll 8
        for (int i = 0; i < pixels; i += 2) {
            acc[i / 2] = vpaddq_s32(acc[i], acc[pixels == 1 ? 0 : i + 1]);
        }
    }
    if (split > 2) {
#pragma GCC unroll 8
        for (int i = 0; i < (pixels + 1) / 2; i += 2) {
            acc[i / 2] = vpaddq_s32(acc[i], acc[pixels == 1 ? 0 : i + 1]);
        }
    }
    const int count = (pixels * vectors + split - 1) / split; /* vectors that are left */
    if (row->finish == QN_FINISH_S32) {
#pragma GCC unroll 16
        for (int i = 0; i < count; i++) {
            sums_store(row, out + i / vectors * split * row->out_step, acc[i], pixels < split ? pixels : split,
                       LANES / split, LANES * (i % vectors));
        }
        return;
    }
    const int pack_step = vectors == 3 ? 3 : 4; /* three vectors: one pixel a pack */
    const int pack_pixels = vectors == 3 ? 1 : 4 * split / vectors;
#pragma GCC unroll 4
    for (int i = 0; i < count; i += pack_step) {
        int32x4_t four[4];
        qn_neon_table table[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const int index = i + j < count && j < pack_step ? i + j : i;
            four[j] = acc[index];
            table[j] = tables[index % vectors];
        }
        codes_store(row, out, codes_pack(row, four, table), pixels < pack_pixels ? pixels : pack_pixels,
                    LANES * (vectors == 3 ? 4 : vectors) / split);
        out += pack_pixels * row->out_step;
    }
}

/* Tiles, the last of which may overlap the one before, or single pixels where a row is shorter than a tile. */
INLINE void row_run(const qn_row *given, const int pixels, const int vectors, const int split)
{
    const qn_row copy = *given, *row = &copy; /* which stores of codes leave as it is */
    const ptrdiff_t last = row->pixels - pixels;
    qn_neon_table tables[QN_MAX_VECTORS];
    ptrdiff_t p = 0;

    for (int v = 0; v < vectors; v++) {
        tables[v] = table_of(row->shift + LANES * v, row->multiplier + LANES * v);
    }
    for (; p < row->pixels && last >= 0; p += pixels) {
        tile_run(row, p < last ? p : last, pixels, vectors, split, tables);
    }
    for (; p < row->pixels; p++) {
        tile_run(row, p, 1, vectors, split, tables);
    }
}

static void neon_dot_row(const qn_row *row)
{
    switch (row->pass->vectors * 8 + row->pass->split) {
    case 8 + 1:
        row_run(row, 8, 1, 1);
        break;
    case 8 + 2:
        row_run(row, 8, 1, 2);
        break;
    case 8 + 4:
        row_run(row, 16, 1, 4);
        break;
    case 16 + 1:
        row_run(row, 8, 2, 1);
        break;
    case 24 + 1:
        row_run(row, 4, 3, 1);
        break;
    default:
        row_run(row, 4, 4, 1);
        break;
    }
}

const qn_host_kernel qn_host_kernel_neon_dot = {
    .name = "neon_dot", .lanes = LANES, .max_vectors = 4, .min_split = 1, .max_split = 4, .is_signed = 1, .row = neon_dot_row,
};

#else
typedef int qn_host_neon_dot_is_left_out;
#endif
