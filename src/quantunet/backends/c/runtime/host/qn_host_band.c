/* A band of output rows: gather the rows of all sources that it reads, with their borders; let the kernel run over them;
 * decide the mask or pool, while the rows are still in the cache. */
#include <string.h>

#include "qn_host_layer.h"

enum { BAND_BYTES = 128 * 1024, SIGN_OFFSET = 128, SLACK_BYTES = QN_ROW_SLACK_BYTES };

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t is_halved(const qn_host_layer *layer, int32_t source)
{
    return layer->is_phased && layer->conv.is_doubled[source];
}

static size_t out_code_bytes(const qn_host_layer *layer)
{
    return layer->finish == QN_FINISH_S32 ? 4 : 1;
}

/* Output rows that each row step of the kernel makes: two by two where rows have phases. */
static int32_t rows_per_step(const qn_host_layer *layer)
{
    return layer->is_phased || layer->conv.is_transposed ? 2 : 1;
}

static int32_t source_rows(const qn_host_layer *layer, int32_t source, int32_t rows)
{
    if (layer->conv.is_transposed) {
        return rows / 2;
    }
    if (is_halved(layer, source)) {
        return rows / 2 + 2;
    }
    return (rows - 1) * layer->conv.stride + layer->conv.kernel_height;
}

static int32_t padding_of(const qn_host_layer *layer)
{
    return layer->conv.is_transposed ? 0 : layer->conv.padding;
}

qn_host_cut qn_host_layer_cut(const qn_host_layer *layer, const qn_host_io *io, int32_t threads)
{
    const int32_t pairs = io->is_pooled || rows_per_step(layer) == 2;
    qn_host_cut cut;
    size_t row_bytes = 0, bytes = 0;

    memset(&cut, 0, sizeof cut);
    for (int32_t s = 0; s < layer->conv.source_count; s++) {
        const int32_t width = is_halved(layer, s) ? io->width / 2 : io->width;
        cut.row_bytes[s] = ((size_t)(width + 2 * padding_of(layer)) * (size_t)layer->conv.source_channels[s] + 63) / 64 * 64;
        row_bytes += cut.row_bytes[s];
    }
    cut.rows = (int32_t)(BAND_BYTES / row_bytes) / (layer->conv.is_transposed ? 1 : layer->conv.stride);
    cut.rows = cut.rows < 8 ? 8 : cut.rows > 64 ? 64 : cut.rows / 2 * 2;
    cut.rows = least(cut.rows, io->out_height);
    cut.bands = (io->out_height + cut.rows - 1) / cut.rows;
    cut.bands = (cut.bands + threads - 1) / threads * threads; /* as much for each */
    cut.rows = (io->out_height + cut.bands - 1) / cut.bands;
    if (pairs) {
        cut.rows = (cut.rows + 1) / 2 * 2;
    }
    cut.bands = (io->out_height + cut.rows - 1) / cut.rows;
    if (layer->kernel->tiles != NULL) {
        qn_host_winograd_cut(layer, io, threads, &cut);
    }
    for (int32_t s = 0; s < layer->conv.source_count; s++) {
        cut.row_count[s] = source_rows(layer, s, cut.rows);
        cut.offset[s] = bytes;
        bytes += (size_t)cut.row_count[s] * cut.row_bytes[s] + SLACK_BYTES;
    }
    cut.out_offset = bytes;
    cut.out_row_bytes = ((size_t)io->out_width * (size_t)io->out_channels * out_code_bytes(layer) + 63) / 64 * 64;
    if (!io->is_stored) {
        bytes += (size_t)cut.rows * cut.out_row_bytes + SLACK_BYTES;
    }
    if (layer->kernel->tiles != NULL) {
        cut.tile_offset = (bytes + 63) / 64 * 64;
        cut.product_offset = cut.tile_offset + cut.tile_bytes + SLACK_BYTES;
        bytes = cut.product_offset + QN_WINOGRAD_PRODUCTS * sizeof(int32_t);
    }
    cut.scratch_bytes = bytes;
    return cut;
}

static void codes_offset(uint8_t *codes, size_t count)
{
    for (size_t k = 0; k < count; k++) {
        codes[k] ^= SIGN_OFFSET;
    }
}

/* Every pixel twice; `channels` is a number that the compiler sees where it is a usual one. */
static inline void pixels_repeat_by(uint8_t *out, const uint8_t *in, int32_t count, const size_t channels)
{
    for (int32_t x = 0; x < count; x++, in += channels, out += 2 * channels) {
        memcpy(out, in, channels);
        memcpy(out + channels, in, channels);
    }
}

static void pixels_repeat(uint8_t *out, const uint8_t *in, int32_t count, size_t channels)
{
    switch (channels) {
    case 4: pixels_repeat_by(out, in, count, 4); break;
    case 8: pixels_repeat_by(out, in, count, 8); break;
    case 16: pixels_repeat_by(out, in, count, 16); break;
    case 24: pixels_repeat_by(out, in, count, 24); break;
    case 32: pixels_repeat_by(out, in, count, 32); break;
    default: pixels_repeat_by(out, in, count, channels); break;
    }
}

/* One row of a source with its borders; a row outside the image is all border. */
static void row_gather(const qn_host_layer *layer, const qn_host_io *io, int32_t s, int32_t row, uint8_t *out,
                       size_t row_bytes)
{
    const qn_host_conv *conv = &layer->conv;
    const int32_t is_repeated = conv->is_doubled[s] && !is_halved(layer, s);
    const int32_t height = is_halved(layer, s) ? io->height / 2 : io->height;
    const int32_t width = is_halved(layer, s) ? io->width / 2 : io->width;
    const size_t channels = (size_t)conv->source_channels[s], border = (size_t)padding_of(layer) * channels;
    const size_t size = (size_t)width * channels;
    const int zero = layer->offset != 0 ? SIGN_OFFSET : 0;

    if (row < 0 || row >= height) {
        memset(out, zero, row_bytes);
        return;
    }
    memset(out, zero, border);
    if (is_repeated) {
        pixels_repeat(out + border, io->source[s] + (size_t)(row / 2) * (size / 2), width / 2, channels);
    } else {
        memcpy(out + border, io->source[s] + (size_t)row * size, size);
    }
    if (layer->offset != 0) {
        codes_offset(out + border, size);
    }
    memset(out + border + size, zero, row_bytes - border - size);
}

static void band_gather(const qn_host_layer *layer, const qn_host_io *io, const qn_host_cut *cut, int32_t y, int32_t rows,
                        uint8_t *scratch)
{
    for (int32_t s = 0; s < layer->conv.source_count; s++) {
        int32_t first = y * layer->conv.stride - layer->conv.padding;
        if (layer->conv.is_transposed) {
            first = y / 2;
        } else if (is_halved(layer, s)) {
            first = y / 2 - 1;
        }
        for (int32_t k = 0; k < source_rows(layer, s, rows); k++) {
            row_gather(layer, io, s, first + k, scratch + cut->offset[s] + (size_t)k * cut->row_bytes[s],
                       cut->row_bytes[s]);
        }
    }
}

/* Where a pass reads for row `step` of the band. */
static void segments_set(const qn_host_layer *layer, const qn_host_cut *cut, const qn_pass *pass, int32_t step,
                         const uint8_t *scratch, qn_segment *segments)
{
    const qn_host_conv *conv = &layer->conv;

    for (int32_t s = 0; s < conv->source_count; s++) {
        const int32_t channels = conv->source_channels[s], halved = is_halved(layer, s);
        const int32_t kernel_rows = halved ? 2 : conv->is_transposed ? 1 : conv->kernel_height;
        const int32_t kernel_columns = halved ? 2 : conv->is_transposed ? 1 : conv->kernel_width;
        int32_t row = conv->is_transposed ? step : step * conv->stride;
        int32_t pixel_step = conv->is_transposed ? 1 : conv->stride;
        if (layer->is_phased) {
            row = halved ? step + pass->row : 2 * step + pass->row;
            pixel_step = halved ? 1 : 2;
        }
        for (int32_t i = 0; i < kernel_rows; i++, segments++) {
            segments->base = scratch + cut->offset[s] + (size_t)(row + i) * cut->row_bytes[s];
            segments->base += layer->is_phased ? pass->column * channels : 0;
            segments->step = (ptrdiff_t)pixel_step * channels;
            segments->chunks = (kernel_columns * channels + 4 * pass->split - 1) / (4 * pass->split);
        }
    }
}

static void pass_run(const qn_host_layer *layer, const qn_host_io *io, const qn_host_cut *cut, const qn_pass *pass,
                     int32_t rows, const uint8_t *scratch, uint8_t *out, size_t out_row_bytes)
{
    qn_segment segments[QN_MAX_SEGMENTS];
    const ptrdiff_t code_bytes = (ptrdiff_t)out_code_bytes(layer);
    const int32_t *tables = layer->tables + pass->table_offset;
    qn_row row = {segments, pass, layer->weights + pass->weight_offset, tables, tables + layer->table_lanes,
                  tables + 2 * layer->table_lanes, layer->finish, layer->conv.requantize.q_min,
                  layer->conv.requantize.q_max, layer->conv.is_signed_out, io->out_width, NULL,
                  code_bytes * io->out_channels};
    const int32_t per_step = rows_per_step(layer);

    if (layer->is_phased || layer->conv.is_transposed) {
        row.pixels = io->out_width / 2;
        row.out_step *= 2;
    }
    for (int32_t step = 0; step < rows / per_step; step++) {
        segments_set(layer, cut, pass, step, scratch, segments);
        row.out = out + (size_t)(step * per_step + pass->row) * out_row_bytes;
        row.out += code_bytes * (pass->first + (layer->is_phased ? pass->column * io->out_channels : 0));
        layer->kernel->row(&row);
    }
}

static int32_t value_at(const qn_host_layer *layer, const uint8_t *values, int32_t index)
{
    int32_t value;

    if (layer->finish != QN_FINISH_S32) {
        return layer->conv.is_signed_out ? (int8_t)values[index] : values[index];
    }
    memcpy(&value, values + 4 * index, 4);
    return value;
}

/* The labels of a row from its accumulators or codes. */
static void row_decide(const qn_host_layer *layer, const uint8_t *values, uint8_t *labels, int32_t width, int32_t channels)
{
    if (layer->conv.head == QN_HEAD_THRESHOLD && layer->finish == QN_FINISH_S32) {
        const int64_t threshold = layer->conv.threshold; /* just outside int32 at the most */
        const int32_t is_above_all = threshold > INT32_MAX, is_below_all = threshold < INT32_MIN;
        const int32_t limit = is_above_all || is_below_all ? 0 : (int32_t)threshold;
        for (int32_t x = 0; x < width; x++) {
            int32_t value;
            memcpy(&value, values + 4 * x, 4);
            labels[x] = (uint8_t)(((value > limit) | is_below_all) & !is_above_all);
        }
        return;
    }
    for (int32_t x = 0; x < width; x++) {
        int32_t best = 0, largest = value_at(layer, values, x * channels);
        if (layer->conv.head == QN_HEAD_THRESHOLD) {
            labels[x] = largest > layer->conv.threshold;
            continue;
        }
        for (int32_t c = 1; c < channels; c++) {
            const int32_t value = value_at(layer, values, x * channels + c);
            best = value > largest ? c : best;
            largest = value > largest ? value : largest;
        }
        labels[x] = (uint8_t)best;
    }
}

/* The maximum of 2x2 blocks; `sign` is 128 for signed codes, which then compare as unsigned ones. */
static inline void pair_pool(const uint8_t *top, const uint8_t *bottom, uint8_t *out, int32_t width, int32_t channels,
                             uint8_t sign)
{
    for (int32_t x = 0; x < width; x++, top += 2 * channels, bottom += 2 * channels, out += channels) {
        for (int32_t c = 0; c < channels; c++) {
            const uint8_t a = top[c] ^ sign, b = top[channels + c] ^ sign;
            const uint8_t d = bottom[c] ^ sign, e = bottom[channels + c] ^ sign;
            const uint8_t ab = a > b ? a : b, de = d > e ? d : e;
            out[c] = (ab > de ? ab : de) ^ sign;
        }
    }
}

static void rows_pool(const qn_host_layer *layer, const uint8_t *rows, size_t row_bytes, uint8_t *out, int32_t width,
                      int32_t channels)
{
    const uint8_t *bottom = rows + row_bytes;

    if (layer->conv.is_signed_out) {
        pair_pool(rows, bottom, out, width, channels, SIGN_OFFSET);
    } else if (channels == 8) { /* numbers that the compiler sees */
        pair_pool(rows, bottom, out, width, 8, 0);
    } else if (channels == 16) {
        pair_pool(rows, bottom, out, width, 16, 0);
    } else if (channels == 32) {
        pair_pool(rows, bottom, out, width, 32, 0);
    } else {
        pair_pool(rows, bottom, out, width, channels, 0);
    }
}

void qn_host_layer_band(const qn_host_layer *layer, const qn_host_io *io, const qn_host_cut *cut, int32_t band,
                        uint8_t *scratch)
{
    const int32_t y = band * cut->rows, rows = least(cut->rows, io->out_height - y);
    const size_t row_bytes = io->is_stored ? (size_t)io->out_width * (size_t)io->out_channels * out_code_bytes(layer)
                                           : cut->out_row_bytes;
    uint8_t *out = io->is_stored ? io->target + (size_t)y * row_bytes : scratch + cut->out_offset;

    const int32_t is_tiled = layer->kernel->tiles != NULL;
    band_gather(layer, io, cut, y, is_tiled ? (rows + 1) / 2 * 2 : rows, scratch);
    if (is_tiled) {
        qn_host_winograd_band(layer, io, cut, rows, scratch, out, row_bytes);
    }
    for (int32_t p = 0; p < layer->pass_count && !is_tiled; p++) {
        pass_run(layer, io, cut, &layer->passes[p], rows, scratch, out, row_bytes);
    }
    for (int32_t row = 0; row < rows && layer->conv.head != QN_HEAD_NONE; row++) {
        row_decide(layer, out + (size_t)row * row_bytes, io->target + (size_t)(y + row) * (size_t)io->out_width,
                   io->out_width, io->out_channels);
    }
    for (int32_t row = 0; row + 1 < rows && io->is_pooled; row += 2) {
        const size_t pooled_bytes = (size_t)(io->out_width / 2) * (size_t)io->out_channels;
        rows_pool(layer, out + (size_t)row * row_bytes, row_bytes, io->pooled + (size_t)(y + row) / 2 * pooled_bytes,
                  io->out_width / 2, io->out_channels);
    }
}
