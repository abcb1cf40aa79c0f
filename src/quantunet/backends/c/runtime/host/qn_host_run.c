/* One image to one mask: the steps in order, each by all threads at once where it has bands, else by the first. */
#include <string.h>

#include "qn_host_layer.h"
#include "qn_host_threads.h"

enum { ALIGNMENT = 64, QN_MAX_STEPS = 1024 };

typedef struct {
    const qn_host_program *program;
    uint8_t *memory, *mask;
    const uint8_t *image;
    int64_t scratch_bytes; /* of one thread */
    int32_t threads;
    qn_barrier barrier;
    int32_t next_band[QN_MAX_STEPS];
} qn_run;

static int64_t aligned(int64_t size_bytes)
{
    return (size_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Tensors that a step writes are the engine's own; the image is only read. */
static uint8_t *location(const qn_run *run, int64_t offset)
{
    return offset == QN_AT_MASK ? run->mask : run->memory == NULL ? NULL : run->memory + offset;
}

static const uint8_t *location_read(const qn_run *run, int64_t offset)
{
    return offset == QN_AT_IMAGE ? run->image : location(run, offset);
}

static qn_tensor tensor_of(const qn_run *run, int32_t index)
{
    const qn_host_tensor *tensor = &run->program->tensors[index];
    const qn_tensor result = {(uint8_t *)location_read(run, tensor->offset), (qn_storage)tensor->storage,
                              tensor->channels, tensor->height, tensor->width, tensor->height};
    return result;
}

static qn_scratch generic_scratch(const qn_run *run)
{
    const qn_scratch *offsets = &run->program->scratch_offsets;
    uint8_t *base = run->memory + aligned(run->program->arena_bytes);
    qn_scratch scratch;

    scratch.filters = (qn_filter_code *)(void *)(base + (uintptr_t)offsets->filters);
    scratch.patches = (qn_patch_code *)(void *)(base + (uintptr_t)offsets->patches);
    scratch.wide = (int32_t *)(void *)(base + (uintptr_t)offsets->wide);
    scratch.acc = (int32_t *)(void *)(base + (uintptr_t)offsets->acc);
    scratch.corrections = (int32_t *)(void *)(base + (uintptr_t)offsets->corrections);
    return scratch;
}

static qn_host_io io_of(const qn_run *run, const qn_host_step *step)
{
    const qn_host_tensor *tensors = run->program->tensors;
    const qn_host_conv *conv = &step->layer->conv;
    qn_host_io io;

    memset(&io, 0, sizeof io);
    for (int32_t s = 0; s < conv->source_count; s++) {
        io.source[s] = location_read(run, tensors[step->source[s]].offset);
    }
    io.height = tensors[step->source[0]].height << conv->is_doubled[0];
    io.width = tensors[step->source[0]].width << conv->is_doubled[0];
    if (conv->is_transposed) {
        io.out_height = 2 * io.height;
        io.out_width = 2 * io.width;
    } else {
        io.out_height = (io.height + 2 * conv->padding - conv->kernel_height) / conv->stride + 1;
        io.out_width = (io.width + 2 * conv->padding - conv->kernel_width) / conv->stride + 1;
    }
    io.out_channels = conv->out_channels;
    io.is_stored = step->target >= 0 && conv->head == QN_HEAD_NONE;
    io.is_pooled = step->pooled >= 0;
    io.target = step->target < 0 ? NULL : location(run, tensors[step->target].offset);
    io.pooled = step->pooled < 0 ? NULL : location(run, tensors[step->pooled].offset);
    return io;
}

/* A step that one thread does. */
static void step_run(const qn_run *run, const qn_host_step *step)
{
    const qn_tensor x = tensor_of(run, step->source[0]), out = tensor_of(run, step->target);
    const qn_rows all = {0, out.height};
    qn_scratch scratch;

    switch ((qn_step_kind)step->kind) {
    case QN_STEP_LAYER:
        break;
    case QN_STEP_CONV:
        scratch = generic_scratch(run);
        qn_conv2d_run(step->conv, &x, &out, all, &scratch);
        break;
    case QN_STEP_POOL:
        qn_maxpool2d_run(&x, &out, all);
        break;
    case QN_STEP_NEAREST:
        qn_nearest2d_upsample(&x, &out, all);
        break;
    case QN_STEP_BILINEAR:
        qn_bilinear2d_upsample(&x, step->requantize, &out, all);
        break;
    case QN_STEP_RESCALE:
        qn_codes_rescale(&x, step->requantize, &out, all);
        break;
    case QN_STEP_COPY:
        qn_channels_copy(&x, &out, step->first, all);
        break;
    case QN_STEP_THRESHOLD:
        qn_mask_threshold(&x, step->threshold, &out, all);
        break;
    case QN_STEP_ARGMAX:
        qn_mask_argmax(&x, &out, all);
        break;
    }
}

static void thread_run(void *argument, int32_t index)
{
    qn_run *run = argument;
    const qn_host_program *program = run->program;
    uint8_t *scratch = run->memory + aligned(program->arena_bytes) + aligned(program->generic_bytes) +
                       index * aligned(run->scratch_bytes);

    for (int32_t k = 0; k < program->step_count; k++) {
        const qn_host_step *step = &program->steps[k];
        if (step->kind == QN_STEP_LAYER) {
            const qn_host_io io = io_of(run, step);
            const qn_host_cut cut = qn_host_layer_cut(step->layer, &io, run->threads);
            int32_t band;
            while ((band = __atomic_fetch_add(&run->next_band[k], 1, __ATOMIC_RELAXED)) < cut.bands) {
                qn_host_layer_band(step->layer, &io, &cut, band, scratch);
            }
        } else if (index == 0) {
            step_run(run, step);
        }
        qn_barrier_wait(&run->barrier, run->threads);
    }
}

int64_t qn_host_scratch_bytes(const qn_host_program *program)
{
    qn_run run;
    int64_t most = 0;

    memset(&run, 0, sizeof run);
    run.program = program;
    for (int32_t k = 0; k < program->step_count; k++) {
        if (program->steps[k].kind == QN_STEP_LAYER) {
            const qn_host_io io = io_of(&run, &program->steps[k]);
            const int64_t bytes = (int64_t)qn_host_layer_cut(program->steps[k].layer, &io, 1).scratch_bytes;
            most = bytes > most ? bytes : most;
        }
    }
    return aligned(most);
}

void qn_host_run(const qn_host_program *program, uint8_t *memory, const uint8_t *image, uint8_t *mask, int32_t threads)
{
    qn_run run;

    memset(&run, 0, sizeof run);
    run.program = program;
    run.memory = memory;
    run.image = image;
    run.mask = mask;
    run.scratch_bytes = qn_host_scratch_bytes(program);
    run.threads = threads;
    qn_threads_run(thread_run, &run, &run.threads);
}
