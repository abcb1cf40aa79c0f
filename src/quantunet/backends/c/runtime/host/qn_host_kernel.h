/* What a kernel of the host engine is: the inner loop over one row of output pixels. One file and one line in
 * qn_host_kernels.c each. */
#ifndef QN_HOST_KERNEL_H
#define QN_HOST_KERNEL_H

#include "qn_host.h"

/* 64-bit Arm, whose vectors hold the first byte in the lowest lane. */
#if defined(__aarch64__) && defined(__ARM_NEON) && !defined(__AARCH64EB__)
#define QN_HAS_NEON
#if defined(__ARM_FEATURE_DOTPROD)
#define QN_HAS_NEON_DOT
#endif
#endif

enum { QN_MAX_SEGMENTS = 128, QN_MAX_VECTORS = 4, QN_ROW_SLACK_BYTES = 64 };

/* Bytes that lie side by side and are multiplied one after the other: for pixel p they begin at base + p * step. */
typedef struct {
    const uint8_t *base;
    ptrdiff_t step;
    int32_t chunks; /* of 4 * split bytes; bytes beyond the kernel's meet weights of 0 */
} qn_segment;

typedef enum { QN_FINISH_S32, QN_FINISH_SHIFT, QN_FINISH_MULTIPLY } qn_finish;

/* Some output channels of a layer: `vectors` vectors of `lanes / split` channels.
 *
 * A vector holds, for each chunk, lanes x 4 weights: lane (channel * split + part) has the weights of bytes
 * 4 * part to 4 * part + 3 of the chunk for that channel. */
typedef struct {
    int32_t first, channels; /* of the output row: byte or accumulator within a pixel, and how many */
    int32_t vectors, split;
    int32_t segments;
    int32_t row, column;     /* which pixels of a doubled layer: rows 2y + row, columns 2x + column */
    size_t weight_offset;    /* bytes into the layer's weights */
    size_t table_offset;     /* into the layer's tables, in lanes */
    int32_t run;             /* what the kernel's `run_length` says */
} qn_pass;

typedef struct {
    const qn_segment *segments;
    const qn_pass *pass;
    const int8_t *weights;     /* vectors x lanes x 4 bytes a chunk, segments one behind the other */
    const int32_t *start;      /* by lane: what sums begin with */
    const int32_t *shift;      /* by lane, after the parts are added up: pixel * (lanes / split) + channel */
    const int32_t *multiplier; /* likewise */
    qn_finish finish;
    int32_t q_min, q_max, is_signed;
    int32_t pixels;
    uint8_t *out;       /* the code or accumulator of channel `first` at the first pixel */
    ptrdiff_t out_step; /* bytes from pixel to pixel */
} qn_row;

/* A row of tiles of an exact integer Winograd F(2x2, 3x3): 4x4 input pixels make 2x2 output pixels by 16 products. */
typedef struct {
    const uint8_t *tiles; /* transformed input: [position][tile][tile_bytes], positions `plane_bytes` apart */
    size_t plane_bytes, tile_bytes;
    int32_t count;              /* of tiles */
    int32_t vectors, channels;  /* of this pass */
    int32_t chunks, few_chunks; /* of 4 bytes; few where a doubled source has nothing to add (row or column 2) */
    const int8_t *weights;      /* [position][chunk][vector][lane][4] */
    const int32_t *start;       /* [position][vector][lane]: takes off the offset of 128 */
    const int32_t *bias, *shift; /* of four times the sum */
    int32_t q_min, q_max, is_signed;
    int32_t pixels;   /* of the output row */
    uint8_t *out[2];  /* two output rows; the second may be NULL */
    ptrdiff_t out_step;
    int32_t *products; /* scratch: QN_WINOGRAD_PRODUCTS */
} qn_tile_row;

enum { QN_WINOGRAD_TILES = 8, QN_WINOGRAD_PRODUCTS = 16 * QN_WINOGRAD_TILES * 2 * 16 };

/* Input rows of one source to transformed tiles. A kernel of unsigned bytes adds 128 except for position (1, 1), one of signed
 * bytes takes 128 off there and nowhere else. */
typedef struct {
    const uint8_t *row[4]; /* of a doubled source three */
    int32_t channels, count, is_doubled;
    int32_t is_last; /* nothing of a tile lies behind it: vectors may write 64 bytes */
    uint8_t *out;
    size_t plane_bytes, tile_bytes;
} qn_tile_input;

typedef struct {
    const char *name;
    int32_t lanes;
    int32_t max_vectors, min_split, max_split;
    int32_t is_signed; /* multiplies signed bytes, not unsigned ones */
    int (*fits)(const qn_host_conv *conv); /* is exact; NULL: always */
    int (*pays)(const qn_host_conv *conv); /* is faster than those after it in the table; NULL: always */
    void (*row)(const qn_row *row);
    /* Of a kernel that adds up in 16 bits at first: for how many chunks that is exact with the weights of this pass and bytes
     * of that magnitude. */
    int32_t (*run_length)(const qn_pass *pass, const int8_t *weights, int32_t chunks, int32_t largest);
    void (*transform)(const qn_tile_input *input); /* of a Winograd kernel, in place of `row` */
    void (*tiles)(const qn_tile_row *row);
} qn_host_kernel;

extern const qn_host_kernel qn_host_kernel_winograd512, qn_host_kernel_vnni512, qn_host_kernel_avx2,
    qn_host_kernel_avx2_wide, qn_host_kernel_winograd_dot, qn_host_kernel_neon_dot, qn_host_kernel_neon, qn_host_kernel_portable;

/* The table, best first, NULL after the last. */
extern const qn_host_kernel *const qn_host_kernels[];

/* Whether Winograd is exact for these weights and inputs; and whether it is faster for a kernel of that many lanes. */
int qn_host_winograd_fits(const qn_host_conv *conv);
int qn_host_winograd_pays(const qn_host_conv *conv, int32_t lanes);

/* What becomes of one accumulator. */
int32_t qn_host_finish_one(const qn_row *row, int32_t lane, int32_t acc);

#endif
