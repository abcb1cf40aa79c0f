/* A small U-Net with pseudo-random weights through the host engine: for sanitizers and for counting instructions.
 *
 * host_program KERNEL THREADS TIMES: runs the image that many times, prints the kernels and a hash of the mask, which must
 * not depend on any of the three. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qn_host.h"

enum { HEIGHT = 64, WIDTH = 96, BASE = 16, LAYERS = 7 };

static uint32_t state = 12345;

static int32_t next_number(int32_t count)
{
    state = state * 1664525u + 1013904223u;
    return (int32_t)((state >> 8) % (uint32_t)count);
}

static qn_host_layer *layer_new(const char *kernel, int32_t transposed, int32_t out, int32_t size, int32_t first,
                                int32_t second, int32_t in_max, int32_t has_shift)
{
    static int8_t weight[64 * 9 * 64];
    static int32_t bias[64];
    static int8_t shift[64];
    qn_host_conv conv;

    for (size_t k = 0; k < sizeof weight; k++) {
        weight[k] = (int8_t)(next_number(15) - 7);
    }
    for (int32_t o = 0; o < 64; o++) {
        bias[o] = next_number(200) - 100;
        shift[o] = (int8_t)(5 + next_number(2));
    }
    memset(&conv, 0, sizeof conv);
    conv.weight = weight;
    conv.bias = bias;
    if (has_shift) {
        conv.requantize.shift = shift;
        conv.requantize.is_narrow = 1;
        conv.requantize.q_max = 63;
    } else {
        conv.head = QN_HEAD_THRESHOLD;
        conv.threshold = 20;
    }
    conv.out_channels = out;
    conv.kernel_height = conv.kernel_width = size;
    conv.stride = transposed ? 2 : 1;
    conv.padding = transposed ? 0 : size / 2;
    conv.is_transposed = transposed;
    conv.is_signed_out = !has_shift;
    conv.source_count = second > 0 ? 2 : 1;
    conv.source_channels[0] = first;
    conv.source_channels[1] = second;
    conv.is_doubled[1] = second > 0;
    conv.in_max = in_max;
    return qn_host_layer_new(&conv, kernel);
}

static qn_host_step step_of(const qn_host_layer *layer, int32_t first, int32_t second, int32_t target, int32_t pooled)
{
    qn_host_step step;

    memset(&step, 0, sizeof step);
    step.layer = layer;
    step.source[0] = first;
    step.source[1] = second;
    step.target = target;
    step.pooled = pooled;
    return step;
}

int main(int argc, char **argv)
{
    static uint8_t image[HEIGHT * WIDTH], mask[HEIGHT * WIDTH];
    const char *kernel = argc > 1 ? argv[1] : "portable";
    const int32_t threads = argc > 2 ? atoi(argv[2]) : 1, times = argc > 3 ? atoi(argv[3]) : 1;
    enum { IMAGE, SKIP, POOLED, LOW, WIDE, SMALL, UP, LAST, MASK, TENSORS };
    const int32_t channels[TENSORS] = {1, BASE, BASE, 3 * BASE, 2 * BASE, 2 * BASE, 8, 13, 1};
    qn_host_tensor tensors[TENSORS];
    qn_host_layer *layers[LAYERS];
    int64_t offset = 0;

    for (int32_t t = 0; t < TENSORS; t++) {
        const int32_t half = t == POOLED || t == LOW || t == SMALL ? 2 : 1;
        tensors[t] = (qn_host_tensor){offset, QN_U8, channels[t], HEIGHT / half, WIDTH / half};
        if (t == IMAGE || t == MASK) {
            tensors[t].offset = t == IMAGE ? QN_AT_IMAGE : QN_AT_MASK;
        } else {
            offset += (int64_t)HEIGHT * WIDTH / half / half * channels[t];
        }
    }
    layers[0] = layer_new(kernel, 0, BASE, 3, 1, 0, 255, 1);
    layers[1] = layer_new(kernel, 0, 3 * BASE, 3, BASE, 0, 63, 1);
    layers[2] = layer_new(kernel, 0, 2 * BASE, 3, BASE, 3 * BASE, 63, 1); /* skip and doubled */
    layers[3] = layer_new(kernel, 0, 2 * BASE, 3, 3 * BASE, 0, 63, 1);
    layers[4] = layer_new(kernel, 1, 8, 2, 2 * BASE, 0, 63, 1);
    layers[5] = layer_new(kernel, 0, 13, 3, 2 * BASE, 0, 63, 1);
    layers[6] = layer_new(kernel, 0, 1, 1, 13, 0, 63, 0);
    for (int32_t k = 0; k < LAYERS; k++) {
        if (layers[k] == NULL) {
            printf("no kernel %s\n", kernel);
            return 2;
        }
    }
    const qn_host_step steps[LAYERS] = {
        step_of(layers[0], IMAGE, 0, SKIP, POOLED), step_of(layers[1], POOLED, 0, LOW, -1),
        step_of(layers[2], SKIP, LOW, WIDE, -1),    step_of(layers[3], LOW, 0, SMALL, -1),
        step_of(layers[4], SMALL, 0, UP, -1),       step_of(layers[5], WIDE, 0, LAST, -1),
        step_of(layers[6], LAST, 0, MASK, -1),
    };
    qn_host_program program = {tensors, steps, LAYERS, {NULL, NULL, NULL, NULL, NULL}, offset, 0};
    const size_t size = (size_t)(offset + 64 + 64 + qn_host_scratch_bytes(&program) * threads);
    uint8_t *memory = aligned_alloc(64, (size + 63) / 64 * 64);

    if (memory == NULL) {
        return 3;
    }
    memset(memory, 0, (size + 63) / 64 * 64);
    for (size_t k = 0; k < sizeof image; k++) {
        image[k] = (uint8_t)next_number(256);
    }
    for (int32_t k = 0; k < times; k++) {
        qn_host_run(&program, memory, image, mask, threads);
    }
    uint32_t hash = 2166136261u, ones = 0;
    for (int64_t k = 0; k < (int64_t)sizeof mask + offset; k++) { /* the mask, then every code of the arena */
        const uint8_t value = k < (int64_t)sizeof mask ? mask[k] : memory[k - (int64_t)sizeof mask];
        hash = (hash ^ value) * 16777619u;
        ones += k < (int64_t)sizeof mask && value;
    }
    for (int32_t k = 0; k < LAYERS; k++) {
        printf("%s ", qn_host_layer_kernel(layers[k]));
        qn_host_layer_free(layers[k]);
    }
    printf("\n%08x %u ones\n", hash, ones);
    free(memory);
    return 0;
}
