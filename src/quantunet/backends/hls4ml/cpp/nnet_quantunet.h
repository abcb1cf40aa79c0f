// What hls4ml lacks for an integer U-Net, as streams of pixels; a pixel is an nnet::array of channels.
#ifndef NNET_QUANTUNET_H_
#define NNET_QUANTUNET_H_

#include "hls_stream.h"
#include "nnet_common.h"

namespace nnet {

// clamp(floor(acc * multiplier / 2^shift + 1/2)) by channel; a negative shift multiplies
template <class data_T, class res_T, typename CONFIG_T>
void quantunet_requantize(hls::stream<data_T> &data, hls::stream<res_T> &res) {
Pixels:
    for (unsigned i = 0; i < CONFIG_T::n_pixels; i++) {
        #pragma HLS PIPELINE II=1
        data_T in = data.read();
        res_T out;
        PRAGMA_DATA_PACK(out)
    Channels:
        for (unsigned c = 0; c < CONFIG_T::n_chan; c++) {
            #pragma HLS UNROLL
            ap_int<CONFIG_T::work_bits> value = in[c];
            if (CONFIG_T::has_multiplier) {
                value *= ap_int<CONFIG_T::work_bits>(CONFIG_T::multiplier(c));
            }
            const int shift = CONFIG_T::shift(c);
            if (shift > 0) {
                value = (value + (ap_int<CONFIG_T::work_bits>(1) << (shift - 1))) >> shift;
            } else {
                value = value << -shift;
            }
            if (value < CONFIG_T::q_min) {
                value = CONFIG_T::q_min;
            } else if (value > CONFIG_T::q_max) {
                value = CONFIG_T::q_max;
            }
            out[c] = value;
        }
        res.write(out);
    }
}

// each pixel becomes a block of 2x2
template <class data_T, class res_T, typename CONFIG_T>
void quantunet_upsample_nearest(hls::stream<data_T> &data, hls::stream<res_T> &res) {
    res_T row[CONFIG_T::in_width];
Rows:
    for (unsigned y = 0; y < CONFIG_T::in_height; y++) {
    FirstRow:
        for (unsigned x = 0; x < 2 * CONFIG_T::in_width; x++) {
            #pragma HLS PIPELINE II=1
            if (x % 2 == 0) {
                data_T in = data.read();
                for (unsigned c = 0; c < CONFIG_T::n_chan; c++) {
                    #pragma HLS UNROLL
                    row[x / 2][c] = in[c];
                }
            }
            res.write(row[x / 2]);
        }
    SecondRow:
        for (unsigned x = 0; x < 2 * CONFIG_T::in_width; x++) {
            #pragma HLS PIPELINE II=1
            res.write(row[x / 2]);
        }
    }
}

// a transposed convolution 2x2 of stride 2 after its products: channel (2 i + j) n_chan + o goes to pixel (2 y + i, 2 x + j)
template <class data_T, class res_T, typename CONFIG_T>
void quantunet_depth_to_space(hls::stream<data_T> &data, hls::stream<res_T> &res) {
    data_T row[CONFIG_T::in_width];
Rows:
    for (unsigned y = 0; y < CONFIG_T::in_height; y++) {
    Halves:
        for (unsigned i = 0; i < 2; i++) {
        Columns:
            for (unsigned x = 0; x < 2 * CONFIG_T::in_width; x++) {
                #pragma HLS PIPELINE II=1
                if (i == 0 && x % 2 == 0) {
                    row[x / 2] = data.read();
                }
                res_T out;
                PRAGMA_DATA_PACK(out)
                for (unsigned c = 0; c < CONFIG_T::n_chan; c++) {
                    #pragma HLS UNROLL
                    out[c] = row[x / 2][(2 * i + x % 2) * CONFIG_T::n_chan + c];
                }
                res.write(out);
            }
        }
    }
}

template <class data_T, class res_T, typename CONFIG_T>
void quantunet_bilinear_row(data_T above[CONFIG_T::in_width], data_T below[CONFIG_T::in_width], int weight_above,
                            int weight_below, hls::stream<res_T> &res) {
    for (unsigned x = 0; x < 2 * CONFIG_T::in_width; x++) {
        #pragma HLS PIPELINE II=1
        const unsigned near = x / 2;
        const unsigned far = x % 2 ? (near + 1 < CONFIG_T::in_width ? near + 1 : near) : (near > 0 ? near - 1 : 0);
        res_T out;
        PRAGMA_DATA_PACK(out)
        for (unsigned c = 0; c < CONFIG_T::n_chan; c++) {
            #pragma HLS UNROLL
            ap_int<CONFIG_T::work_bits> sum = 0;
            sum += ap_int<CONFIG_T::work_bits>(above[near][c]) * (3 * weight_above);
            sum += ap_int<CONFIG_T::work_bits>(below[near][c]) * (3 * weight_below);
            sum += ap_int<CONFIG_T::work_bits>(above[far][c]) * weight_above;
            sum += ap_int<CONFIG_T::work_bits>(below[far][c]) * weight_below;
            out[c] = sum;
        }
        res.write(out);
    }
}

// bilinear x2, half-pixel centres, edges repeated: 16 times the value
template <class data_T, class res_T, typename CONFIG_T>
void quantunet_upsample_bilinear(hls::stream<data_T> &data, hls::stream<res_T> &res) {
    data_T above[CONFIG_T::in_width];
    data_T below[CONFIG_T::in_width];
Rows:
    for (unsigned y = 0; y < CONFIG_T::in_height; y++) {
    ReadRow:
        for (unsigned x = 0; x < CONFIG_T::in_width; x++) {
            #pragma HLS PIPELINE II=1
            data_T in = data.read();
            above[x] = y == 0 ? in : below[x];
            below[x] = in;
        }
        if (y > 0) {
            quantunet_bilinear_row<data_T, res_T, CONFIG_T>(above, below, 3, 1, res);
        }
        quantunet_bilinear_row<data_T, res_T, CONFIG_T>(above, below, 1, 3, res);
        if (y + 1 == CONFIG_T::in_height) {
            quantunet_bilinear_row<data_T, res_T, CONFIG_T>(above, below, 0, 4, res);
        }
    }
}

// 1 where the only channel is greater than the threshold
template <class data_T, class res_T, typename CONFIG_T>
void quantunet_threshold(hls::stream<data_T> &data, hls::stream<res_T> &res) {
Pixels:
    for (unsigned i = 0; i < CONFIG_T::n_pixels; i++) {
        #pragma HLS PIPELINE II=1
        data_T in = data.read();
        res_T out;
        PRAGMA_DATA_PACK(out)
        out[0] = in[0] > CONFIG_T::limit ? 1 : 0;
        res.write(out);
    }
}

// the index of the largest channel; the lowest index wins a tie
template <class data_T, class res_T, typename CONFIG_T>
void quantunet_argmax(hls::stream<data_T> &data, hls::stream<res_T> &res) {
Pixels:
    for (unsigned i = 0; i < CONFIG_T::n_pixels; i++) {
        #pragma HLS PIPELINE II=1
        data_T in = data.read();
        res_T out;
        PRAGMA_DATA_PACK(out)
        unsigned best = 0;
        for (unsigned c = 1; c < CONFIG_T::n_chan; c++) {
            #pragma HLS UNROLL
            if (in[c] > in[best]) {
                best = c;
            }
        }
        out[0] = best;
        res.write(out);
    }
}

} // namespace nnet

#endif
