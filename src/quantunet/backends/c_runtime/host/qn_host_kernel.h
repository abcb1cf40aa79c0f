/* What a kernel of the host engine is: the inner loop over one row of output pixels. One file and one line in
 * qn_host_kernels.c each. */
#ifndef QN_HOST_KERNEL_H
#define QN_HOST_KERNEL_H

#include "qn_host.h"

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

typedef struct {
    const char *name;
    int32_t lanes;
    int32_t max_vectors, max_split;
    int (*fits)(const qn_host_conv *conv); /* NULL: always exact */
    void (*row)(const qn_row *row);
} qn_host_kernel;

extern const qn_host_kernel qn_host_kernel_vnni512, qn_host_kernel_portable;

/* The table, best first, NULL after the last. */
extern const qn_host_kernel *const qn_host_kernels[];

/* What becomes of one accumulator. */
int32_t qn_host_finish_one(const qn_row *row, int32_t lane, int32_t acc);

#endif
