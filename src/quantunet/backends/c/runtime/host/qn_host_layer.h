/* A convolution with prepared weights, and how a band of its output rows is made. */
#ifndef QN_HOST_LAYER_H
#define QN_HOST_LAYER_H

#include "qn_host_kernel.h"

struct qn_host_layer {
    qn_host_conv conv; /* its pointers are not kept */
    const qn_host_kernel *kernel;
    int32_t in_channels;
    int32_t offset;    /* 128, -128 or 0: is added to codes so that they are bytes of the kernel's sign, by flipping a bit */
    int32_t is_phased; /* a 3x3 over doubled sources: four kernels of 2x2 on them as they are, one for each phase */
    qn_pass *passes;
    int32_t pass_count;
    int8_t *weights;
    size_t weight_bytes;
    int32_t *tables; /* starts, shifts, multipliers, `table_lanes` each */
    size_t table_lanes;
    qn_finish finish;
};

/* Where a layer reads and writes. */
typedef struct {
    const uint8_t *source[QN_MAX_SOURCES];
    int32_t height, width; /* of the input; a doubled source has half of it */
    int32_t is_stored, is_pooled;
    uint8_t *target, *pooled; /* the mask, where a head decides it */
    int32_t out_height, out_width, out_channels;
} qn_host_io;

/* How a layer is cut for one image size. */
typedef struct {
    int32_t rows; /* output rows of a band, even where a band must be */
    int32_t bands;
    int32_t row_count[QN_MAX_SOURCES]; /* rows of a source that a band holds */
    size_t row_bytes[QN_MAX_SOURCES], offset[QN_MAX_SOURCES];
    size_t out_offset, out_row_bytes; /* rows that are not stored as tensors, behind the sources */
    size_t tile_offset, tile_bytes, product_offset, plane_bytes; /* of Winograd, as are these */
    int32_t group_tiles, group_rows;
    size_t scratch_bytes;
} qn_host_cut;

/* More threads make smaller bands; one thread's take the most scratch. */
qn_host_cut qn_host_layer_cut(const qn_host_layer *layer, const qn_host_io *io, int32_t threads);

/* Output rows band * cut->rows and on. */
void qn_host_layer_band(const qn_host_layer *layer, const qn_host_io *io, const qn_host_cut *cut, int32_t band,
                        uint8_t *scratch);

/* Winograd: chunks of all positions; one output channel's weights and tables; the rows of a band; a band whose source rows
 * are gathered. */
size_t qn_host_winograd_chunks(const qn_host_conv *conv);
void qn_host_winograd_fill(qn_host_layer *layer, const qn_host_conv *conv, const qn_pass *pass, int32_t channel);
void qn_host_winograd_cut(const qn_host_layer *layer, const qn_host_io *io, int32_t threads, qn_host_cut *cut);
void qn_host_winograd_band(const qn_host_layer *layer, const qn_host_io *io, const qn_host_cut *cut, int32_t rows,
                           uint8_t *scratch, uint8_t *out, size_t out_row_bytes);

#endif
