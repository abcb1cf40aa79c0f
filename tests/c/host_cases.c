/* Recorded calls of the host engine on another processor: host_cases CALLS RESULTS.
 *
 * CALLS holds, call after call, two 64-bit numbers, the bytes of a block and how many of its words are pointers, then the block,
 * which begins with a qn_case and whose pointers count from its start, then where these pointers lie. RESULTS is given for
 * each: the names of its kernels, 16 bytes each, the mask, and all bytes of the arena. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qn_host.h"

enum { ALIGNMENT = 64, NAME_BYTES = 16 };

typedef struct {
    const char *kernel; /* NULL: the best */
    const qn_host_conv *convs;
    const uint8_t *image;
    int64_t conv_count, mask_bytes, threads, times;
    qn_host_program program; /* its steps hold layers by index, from 1 */
} qn_case;

static size_t aligned(int64_t size_bytes)
{
    return ((size_t)size_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void *memory_new(size_t size_bytes)
{
    void *memory = aligned_alloc(ALIGNMENT, size_bytes + ALIGNMENT);

    if (memory == NULL) {
        exit(3);
    }
    return memset(memory, 0, size_bytes + ALIGNMENT);
}

static void bytes_read(void *out, size_t count, FILE *file)
{
    if (fread(out, 1, count, file) != count) {
        exit(4);
    }
}

static void case_run(qn_case *item, FILE *results)
{
    qn_host_program *program = &item->program;
    qn_host_layer **layers = memory_new((size_t)item->conv_count * sizeof *layers / ALIGNMENT * ALIGNMENT + ALIGNMENT);
    qn_host_step *steps = memory_new(aligned(program->step_count * (int64_t)sizeof *steps));
    uint8_t *mask = memory_new(aligned(item->mask_bytes));

    for (int64_t k = 0; k < item->conv_count; k++) {
        char name[NAME_BYTES] = "";
        layers[k] = qn_host_layer_new(&item->convs[k], item->kernel);
        if (layers[k] == NULL) {
            exit(5);
        }
        strncpy(name, qn_host_layer_kernel(layers[k]), NAME_BYTES - 1);
        fwrite(name, 1, NAME_BYTES, results);
    }
    for (int32_t k = 0; k < program->step_count; k++) {
        steps[k] = program->steps[k];
        steps[k].layer = steps[k].layer == NULL ? NULL : layers[(uintptr_t)steps[k].layer - 1];
    }
    program->steps = steps;
    const size_t scratch = aligned(qn_host_scratch_bytes(program)) * (size_t)item->threads;
    uint8_t *memory = memory_new(aligned(program->arena_bytes) + aligned(program->generic_bytes) + scratch);
    for (int64_t k = 0; k < item->times; k++) {
        qn_host_run(program, memory, item->image, mask, (int32_t)item->threads);
    }
    fwrite(mask, 1, (size_t)item->mask_bytes, results);
    fwrite(memory, 1, (size_t)program->arena_bytes, results);
    for (int64_t k = 0; k < item->conv_count; k++) {
        qn_host_layer_free(layers[k]);
    }
    free(layers);
    free(steps);
    free(mask);
    free(memory);
}

int main(int argc, char **argv)
{
    FILE *calls = argc == 3 ? fopen(argv[1], "rb") : NULL, *results = argc == 3 ? fopen(argv[2], "wb") : NULL;
    int64_t sizes[2];

    if (calls == NULL || results == NULL) {
        return 2;
    }
    while (fread(sizes, sizeof sizes, 1, calls) == 1) {
        uint8_t *block = memory_new(aligned(sizes[0]));
        bytes_read(block, (size_t)sizes[0], calls);
        for (int64_t k = 0; k < sizes[1]; k++) {
            int64_t at;
            uintptr_t pointer;
            bytes_read(&at, sizeof at, calls);
            memcpy(&pointer, block + at, sizeof pointer);
            pointer += (uintptr_t)block;
            memcpy(block + at, &pointer, sizeof pointer);
        }
        case_run((qn_case *)(void *)block, results);
        free(block);
    }
    fclose(calls);
    return fclose(results);
}
