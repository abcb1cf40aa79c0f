/* Exact integer Winograd F(2x2, 3x3): when it is exact, its weights, and a band of output rows.
 *
 * With G' = 2 G and the textbook's B and A: A' ((G' g G'') * (B' d B)) A is four times the convolution, in integers.
 * B' d B adds four codes: of codes 0 to 63 it lies in 0 to 252 at position (1, 1) and in -126 to 126 elsewhere, which 128
 * is added to for a kernel of unsigned bytes; for one of signed bytes 128 is taken off at (1, 1). G' g G'' must fit a signed byte, filter by filter.
 */
#include <stdlib.h>
#include <string.h>

#include "qn_host_layer.h"

enum { LARGEST_CODE = 63, OFFSET = 128, TILE_BAND_BYTES = 256 * 1024, GROUP_BYTES = 24 * 1024, KERNEL = 3, POSITIONS = 16 };

static const int8_t transform[4][KERNEL] = {{2, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 2}};

/* Of the codes that weights meet in row `position / 4`, column `position % 4`. */
static int32_t weight_transformed(const int8_t *weight, ptrdiff_t channels, int32_t position)
{
    int32_t sum = 0;

    for (int32_t k = 0; k < KERNEL; k++) {
        for (int32_t l = 0; l < KERNEL; l++) {
            sum += transform[position / 4][k] * transform[position % 4][l] * weight[(k * KERNEL + l) * channels];
        }
    }
    return sum;
}

static int32_t is_short(int32_t position)
{
    return position / 4 == 2 || position % 4 == 2;
}

static int32_t padded(int32_t channels)
{
    return (channels + 3) / 4 * 4;
}

static int32_t channel_count(const qn_host_conv *conv)
{
    int32_t channels = 0;

    for (int32_t s = 0; s < conv->source_count; s++) {
        channels += conv->source_channels[s];
    }
    return channels;
}

static int filter_fits(const qn_host_conv *conv, int32_t o)
{
    const ptrdiff_t channels = channel_count(conv);
    const int8_t *weight = conv->weight + o * KERNEL * KERNEL * channels;
    const int32_t shift = conv->requantize.shift[o];
    int64_t largest = llabs((int64_t)conv->bias[o]) + (((int64_t)1 << shift) >> 1);

    for (ptrdiff_t c = 0; c < channels; c++) {
        for (int32_t position = 0; position < POSITIONS; position++) {
            const int32_t value = weight_transformed(weight + c, channels, position);
            if (value < -128 || value > 127) {
                return 0;
            }
        }
        for (ptrdiff_t k = 0; k < KERNEL * KERNEL; k++) {
            largest += (int64_t)conv->in_max * abs(weight[k * channels + c]);
        }
    }
    return 4 * largest <= INT32_MAX && shift + 2 <= 31;
}

/* Cycles for one tile of one vector of channels, by counts of instructions: Winograd against the direct products. */
int qn_host_winograd_pays(const qn_host_conv *conv, int32_t lanes)
{
    int32_t plain = 0, doubled = 0;

    for (int32_t s = 0; s < conv->source_count; s++) {
        plain += conv->is_doubled[s] ? 0 : padded(conv->source_channels[s]);
        doubled += conv->is_doubled[s] ? padded(conv->source_channels[s]) : 0;
    }
    const int32_t vectors = (conv->out_channels + lanes - 1) / lanes, left = conv->out_channels % lanes;
    const int32_t quarters = conv->out_channels / lanes * 4 + (left + lanes / 4 - 1) / (lanes / 4); /* the direct one's */
    const int32_t direct = (9 * plain + 4 * doubled) / 2 + 16;
    const int32_t gathered = 16 * ((plain + 63) / 64) + 9 * ((doubled + 63) / 64);
    return 4 * (vectors * ((16 * plain + 9 * doubled) / 8 + 80) + gathered) < quarters * direct;
}

int qn_host_winograd_fits(const qn_host_conv *conv)
{
    if (conv->is_transposed || conv->kernel_height != KERNEL || conv->kernel_width != KERNEL || conv->stride != 1 ||
        conv->padding != 1 || conv->is_signed_in || conv->in_max > LARGEST_CODE || conv->head != QN_HEAD_NONE ||
        conv->requantize.shift == NULL || !conv->requantize.is_narrow) {
        return 0;
    }
    for (int32_t o = 0; o < conv->out_channels; o++) {
        if (!filter_fits(conv, o)) {
            return 0;
        }
    }
    return 1;
}

/* Bytes of all sources of one kind within a tile: those that are doubled stand behind the others. */
static int32_t source_bytes(const qn_host_conv *conv, int32_t is_doubled)
{
    int32_t bytes = 0;

    for (int32_t s = 0; s < conv->source_count; s++) {
        bytes += conv->is_doubled[s] == is_doubled ? padded(conv->source_channels[s]) : 0;
    }
    return bytes;
}

static int32_t source_offset(const qn_host_conv *conv, int32_t source)
{
    int32_t offset = conv->is_doubled[source] ? source_bytes(conv, 0) : 0;

    for (int32_t s = 0; s < source; s++) {
        offset += conv->is_doubled[s] == conv->is_doubled[source] ? padded(conv->source_channels[s]) : 0;
    }
    return offset;
}

/* The source whose bytes end there. */
static int32_t source_before(const qn_host_conv *conv, int32_t end)
{
    int32_t s = 0;

    while (s + 1 < conv->source_count && source_offset(conv, s) + padded(conv->source_channels[s]) != end) {
        s++;
    }
    return s;
}

static size_t tile_bytes(const qn_host_conv *conv)
{
    return (size_t)(source_bytes(conv, 0) + source_bytes(conv, 1));
}

/* From one position's tiles to the next one's: an odd number of cache lines, so that a tile's 16 stores do not fall into
 * the same few places of the cache. */
static size_t plane_bytes_of(size_t bytes)
{
    return (bytes + 127) / 128 * 128 + 3 * 64;
}

/* Chunks of the positions before this one. */
static int32_t chunks_before(const qn_host_conv *conv, int32_t position)
{
    const int32_t few = source_bytes(conv, 0) / 4, all = few + source_bytes(conv, 1) / 4;
    int32_t chunks = 0;

    for (int32_t p = 0; p < position; p++) {
        chunks += is_short(p) ? few : all;
    }
    return chunks;
}

size_t qn_host_winograd_chunks(const qn_host_conv *conv)
{
    return (size_t)chunks_before(conv, POSITIONS);
}

void qn_host_winograd_fill(qn_host_layer *layer, const qn_host_conv *conv, const qn_pass *pass, int32_t channel)
{
    const int32_t lanes = layer->kernel->lanes, o = pass->first + channel, channels = channel_count(conv);
    const size_t all_lanes = (size_t)(pass->vectors * lanes);
    int8_t *weights = layer->weights + pass->weight_offset + 4 * (size_t)channel;
    int32_t *start = layer->tables + pass->table_offset + channel, *last = start + POSITIONS * all_lanes;
    const int32_t shift = conv->requantize.shift[o];

    for (int32_t position = 0; position < POSITIONS; position++) {
        int32_t sum = 0, first = 0;
        for (int32_t s = 0; s < conv->source_count; s++) {
            for (int32_t c = 0; c < conv->source_channels[s] && !(conv->is_doubled[s] && is_short(position)); c++) {
                const int32_t at = source_offset(conv, s) + c;
                const int8_t *weight = conv->weight + (ptrdiff_t)o * KERNEL * KERNEL * channels + first + c;
                const int32_t value = weight_transformed(weight, channels, position);
                weights[4 * all_lanes * (size_t)(chunks_before(conv, position) + at / 4) + (size_t)(at % 4)] = (int8_t)value;
                sum += value;
            }
            first += conv->source_channels[s];
        }
        const int32_t offset = layer->kernel->is_signed ? (position == 5 ? -OFFSET : 0) : position == 5 ? 0 : OFFSET;
        start[(size_t)position * all_lanes] = -offset * sum;
    }
    last[0] = 4 * (conv->bias[o] + (int32_t)(((uint32_t)1 << shift) >> 1));
    last[all_lanes] = shift + 2;
}

/* Bands, and groups of tiles that are transformed together, then multiplied. Where the weights of all passes stay in the second
 * cache, a group is a part of a row that stays in the first; else it is the whole band, so that weights are read once. */
void qn_host_winograd_cut(const qn_host_layer *layer, const qn_host_io *io, int32_t threads, qn_host_cut *cut)
{
    const size_t width = (size_t)(io->out_width + 1) / 2, all = (size_t)(io->out_height + 1) / 2;
    const size_t row_bytes = width * tile_bytes(&layer->conv);
    size_t rows = TILE_BAND_BYTES / (POSITIONS * row_bytes), group = width;

    if (layer->weight_bytes <= TILE_BAND_BYTES) {
        group = GROUP_BYTES / (POSITIONS * tile_bytes(&layer->conv)) / QN_WINOGRAD_TILES * QN_WINOGRAD_TILES;
        group = group < 2 * QN_WINOGRAD_TILES ? 2 * QN_WINOGRAD_TILES : group;
        group = group < width ? group : width;
        rows = (size_t)cut->rows / 2;
    }
    rows = rows < 1 ? 1 : rows > all ? all : rows;
    cut->bands = (int32_t)((all + rows - 1) / rows);
    cut->bands = (cut->bands + threads - 1) / threads * threads;
    rows = (all + (size_t)cut->bands - 1) / (size_t)cut->bands;
    cut->rows = 2 * (int32_t)rows;
    cut->bands = (int32_t)((all + rows - 1) / rows);
    cut->group_tiles = (int32_t)group;
    cut->group_rows = layer->weight_bytes <= TILE_BAND_BYTES ? 1 : (int32_t)rows;
    cut->plane_bytes = plane_bytes_of((size_t)cut->group_rows * group * tile_bytes(&layer->conv));
    cut->tile_bytes = POSITIONS * cut->plane_bytes;
}

/* Tiles x to x + count of tile row y of the band, as row `at` of the group. */
static void tiles_transform(const qn_host_layer *layer, const qn_host_cut *cut, int32_t x, int32_t y, int32_t count,
                            int32_t at, uint8_t *scratch)
{
    const qn_host_conv *conv = &layer->conv;
    const size_t bytes = tile_bytes(conv);
    uint8_t *out = scratch + cut->tile_offset + (size_t)(at * cut->group_tiles) * bytes;

    for (int32_t behind = (int32_t)bytes; behind > 0;) { /* sources from the last bytes of a tile to its first */
        const int32_t s = source_before(conv, behind), is_doubled = conv->is_doubled[s];
        const size_t next = cut->row_bytes[s], last = is_doubled ? 2 : 3, offset = (size_t)source_offset(conv, s);
        const uint8_t *row = scratch + cut->offset[s] + (size_t)(is_doubled ? y : 2 * y) * next +
                             (size_t)((is_doubled ? x : 2 * x) * conv->source_channels[s]);
        const qn_tile_input input = {{row, row + next, row + 2 * next, row + last * next}, conv->source_channels[s], count,
                                     is_doubled, behind == (int32_t)bytes, out + offset, cut->plane_bytes, bytes};
        layer->kernel->transform(&input);
        behind = (int32_t)offset;
    }
}

static void tiles_multiply(const qn_host_layer *layer, const qn_host_io *io, const qn_host_cut *cut, const qn_pass *pass,
                           int32_t x, int32_t y, int32_t count, int32_t at, int32_t rows, uint8_t *scratch, uint8_t *out,
                           size_t out_row_bytes)
{
    const qn_host_conv *conv = &layer->conv;
    const size_t lanes = (size_t)(pass->vectors * layer->kernel->lanes), bytes = tile_bytes(conv);
    const int32_t *start = layer->tables + pass->table_offset;
    uint8_t *first = out + (size_t)(2 * y) * out_row_bytes + (ptrdiff_t)(2 * x) * io->out_channels + pass->first;
    const qn_tile_row row = {scratch + cut->tile_offset + (size_t)(at * cut->group_tiles) * bytes, cut->plane_bytes, bytes,
                             count, pass->vectors, pass->channels, (source_bytes(conv, 0) + source_bytes(conv, 1)) / 4,
                             source_bytes(conv, 0) / 4, layer->weights + pass->weight_offset, start,
                             start + POSITIONS * lanes, start + (POSITIONS + 1) * lanes, conv->requantize.q_min,
                             conv->requantize.q_max, conv->is_signed_out, io->out_width - 2 * x,
                             {first, 2 * y + 1 < rows ? first + out_row_bytes : NULL}, io->out_channels,
                             (int32_t *)(void *)(scratch + cut->product_offset)};
    layer->kernel->tiles(&row);
}

void qn_host_winograd_band(const qn_host_layer *layer, const qn_host_io *io, const qn_host_cut *cut, int32_t rows,
                           uint8_t *scratch, uint8_t *out, size_t out_row_bytes)
{
    const int32_t tile_rows = (rows + 1) / 2, width = (io->out_width + 1) / 2;

    for (int32_t y = 0; y < tile_rows; y += cut->group_rows) {
        const int32_t here = tile_rows - y < cut->group_rows ? tile_rows - y : cut->group_rows;
        for (int32_t x = 0; x < width; x += cut->group_tiles) {
            const int32_t count = width - x < cut->group_tiles ? width - x : cut->group_tiles;
            for (int32_t k = 0; k < here; k++) {
                tiles_transform(layer, cut, x, y + k, count, k, scratch);
            }
            for (int32_t p = 0; p < layer->pass_count; p++) {
                for (int32_t k = 0; k < here; k++) {
                    tiles_multiply(layer, io, cut, &layer->passes[p], x, y + k, count, k, rows, scratch, out,
                                   out_row_bytes);
                }
            }
        }
    }
}
