/* Weights and tables of a layer, expanded and laid out once as its kernel reads them. */
#define _POSIX_C_SOURCE 200809L

#include "qn_host_layer.h"

#include <stdlib.h>
#include <string.h>

enum { SIGN_OFFSET = 128 };

static int32_t round_up(int32_t value, int32_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

static int32_t chunk_count(int32_t bytes, int32_t split)
{
    return round_up(bytes, 4 * split) / (4 * split);
}

static int32_t kernel_rows(const qn_host_layer *layer, int32_t source)
{
    return layer->is_phased && layer->conv.is_doubled[source] ? 2 : layer->conv.is_transposed ? 1 : layer->conv.kernel_height;
}

static int32_t kernel_columns(const qn_host_layer *layer, int32_t source)
{
    return layer->is_phased && layer->conv.is_doubled[source] ? 2 : layer->conv.is_transposed ? 1 : layer->conv.kernel_width;
}

static int32_t pass_chunks(const qn_host_layer *layer, int32_t split)
{
    int32_t chunks = 0;

    for (int32_t s = 0; s < layer->conv.source_count; s++) {
        chunks += kernel_rows(layer, s) * chunk_count(kernel_columns(layer, s) * layer->conv.source_channels[s], split);
    }
    return chunks;
}

static int32_t pass_segments(const qn_host_layer *layer)
{
    int32_t segments = 0;

    for (int32_t s = 0; s < layer->conv.source_count; s++) {
        segments += kernel_rows(layer, s);
    }
    return segments;
}

/* The weight of output channel o at (row i, column j) of what source s is read with; c counts within the source. A
 * phased layer adds up the weights that meet the same pixel. */
static int32_t weight_at(const qn_host_layer *layer, const int8_t *weight, int32_t o, const qn_pass *pass, int32_t s,
                         int32_t i, int32_t j, int32_t c)
{
    const qn_host_conv *conv = &layer->conv;
    const int32_t kernel_width = conv->is_transposed ? 2 : conv->kernel_width;
    const int32_t kernel_height = conv->is_transposed ? 2 : conv->kernel_height;
    int32_t row = i, row_end = i + 1, column = j, column_end = j + 1, sum = 0;

    for (int32_t before = 0; before < s; before++) {
        c += conv->source_channels[before];
    }
    if (conv->is_transposed) { /* two pixels of out_channels each */
        row = pass->row, row_end = row + 1;
        column = o / conv->out_channels, column_end = column + 1;
        o %= conv->out_channels;
    } else if (layer->is_phased && conv->is_doubled[s]) {
        /* output row 2y + r reads rows 2y + r - 1 .. 2y + r + 1, that is y - 1, y, y (r = 0) or y, y, y + 1 (r = 1) */
        row = i == 0 ? 0 : 1 + pass->row, row_end = i == 0 ? 1 + pass->row : 3;
        column = j == 0 ? 0 : 1 + pass->column, column_end = j == 0 ? 1 + pass->column : 3;
    }
    for (int32_t k = row; k < row_end; k++) {
        for (int32_t l = column; l < column_end; l++) {
            sum += weight[(((ptrdiff_t)o * kernel_height + k) * kernel_width + l) * layer->in_channels + c];
        }
    }
    return sum;
}

/* Whether all sums of a phased layer fit a signed byte. */
static int phased_fits(qn_host_layer *layer, const int8_t *weight)
{
    layer->is_phased = 1;
    for (int32_t phase = 0; phase < 4; phase++) {
        const qn_pass pass = {.row = phase / 2, .column = phase % 2};
        for (int32_t o = 0; o < layer->conv.out_channels; o++) {
            for (int32_t s = 0; s < layer->conv.source_count; s++) {
                for (int32_t k = 0; k < 4 * layer->conv.source_channels[s] && layer->conv.is_doubled[s]; k++) {
                    const int32_t sum = weight_at(layer, weight, o, &pass, s, k / 2 % 2, k % 2, k / 4);
                    if (sum < -128 || sum > 127) {
                        return 0;
                    }
                }
            }
        }
    }
    return 1;
}

static void pass_add(qn_host_layer *layer, qn_pass pass)
{
    const size_t lanes = (size_t)pass.vectors * (size_t)layer->kernel->lanes;

    pass.segments = pass_segments(layer);
    pass.weight_offset = layer->weight_bytes;
    pass.table_offset = layer->table_lanes;
    if (layer->kernel->tiles != NULL) {
        layer->weight_bytes += 4 * lanes * qn_host_winograd_chunks(&layer->conv);
        layer->table_lanes += 18 * lanes; /* a start by position, bias, shift */
    } else {
        layer->weight_bytes += 4 * lanes * (size_t)pass_chunks(layer, pass.split);
        layer->table_lanes += lanes;
    }
    if (layer->passes != NULL) {
        layer->passes[layer->pass_count] = pass;
    }
    layer->pass_count++;
}

/* The passes of one phase: groups of whole vectors, then what is left in as few products as it takes. */
static void passes_plan(qn_host_layer *layer, int32_t row, int32_t column, int32_t channels)
{
    const int32_t least = layer->kernel->min_split, lanes = layer->kernel->lanes / least; /* channels of a vector */
    const int32_t most = layer->kernel->max_vectors;
    int32_t vectors = channels / lanes, left = channels % lanes, first = 0;
    int32_t splits[8], split_count = 0;

    while (left > 0) { /* parts of a vector while they cost less than a whole one */
        int32_t split = 1;
        while (2 * split <= layer->kernel->max_split && left <= lanes / (2 * split)) {
            split *= 2;
        }
        if (split == 1 && layer->kernel->max_split > 2 && lanes > layer->kernel->max_split &&
            left <= lanes / 2 + lanes / 4 &&
            pass_chunks(layer, 2) + pass_chunks(layer, 4) + 4 < pass_chunks(layer, 1)) {
            split = 2;
        }
        splits[split_count++] = split;
        left -= lanes / split;
    }
    if (split_count > 0 && splits[0] == 1) {
        vectors++;
        split_count = 0;
    }
    while (vectors > 0) {
        const int32_t count = vectors <= most ? vectors : vectors == most + 1 && most > 2 ? most - 1 : most;
        const int32_t some = count * lanes < channels - first ? count * lanes : channels - first;
        pass_add(layer, (qn_pass){first, some, count, least, 0, row, column, 0, 0, 0});
        first += some;
        vectors -= count;
    }
    for (int32_t k = 0; k < split_count; k++) {
        const int32_t some = lanes / splits[k] < channels - first ? lanes / splits[k] : channels - first;
        pass_add(layer, (qn_pass){first, some, 1, splits[k], 0, row, column, 0, 0, 0});
        first += some;
    }
}

static void layer_plan(qn_host_layer *layer)
{
    layer->pass_count = 0;
    layer->weight_bytes = layer->table_lanes = 0;
    if (layer->conv.is_transposed) {
        passes_plan(layer, 0, 0, 2 * layer->conv.out_channels);
        passes_plan(layer, 1, 0, 2 * layer->conv.out_channels);
        return;
    }
    for (int32_t phase = 0; phase < (layer->is_phased && layer->kernel->tiles == NULL ? 4 : 1); phase++) {
        passes_plan(layer, phase / 2, phase % 2, layer->conv.out_channels);
    }
}

/* The weights of one output channel, its lanes' start, and its shift and multiplier. */
static void channel_fill(qn_host_layer *layer, const qn_host_conv *conv, const qn_pass *pass, int32_t channel)
{
    const int32_t lanes = layer->kernel->lanes, o = pass->first + channel, real = o % conv->out_channels;
    const int32_t vector = channel * pass->split / lanes, lane = channel * pass->split % lanes;
    const size_t chunk_bytes = 4 * (size_t)pass->vectors * (size_t)lanes;
    int8_t *w = layer->weights + pass->weight_offset + 4 * ((size_t)vector * (size_t)lanes + (size_t)lane);
    int32_t *tables = layer->tables + pass->table_offset + vector * lanes;
    int32_t sum = 0, shift = 0, multiplier = 1;

    for (int32_t s = 0; s < conv->source_count; s++) {
        const int32_t channels = conv->source_channels[s], columns = kernel_columns(layer, s);
        for (int32_t i = 0; i < kernel_rows(layer, s); i++) {
            for (int32_t k = 0; k < columns * channels; k++) {
                const int32_t value = weight_at(layer, conv->weight, o, pass, s, i, k / channels, k % channels);
                w[(size_t)(k / (4 * pass->split)) * chunk_bytes + (size_t)(k % (4 * pass->split))] = (int8_t)value;
                sum += value;
            }
            w += (size_t)chunk_count(columns * channels, pass->split) * chunk_bytes;
        }
    }
    if (layer->finish != QN_FINISH_S32) {
        shift = conv->requantize.shift[real];
        multiplier = conv->requantize.multiplier == NULL ? 1 : conv->requantize.multiplier[real];
    }
    const int32_t half = layer->finish == QN_FINISH_SHIFT ? (int32_t)(((uint32_t)1 << shift) >> 1) : 0;
    const int32_t offset = layer->offset * sum, width = lanes / pass->split;
    tables[lane] = (int32_t)((uint32_t)conv->bias[real] + (uint32_t)half - (uint32_t)offset);
    for (int32_t part = 0; part < pass->split; part++) { /* of as many pixels */
        const int32_t at = part * width + channel % width;
        tables[layer->table_lanes + (size_t)at] = shift;
        tables[2 * layer->table_lanes + (size_t)at] = multiplier;
    }
}

static qn_finish finish_of(const qn_host_conv *conv)
{
    if (conv->requantize.shift == NULL) {
        return QN_FINISH_S32;
    }
    return conv->requantize.is_narrow ? QN_FINISH_SHIFT : QN_FINISH_MULTIPLY;
}

/* The kernel of that name if it is exact for the layer, else the first that is and that pays. */
static const qn_host_kernel *kernel_find(const qn_host_conv *conv, const char *name)
{
    const qn_host_kernel *best = NULL;
    int32_t is_known = name == NULL;

    for (int32_t k = 0; qn_host_kernels[k] != NULL; k++) {
        const qn_host_kernel *kernel = qn_host_kernels[k];
        const int32_t is_named = name != NULL && strcmp(name, kernel->name) == 0;
        is_known |= is_named;
        if (kernel->fits != NULL && !kernel->fits(conv)) {
            continue;
        }
        if (is_named) {
            return kernel;
        }
        best = best == NULL && (kernel->pays == NULL || kernel->pays(conv)) ? kernel : best;
    }
    return is_known ? best : NULL;
}

static int32_t offset_of(const qn_host_conv *conv, const qn_host_kernel *kernel)
{
    if (kernel->is_signed) {
        return !conv->is_signed_in && conv->in_max > INT8_MAX ? -SIGN_OFFSET : 0;
    }
    return conv->is_signed_in ? SIGN_OFFSET : 0;
}

static void *aligned_new(size_t size_bytes)
{
    void *memory = NULL;

    size_bytes = (size_bytes + 64) / 64 * 64;
    if (posix_memalign(&memory, 64, size_bytes) != 0) {
        return NULL;
    }
    return memset(memory, 0, size_bytes);
}

qn_host_layer *qn_host_layer_new(const qn_host_conv *conv, const char *name)
{
    const qn_host_kernel *kernel = kernel_find(conv, name);
    qn_host_layer *layer = kernel == NULL ? NULL : aligned_new(sizeof *layer);
    int32_t is_doubled = 0;

    if (layer == NULL) {
        return NULL;
    }
    layer->conv = *conv;
    layer->kernel = kernel;
    layer->finish = finish_of(conv);
    layer->offset = offset_of(conv, kernel);
    for (int32_t s = 0; s < conv->source_count; s++) {
        layer->in_channels += conv->source_channels[s];
        is_doubled |= conv->is_doubled[s];
    }
    layer->is_phased = is_doubled && conv->kernel_height == 3 && conv->kernel_width == 3 && conv->stride == 1 &&
                       conv->padding == 1 && (kernel->tiles != NULL || phased_fits(layer, conv->weight));
    layer_plan(layer);
    layer->passes = aligned_new((size_t)layer->pass_count * sizeof *layer->passes);
    layer->weights = aligned_new(layer->weight_bytes);
    layer->tables = aligned_new(3 * layer->table_lanes * sizeof *layer->tables);
    if (layer->passes == NULL || layer->weights == NULL || layer->tables == NULL) {
        qn_host_layer_free(layer);
        return NULL;
    }
    layer_plan(layer);
    for (int32_t p = 0; p < layer->pass_count; p++) {
        for (int32_t channel = 0; channel < layer->passes[p].channels; channel++) {
            if (kernel->tiles != NULL) {
                qn_host_winograd_fill(layer, conv, &layer->passes[p], channel);
            } else {
                channel_fill(layer, conv, &layer->passes[p], channel);
            }
        }
        if (kernel->run_length != NULL) {
            qn_pass *pass = &layer->passes[p];
            pass->run = kernel->run_length(pass, layer->weights + pass->weight_offset, pass_chunks(layer, pass->split),
                                           layer->offset != 0 ? SIGN_OFFSET : conv->in_max);
        }
    }
    return layer;
}

void qn_host_layer_free(qn_host_layer *layer)
{
    if (layer != NULL) {
        free(layer->passes);
        free(layer->weights);
        free(layer->tables);
        free(layer);
    }
}

const char *qn_host_layer_kernel(const qn_host_layer *layer)
{
    return layer->kernel->name;
}

size_t qn_host_layer_bytes(const qn_host_layer *layer)
{
    return layer->weight_bytes + 3 * layer->table_lanes * sizeof *layer->tables +
           (size_t)layer->pass_count * sizeof *layer->passes;
}
