#include "qn_codes.h"

#include <string.h>

size_t qn_storage_bytes(qn_storage storage)
{
    return storage <= QN_S8 ? 1 : storage <= QN_S16 ? 2 : 4;
}

int32_t qn_packed_bits(qn_storage storage)
{
    return storage >= QN_U2 ? 2 * ((int32_t)storage - QN_U2 + 1) : 0;
}

size_t qn_pixel_bytes(const qn_tensor *x)
{
    if (x->storage >= QN_U2) {
        return (size_t)((x->channels * qn_packed_bits(x->storage) + 7) / 8);
    }
    return (size_t)x->channels * qn_storage_bytes(x->storage);
}

uint8_t *qn_tensor_row(const qn_tensor *x, int32_t row)
{
    return x->codes + (size_t)(row % x->rows) * (size_t)x->width * qn_pixel_bytes(x);
}

const uint8_t *qn_weights_unpack(const uint8_t *packed, int32_t bit_width, int32_t count, int16_t *codes)
{
    const int16_t *const end = codes + count;
    const int32_t unused = 32 - bit_width;
    uint32_t window = 0;
    int32_t available = 0;

    while (codes < end) {
        if (available < bit_width) {
            window |= (uint32_t)*packed++ << available;
            available += 8;
        }
        *codes++ = (int16_t)((int32_t)(window << unused) >> unused);
        window >>= bit_width;
        available -= bit_width;
    }
    return packed;
}

void qn_codes_load_s32(const uint8_t *in, qn_storage storage, int32_t *codes, int32_t count)
{
    const int8_t *in_s8 = (const int8_t *)in;
    uint16_t code_u16;
    int16_t code_s16;

    switch (storage) {
    case QN_U8:
        for (int32_t k = 0; k < count; k++) {
            codes[k] = in[k];
        }
        break;
    case QN_S8:
        for (int32_t k = 0; k < count; k++) {
            codes[k] = in_s8[k];
        }
        break;
    case QN_U16:
        for (int32_t k = 0; k < count; k++) {
            memcpy(&code_u16, in + 2 * k, 2);
            codes[k] = code_u16;
        }
        break;
    case QN_S16:
        for (int32_t k = 0; k < count; k++) {
            memcpy(&code_s16, in + 2 * k, 2);
            codes[k] = code_s16;
        }
        break;
    case QN_S32:
        memcpy(codes, in, 4 * (size_t)count);
        break;
    case QN_U2:
    case QN_U4:
    case QN_U6: /* not here: see qn_packed.h */
        break;
    }
}

void qn_codes_store_s32(uint8_t *out, qn_storage storage, const int32_t *codes, int32_t count)
{
    /* conversion to an unsigned type keeps the low bits: the two's complement code of either sign */
    if (storage <= QN_S8) {
        for (int32_t k = 0; k < count; k++) {
            out[k] = (uint8_t)codes[k];
        }
    } else if (storage <= QN_S16) {
        for (int32_t k = 0; k < count; k++) {
            uint16_t code = (uint16_t)codes[k];
            memcpy(out + 2 * k, &code, 2);
        }
    } else {
        memcpy(out, codes, 4 * (size_t)count);
    }
}

static void acc_requantize_narrow(const qn_requantize *stage, int32_t *acc, const int8_t *shift, int32_t count)
{
    const int32_t q_min = stage->q_min, q_max = stage->q_max;

    for (int32_t k = 0; k < count; k++) {
        const int32_t half = (int32_t)(((uint32_t)1 << shift[k]) >> 1);
        int32_t code = (acc[k] + half) >> shift[k];
        code = code < q_min ? q_min : code;
        acc[k] = code > q_max ? q_max : code;
    }
}

void qn_acc_requantize_s32(const qn_requantize *stage, int32_t *acc, int32_t first, int32_t count)
{
    const int8_t *shift = stage->shift + first;

    if (stage->is_narrow) {
        acc_requantize_narrow(stage, acc, shift, count);
        return;
    }
    for (int32_t k = 0; k < count; k++) {
        int64_t code = acc[k];
        if (stage->multiplier != NULL) {
            code *= stage->multiplier[first + k];
        }
        if (shift[k] > 0) {
            code = (code + ((int64_t)1 << (shift[k] - 1))) >> shift[k];
        } else {
            code *= (int64_t)1 << -shift[k];
        }
        code = code < stage->q_min ? stage->q_min : code;
        acc[k] = (int32_t)(code > stage->q_max ? stage->q_max : code);
    }
}
