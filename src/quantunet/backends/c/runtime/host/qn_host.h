/* The engine on a host: convolutions with prepared weights, in bands of rows, by one or several threads.
 *
 * None of this is part of an exported project. Codes and results are those of qn_runtime.h, bit for bit.
 */
#ifndef QN_HOST_H
#define QN_HOST_H

#include "qn_codes.h"
#include "qn_runtime.h"

enum { QN_MAX_SOURCES = 4, QN_AT_IMAGE = -1, QN_AT_MASK = -2 };

/* A convolution before its weights are prepared. Sources are the tensors that it reads side by side as channels, in
 * order; a doubled one is read as if each of its pixels were a 2x2 block. */
typedef struct {
    const int8_t *weight; /* (out, kernel row, kernel column, in); transposed: (out, 2, 2, in) */
    const int32_t *bias;
    qn_requantize requantize; /* shift NULL: 32-bit accumulators */
    int32_t out_channels, kernel_height, kernel_width, stride, padding;
    int32_t is_transposed; /* 2x2, stride 2 */
    int32_t is_signed_in, is_signed_out;
    int32_t source_count;
    int32_t source_channels[QN_MAX_SOURCES], is_doubled[QN_MAX_SOURCES];
    int32_t in_max; /* the largest magnitude of an input code */
    qn_head head;
    int64_t threshold;
} qn_host_conv;

typedef struct qn_host_layer qn_host_layer;

/* Prepares the weights for the kernel of that name where it is exact, else (or for NULL) for the best. NULL: no memory, or
 * no kernel of that name. */
qn_host_layer *qn_host_layer_new(const qn_host_conv *conv, const char *kernel);
void qn_host_layer_free(qn_host_layer *layer);
const char *qn_host_layer_kernel(const qn_host_layer *layer);
size_t qn_host_layer_bytes(const qn_host_layer *layer);

/* Names of the kernels that this library holds, best first; NULL after the last. */
const char *qn_host_kernel_name(int32_t index);

typedef struct {
    int64_t offset; /* in bytes into the arena, or QN_AT_IMAGE, QN_AT_MASK */
    int32_t storage, channels, height, width;
} qn_host_tensor;

typedef enum {
    QN_STEP_LAYER,   /* a prepared convolution */
    QN_STEP_CONV,    /* any other: qn_conv2d_run */
    QN_STEP_POOL,
    QN_STEP_NEAREST,
    QN_STEP_BILINEAR,
    QN_STEP_RESCALE,
    QN_STEP_COPY,    /* into channels first, first + 1, ... of a concatenation */
    QN_STEP_THRESHOLD,
    QN_STEP_ARGMAX
} qn_step_kind;

typedef struct {
    int32_t kind;
    int32_t source[QN_MAX_SOURCES]; /* tensors by index */
    int32_t target, pooled;         /* -1: not stored */
    int32_t first;
    int64_t threshold;
    const qn_host_layer *layer;
    const qn_conv2d *conv;
    const qn_requantize *requantize;
} qn_host_step;

typedef struct {
    const qn_host_tensor *tensors;
    const qn_host_step *steps;
    int32_t step_count;
    qn_scratch scratch_offsets; /* pointers hold offsets into the generic scratch, which follows the arena */
    int64_t arena_bytes, generic_bytes;
} qn_host_program;

/* Bytes of scratch that each thread needs for this program. */
int64_t qn_host_scratch_bytes(const qn_host_program *program);

/* One image to one mask. `memory` holds the arena, the generic scratch, then the scratch of each thread, each rounded up
 * to 64 bytes, and starts on 64 bytes. Reentrant: another call needs another memory. */
void qn_host_run(const qn_host_program *program, uint8_t *memory, const uint8_t *image, uint8_t *mask, int32_t threads);

#endif
