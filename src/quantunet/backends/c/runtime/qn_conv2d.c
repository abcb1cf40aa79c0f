/* Convolution: expand a block of filters once, gather the patches of a tile of pixels, multiply, finish.
 *
 * The product is the processor's own (qn_product.h). Where it takes unsigned bytes, signed ones enter 128 larger, and
 * where it takes signed bytes, unsigned ones enter 128 smaller; what that adds is known by filter and is taken off
 * again. One product then serves every input of a byte. The exporter uses it only where 255 x the sum of a filter's
 * absolute weights stays below 2^31.
 */
#include <string.h>

#include "qn_codes.h"
#include "qn_product.h"
#include "qn_runtime.h"

#ifdef __ARM_FEATURE_MVE
#include "qn_helium.h"
#endif

/* Which codes enter with an offset. */
#define OFFSET_STORAGE (QN_PATCH_SIGNED ? QN_U8 : QN_S8)

typedef struct {
    const qn_conv2d *node;
    const qn_tensor *x;
    const qn_tensor *out;
    const qn_scratch *scratch;
    int32_t patch_length, patch_stride; /* codes of a patch, and that rounded up to QN_LANES */
    int32_t first, filters, filter_rows; /* the block: its first filter, how many, and that rounded up to 4 */
} block;

static int32_t round_up(int32_t value, int32_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

/* Expands one filter into `positions` rows of `length` codes, `distance` apart; sums[p * sum_distance] is row p's sum. */
static const uint8_t *filter_expand(const uint8_t *packed, int32_t bit_width, int32_t positions, int32_t length,
                                    qn_filter_code *rows, size_t distance, int32_t *sums, int32_t sum_distance)
{
    const uint32_t mask = ((uint32_t)1 << bit_width) - 1;
    const int32_t sign = (int32_t)1 << (bit_width - 1);
    uint32_t window = 0;
    int32_t available = 0;

    for (int32_t p = 0; p < positions; p++) {
        qn_filter_code *row = rows + (size_t)p * distance;
        int32_t sum = 0;
        for (int32_t k = 0; k < length; k++) {
            if (available < bit_width) {
                window |= (uint32_t)*packed++ << available;
                available += 8;
            }
            const int32_t code = ((int32_t)(window & mask) ^ sign) - sign;
            window >>= bit_width;
            available -= bit_width;
            row[k] = (qn_filter_code)code;
            sum += code;
        }
        sums[p * sum_distance] = sum;
    }
    return packed;
}

static const uint8_t *block_expand(const block *b, const uint8_t *packed, int32_t positions)
{
    const size_t plane = (size_t)b->filter_rows * (size_t)b->patch_stride;
    qn_filter_code *filters = b->scratch->filters;
    int32_t *corrections = b->scratch->corrections;

    memset(filters, 0, (size_t)positions * plane * sizeof *filters);
    for (int32_t f = 0; f < b->filters; f++) {
        packed = filter_expand(packed, b->node->bit_width[b->first + f], positions, b->patch_length,
                               filters + (size_t)f * (size_t)b->patch_stride, plane, corrections + f, b->filter_rows);
    }
    for (int32_t p = 0; p < positions; p++) {
        for (int32_t f = 0; f < b->filters; f++) {
            const int32_t sum = corrections[p * b->filter_rows + f];
            corrections[p * b->filter_rows + f] = b->x->storage == OFFSET_STORAGE ? QN_SIGN_OFFSET * sum : 0;
        }
    }
    return packed;
}

/* One kernel row of a patch: `columns` pixels from (row, column) on, zeros outside the image. */
static void patch_gather_row(const block *b, int32_t row, int32_t column, uint8_t *bytes)
{
    const qn_tensor *x = b->x;
    const size_t pixel_bytes = (size_t)x->channels * qn_storage_bytes(x->storage);
    const int32_t columns = b->node->kernel_width;
    int32_t begin = column < 0 ? -column : 0;
    int32_t end = column + columns > x->width ? x->width - column : columns;

    if (row < 0 || row >= x->height || begin >= end) {
        memset(bytes, 0, (size_t)columns * pixel_bytes);
        return;
    }
    memset(bytes, 0, (size_t)begin * pixel_bytes);
    memcpy(bytes + (size_t)begin * pixel_bytes,
           qn_tensor_row(x, row) + (size_t)(column + begin) * pixel_bytes,
           (size_t)(end - begin) * pixel_bytes);
    memset(bytes + (size_t)end * pixel_bytes, 0, (size_t)(columns - end) * pixel_bytes);
}

#if QN_PATCH_BITS == 8
/* Adds 128 to each byte, four at a time. */
static void codes_offset(uint8_t *bytes, int32_t count)
{
    for (; count >= 4; count -= 4, bytes += 4) {
        uint32_t four;
        memcpy(&four, bytes, sizeof four);
        four ^= 0x80808080u;
        memcpy(bytes, &four, sizeof four);
    }
    for (; count > 0; count--) {
        *bytes++ ^= 128;
    }
}
#endif

/* One kernel row as the product takes it. */
static void patch_gather_codes(const block *b, int32_t row, int32_t column, qn_patch_code *patch)
{
    const int32_t row_length = b->node->kernel_width * b->x->channels;
#if QN_PATCH_BITS == 16
    uint8_t *bytes = (uint8_t *)patch + row_length; /* the upper half of its own place, spread from the front */
    const int8_t *codes_s8 = (const int8_t *)bytes;

    patch_gather_row(b, row, column, bytes);
    for (int32_t k = 0; k < row_length; k++) {
        patch[k] = b->x->storage == QN_S8 ? codes_s8[k] : bytes[k];
    }
#else
    uint8_t *bytes = (uint8_t *)patch;

#ifdef __ARM_FEATURE_MVE
    if (row >= 0 && row < b->x->height && column >= 0 && column + b->node->kernel_width <= b->x->width) {
        qn_helium_copy(bytes, qn_tensor_row(b->x, row) + (size_t)column * (size_t)b->x->channels, row_length,
                       b->x->storage == OFFSET_STORAGE ? 128 : 0);
        return;
    }
#endif
    patch_gather_row(b, row, column, bytes);
    if (b->x->storage == OFFSET_STORAGE) {
        codes_offset(bytes, row_length);
    }
#endif
}

static void tile_gather(const block *b, int32_t y, int32_t x0, int32_t pixels)
{
    const qn_conv2d *node = b->node;
    const int32_t row_length = node->kernel_width * b->x->channels;

    for (int32_t p = 0; p < pixels; p++) {
        qn_patch_code *patch = b->scratch->patches + (size_t)p * (size_t)b->patch_stride;
        for (int32_t i = 0; i < node->kernel_height; i++) {
            patch_gather_codes(b, y * node->stride - node->padding + i, (x0 + p) * node->stride - node->padding,
                               patch + i * row_length);
        }
    }
}

/* The same for inputs wider than a byte; `patches` holds one kernel row on its way. */
static void tile_gather_s32(const block *b, int32_t y, int32_t x0, int32_t pixels)
{
    const qn_conv2d *node = b->node;
    const int32_t row_length = node->kernel_width * b->x->channels;

    for (int32_t p = 0; p < pixels; p++) {
        int32_t *patch = b->scratch->wide + (size_t)p * (size_t)b->patch_stride;
        for (int32_t i = 0; i < node->kernel_height; i++) {
            uint8_t *bytes = (uint8_t *)b->scratch->patches;
            patch_gather_row(b, y * node->stride - node->padding + i, (x0 + p) * node->stride - node->padding, bytes);
            qn_codes_load_s32(bytes, b->x->storage, patch + i * row_length, row_length);
        }
    }
}

static void tile_multiply_s32(const block *b, const qn_filter_code *filters, int32_t pixels)
{
    for (int32_t p = 0; p < pixels; p++) {
        const int32_t *patch = b->scratch->wide + (size_t)p * (size_t)b->patch_stride;
        for (int32_t f = 0; f < b->filters; f++) {
            const qn_filter_code *filter = filters + (size_t)f * (size_t)b->patch_stride;
            int32_t sum = 0;
            for (int32_t k = 0; k < b->patch_length; k++) {
                sum += patch[k] * filter[k];
            }
            b->scratch->acc[p * b->filter_rows + f] = sum;
        }
    }
}

static int32_t head_decide(const qn_conv2d *node, const int32_t *values, int32_t count)
{
    int32_t best = 0;

    if (node->head == QN_HEAD_THRESHOLD) {
        return values[0] > node->threshold;
    }
    for (int32_t k = 1; k < count; k++) {
        best = values[k] > values[best] ? k : best;
    }
    return best;
}

/* Accumulators of one pixel to its codes at `out`. */
static void pixel_finish(const block *b, int32_t *acc, const int32_t *corrections, uint8_t *out)
{
    const qn_conv2d *node = b->node;
    const int32_t *bias = node->bias + b->first;

#ifdef __ARM_FEATURE_MVE
    const qn_requantize *stage = node->requantize;
    if (stage != NULL && stage->is_narrow && node->head == QN_HEAD_NONE && b->out->storage <= QN_S8) {
        qn_helium_finish(acc, corrections, bias, stage->shift + b->first, stage->q_min, stage->q_max, b->filters,
                         (int8_t *)out + b->first);
        return;
    }
#endif
    for (int32_t f = 0; f < b->filters; f++) {
        acc[f] = (acc[f] - corrections[f]) + bias[f];
    }
    if (node->requantize != NULL) {
        qn_acc_requantize_s32(node->requantize, acc, b->first, b->filters);
    }
    if (node->head == QN_HEAD_NONE) {
        qn_codes_store_s32(out + (size_t)b->first * qn_storage_bytes(b->out->storage), b->out->storage, acc,
                           b->filters);
    } else {
        const int32_t label = head_decide(node, acc, b->filters);
        qn_codes_store_s32(out, b->out->storage, &label, 1);
    }
}

static void tile_run(const block *b, int32_t y, int32_t x0, int32_t pixels)
{
    const int32_t up = b->node->upsample;
    const size_t plane = (size_t)b->filter_rows * (size_t)b->patch_stride;
    const size_t pixel_bytes = (size_t)b->out->channels * qn_storage_bytes(b->out->storage);

    if (b->node->is_wide) {
        tile_gather_s32(b, y, x0, pixels);
    } else {
        tile_gather(b, y, x0, pixels);
    }
    for (int32_t position = 0; position < up * up; position++) {
        const qn_filter_code *filters = b->scratch->filters + (size_t)position * plane;
        uint8_t *row = qn_tensor_row(b->out, y * up + position / up);
        if (b->node->is_wide) {
            tile_multiply_s32(b, filters, pixels);
        } else {
            qn_product_run(b->scratch->patches, filters, (size_t)b->patch_stride, b->filter_rows, pixels,
                           b->scratch->acc);
        }
        for (int32_t p = 0; p < pixels; p++) {
            const size_t column = (size_t)((x0 + p) * up + position % up);
            pixel_finish(b, b->scratch->acc + p * b->filter_rows, b->scratch->corrections + position * b->filter_rows,
                         row + column * pixel_bytes);
        }
    }
}

void qn_conv2d_run(const qn_conv2d *node, const qn_tensor *x, const qn_tensor *out, qn_rows rows,
                   const qn_scratch *scratch)
{
    const int32_t up = node->upsample;
    const int32_t begin = rows.first / up, end = (rows.first + rows.count) / up, width = out->width / up;
    const uint8_t *packed = node->weight;
    block b = {node, x, out, scratch, 0, 0, 0, 0, 0};

    b.patch_length = x->channels * (up == 1 ? node->kernel_height * node->kernel_width : 1);
    b.patch_stride = round_up(b.patch_length, QN_LANES);
    for (b.first = 0; b.first < node->out_channels; b.first += node->filter_block) {
        const int32_t left = node->out_channels - b.first;
        b.filters = left < node->filter_block ? left : node->filter_block;
        b.filter_rows = round_up(b.filters, 4);
        packed = block_expand(&b, packed, up * up);
        for (int32_t y = begin; y < end; y++) {
            for (int32_t x0 = 0; x0 < width; x0 += QN_TILE_PIXELS) {
                const int32_t pixels = width - x0;
                tile_run(&b, y, x0, pixels < QN_TILE_PIXELS ? pixels : QN_TILE_PIXELS);
            }
        }
    }
}
