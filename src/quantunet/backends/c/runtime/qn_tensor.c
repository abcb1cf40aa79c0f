/* Kernels that move, compare or rescale codes pixel by pixel. */
#include <string.h>

#include "qn_codes.h"
#include "qn_packed.h"
#include "qn_runtime.h"

static const uint8_t *pixel_at(const qn_tensor *x, int32_t row, int32_t column)
{
    return qn_tensor_row(x, row) + (size_t)column * qn_pixel_bytes(x);
}

static int32_t chunk_count(int32_t channels, int32_t first)
{
    return channels - first < QN_CHUNK ? channels - first : QN_CHUNK;
}

static void max_u8(const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d, uint8_t *out, int32_t count)
{
    for (int32_t k = 0; k < count; k++) {
        const uint8_t ab = a[k] > b[k] ? a[k] : b[k], cd = c[k] > d[k] ? c[k] : d[k];
        out[k] = ab > cd ? ab : cd;
    }
}

/* Four channels of a packed pixel, or the `count` that there are. */
static inline uint32_t four_load(const uint8_t *four, int32_t bits, int32_t count)
{
    const int32_t bytes = (count * bits + 7) / 8;
    const uint32_t second = bytes > 1 ? four[1] : 0, third = bytes > 2 ? four[2] : 0;

    return four[0] | second << 8 | third << 16;
}

static inline void max_four(const uint8_t *const *corners, int32_t offset, int32_t bits, uint8_t *out, int32_t count)
{
    const uint32_t a = four_load(corners[0] + offset, bits, count), b = four_load(corners[1] + offset, bits, count),
                   c = four_load(corners[2] + offset, bits, count), d = four_load(corners[3] + offset, bits, count);

#pragma GCC unroll 4
    for (int32_t j = 0; j < count; j++) {
        const int32_t p = qn_packed_code(a, bits, j), q = qn_packed_code(b, bits, j), r = qn_packed_code(c, bits, j),
                      s = qn_packed_code(d, bits, j), pq = p > q ? p : q, rs = r > s ? r : s;
        out[j] = (uint8_t)(pq > rs ? pq : rs);
    }
}

static inline void max_packed(const uint8_t *const *corners, int32_t bits, uint8_t *out, int32_t count)
{
    int32_t k = 0, offset = 0;

    for (; k + 4 <= count; k += 4, offset += bits / 2) {
        max_four(corners, offset, bits, out + k, 4);
    }
    if (k < count) {
        max_four(corners, offset, bits, out + k, count - k);
    }
}

static void max_any(const uint8_t *const *corners, qn_storage storage, uint8_t *out, int32_t count)
{
    const size_t code_bytes = qn_storage_bytes(storage);
    int32_t largest[QN_CHUNK], other[QN_CHUNK];

    for (int32_t k = 0; k < count; k += QN_CHUNK) {
        const int32_t n = chunk_count(count, k);
        const size_t offset = (size_t)k * code_bytes;
        qn_codes_load_s32(corners[0] + offset, storage, largest, n);
        for (int32_t corner = 1; corner < 4; corner++) {
            qn_codes_load_s32(corners[corner] + offset, storage, other, n);
            for (int32_t j = 0; j < n; j++) {
                largest[j] = other[j] > largest[j] ? other[j] : largest[j];
            }
        }
        qn_codes_store_s32(out + offset, storage, largest, n);
    }
}

void qn_maxpool2d_run(const qn_tensor *x, const qn_tensor *out, qn_rows rows)
{
    const size_t pixel_bytes = qn_pixel_bytes(out);

    for (int32_t row = rows.first; row < rows.first + rows.count; row++) {
        uint8_t *pixel = qn_tensor_row(out, row);
        for (int32_t column = 0; column < out->width; column++, pixel += pixel_bytes) {
            const uint8_t *corners[4] = {pixel_at(x, 2 * row, 2 * column), pixel_at(x, 2 * row, 2 * column + 1),
                                         pixel_at(x, 2 * row + 1, 2 * column),
                                         pixel_at(x, 2 * row + 1, 2 * column + 1)};
            switch (x->storage) {
            case QN_U8:
                max_u8(corners[0], corners[1], corners[2], corners[3], pixel, x->channels);
                break;
            case QN_U2:
                max_packed(corners, 2, pixel, x->channels);
                break;
            case QN_U4:
                max_packed(corners, 4, pixel, x->channels);
                break;
            case QN_U6:
                max_packed(corners, 6, pixel, x->channels);
                break;
            default:
                max_any(corners, x->storage, pixel, x->channels);
                break;
            }
        }
    }
}

void qn_nearest2d_upsample(const qn_tensor *x, const qn_tensor *out, qn_rows rows)
{
    const size_t pixel_bytes = (size_t)x->channels * qn_storage_bytes(x->storage);

    for (int32_t row = rows.first; row < rows.first + rows.count; row++) {
        const uint8_t *from = qn_tensor_row(x, row / 2);
        uint8_t *pixel = qn_tensor_row(out, row);
        for (int32_t column = 0; column < out->width; column++, pixel += pixel_bytes) {
            memcpy(pixel, from + (size_t)(column / 2) * pixel_bytes, pixel_bytes);
        }
    }
}

/* The neighbour that shares an output position with `index / 2`, clamped to the edge. */
static int32_t neighbour(int32_t index, int32_t length)
{
    const int32_t other = index % 2 ? index / 2 + 1 : index / 2 - 1;
    return other < 0 ? 0 : other >= length ? length - 1 : other;
}

static void acc_add_scaled_s32(const uint8_t *codes, qn_storage storage, int32_t factor, int32_t *acc, int32_t count)
{
    int32_t values[QN_CHUNK];

    qn_codes_load_s32(codes, storage, values, count);
    for (int32_t k = 0; k < count; k++) {
        acc[k] += factor * values[k];
    }
}

void qn_bilinear2d_upsample(const qn_tensor *x, const qn_requantize *stage, const qn_tensor *out, qn_rows rows)
{
    const size_t in_bytes = qn_storage_bytes(x->storage), out_bytes = qn_storage_bytes(out->storage);
    int32_t acc[QN_CHUNK];

    for (int32_t row = rows.first; row < rows.first + rows.count; row++) {
        const int32_t near_row = row / 2, far_row = neighbour(row, x->height);
        uint8_t *codes = qn_tensor_row(out, row);
        for (int32_t column = 0; column < out->width; column++) {
            const int32_t near_column = column / 2, far_column = neighbour(column, x->width);
            for (int32_t k = 0; k < x->channels; k += QN_CHUNK) {
                const int32_t n = chunk_count(x->channels, k);
                const size_t offset = (size_t)k * in_bytes;
                memset(acc, 0, sizeof acc);
                acc_add_scaled_s32(pixel_at(x, near_row, near_column) + offset, x->storage, 9, acc, n);
                acc_add_scaled_s32(pixel_at(x, near_row, far_column) + offset, x->storage, 3, acc, n);
                acc_add_scaled_s32(pixel_at(x, far_row, near_column) + offset, x->storage, 3, acc, n);
                acc_add_scaled_s32(pixel_at(x, far_row, far_column) + offset, x->storage, 1, acc, n);
                qn_acc_requantize_s32(stage, acc, k, n);
                qn_codes_store_s32(codes, out->storage, acc, n);
                codes += (size_t)n * out_bytes;
            }
        }
    }
}

void qn_codes_rescale(const qn_tensor *x, const qn_requantize *stage, const qn_tensor *out, qn_rows rows)
{
    int32_t acc[QN_CHUNK];

    for (int32_t row = rows.first; row < rows.first + rows.count; row++) {
        const uint8_t *in = qn_tensor_row(x, row);
        uint8_t *codes = qn_tensor_row(out, row);
        for (int32_t column = 0; column < x->width; column++) {
            for (int32_t k = 0; k < x->channels; k += QN_CHUNK) {
                const int32_t n = chunk_count(x->channels, k);
                qn_codes_load_s32(in, x->storage, acc, n);
                qn_acc_requantize_s32(stage, acc, k, n);
                qn_codes_store_s32(codes, out->storage, acc, n);
                in += (size_t)n * qn_storage_bytes(x->storage);
                codes += (size_t)n * qn_storage_bytes(out->storage);
            }
        }
    }
}

void qn_channels_copy(const qn_tensor *x, const qn_tensor *out, int32_t first_channel, qn_rows rows)
{
    const size_t in_bytes = qn_storage_bytes(x->storage), out_bytes = qn_storage_bytes(out->storage);
    int32_t codes[QN_CHUNK];

    for (int32_t row = rows.first; row < rows.first + rows.count; row++) {
        const uint8_t *in = qn_tensor_row(x, row);
        uint8_t *pixel = qn_tensor_row(out, row) + (size_t)first_channel * out_bytes;
        for (int32_t column = 0; column < x->width; column++) {
            if (x->storage == out->storage) {
                memcpy(pixel, in, (size_t)x->channels * in_bytes);
            } else {
                for (int32_t k = 0; k < x->channels; k += QN_CHUNK) {
                    const int32_t n = chunk_count(x->channels, k);
                    qn_codes_load_s32(in + (size_t)k * in_bytes, x->storage, codes, n);
                    qn_codes_store_s32(pixel + (size_t)k * out_bytes, out->storage, codes, n);
                }
            }
            in += (size_t)x->channels * in_bytes;
            pixel += (size_t)out->channels * out_bytes;
        }
    }
}

void qn_mask_threshold(const qn_tensor *x, int64_t threshold, const qn_tensor *out, qn_rows rows)
{
    const size_t in_bytes = qn_storage_bytes(x->storage), out_bytes = qn_storage_bytes(out->storage);

    for (int32_t row = rows.first; row < rows.first + rows.count; row++) {
        const uint8_t *in = qn_tensor_row(x, row);
        uint8_t *label = qn_tensor_row(out, row);
        for (int32_t column = 0; column < x->width; column++, in += in_bytes, label += out_bytes) {
            int32_t code;
            qn_codes_load_s32(in, x->storage, &code, 1);
            code = code > threshold;
            qn_codes_store_s32(label, out->storage, &code, 1);
        }
    }
}

void qn_mask_argmax(const qn_tensor *x, const qn_tensor *out, qn_rows rows)
{
    const size_t in_bytes = qn_storage_bytes(x->storage), out_bytes = qn_storage_bytes(out->storage);

    for (int32_t row = rows.first; row < rows.first + rows.count; row++) {
        const uint8_t *in = qn_tensor_row(x, row);
        uint8_t *label = qn_tensor_row(out, row);
        for (int32_t column = 0; column < x->width; column++, label += out_bytes) {
            int32_t best = 0, largest = 0, code;
            for (int32_t k = 0; k < x->channels; k++, in += in_bytes) {
                qn_codes_load_s32(in, x->storage, &code, 1);
                if (k == 0 || code > largest) {
                    largest = code;
                    best = k;
                }
            }
            qn_codes_store_s32(label, out->storage, &best, 1);
        }
    }
}
