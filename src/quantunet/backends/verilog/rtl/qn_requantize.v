// Accumulators to codes.

// Keeps the FILTERS sums of a fold and hands them on, LANES at a time, the first in the lowest bits. `index` is the
// beat's number in the pixel; ENDS has a 1 for every beat that is the last of its fold. A beat leaves where `move` is
// high; the next sums are taken with `load`, which may be high only where `ready` is.
module qn_serialize #(
    parameter FILTERS = 4,
    parameter LANES = 1,
    parameter BITS = 16,
    parameter BEATS = 4,       // of a fold, at the most
    parameter COUNT = 8,       // of a pixel
    parameter INDEX = 3,
    parameter [COUNT-1:0] ENDS = 8'h88
) (
    input wire clk,
    input wire rst,
    input wire move,
    input wire load,
    output wire ready,
    input wire [INDEX-1:0] index,
    input wire [FILTERS*BITS-1:0] sums,
    output reg out_valid,
    output wire [LANES*BITS-1:0] out_data
);
    localparam BEAT = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam WORD = LANES * BITS;
    reg [FILTERS*BITS-1:0] held;
    reg [BEAT-1:0] beat;
    wire last = ENDS[index];
    wire done = move && last;
    assign ready = !out_valid || done;
    genvar l, w;
    generate
        for (l = 0; l <= BEAT; l = l + 1) begin : level  // a tree of 2:1 choices, by the lowest bit of `beat` first
            wire [(WORD<<BEAT>>l)-1:0] words;
        end
        assign level[0].words = held;
        for (l = 0; l < BEAT; l = l + 1) begin : choose
            for (w = 0; w < (1 << BEAT >> (l + 1)); w = w + 1) begin : one
                assign level[l+1].words[w*WORD+:WORD] =
                    beat[l] ? level[l].words[(2*w+1)*WORD+:WORD] : level[l].words[2*w*WORD+:WORD];
            end
        end
    endgenerate
    assign out_data = level[BEAT].words;
    always @(posedge clk) begin
        if (load) held <= sums;
        if (rst) out_valid <= 0;
        else out_valid <= load || (out_valid && !done);
        if (rst || (out_valid && done)) beat <= 0;
        else if (out_valid && move) beat <= beat + 1'b1;
    end
endmodule

// clamp(floor((acc + bias) * multiplier / 2^shift + 1/2)), one lane; `entry` comes one clock after `acc` and holds, from
// the lowest bit, bias, shift and multiplier. By shifts alone (MULTIPLIES = 0) the 1/2 is in the bias, the value
// goes LEFT places left and RIGHT + shift places right. RAW hands acc + bias on. Three clocks in which `move` is high,
// five with a multiplier.
module qn_requantize #(
    parameter ACC = 16,
    parameter BIAS = 16,
    parameter SUM = 17,        // bits that hold acc + bias
    parameter SHIFT = 2,
    parameter LEFT = 0,
    parameter RIGHT = 0,
    parameter MULTIPLIES = 0,
    parameter RAW = 0,
    parameter OUT = 4,
    parameter SIGNED = 0,
    parameter signed [32:0] LOW = 0,
    parameter signed [32:0] HIGH = 15
) (
    input wire clk,
    input wire move,
    input wire signed [ACC-1:0] acc,
    input wire [BIAS+SHIFT+31*MULTIPLIES-1:0] entry,
    output reg [OUT-1:0] code
);
    wire signed [BIAS-1:0] bias = entry[BIAS-1:0];
    wire [SHIFT-1:0] shift = entry[BIAS+:SHIFT];
    reg signed [ACC-1:0] acc_held;
    reg signed [SUM-1:0] sum;
    reg [SHIFT-1:0] shift_held;
    always @(posedge clk) if (move) begin
        acc_held <= acc;
        sum <= acc_held + bias;
        shift_held <= shift;
    end
    generate
        if (RAW) begin : raw
            always @(posedge clk) if (move) code <= sum;
        end else if (MULTIPLIES) begin : by_multiplier
            // the field of shifts is split: left where its highest bit is set
            reg signed [31:0] multiplier;
            reg signed [63:0] product, rounded;
            reg [SHIFT-1:0] shift_product;
            wire signed [63:0] half = shift_product[SHIFT-2:0] == 0 ? 64'sd0 : 64'sd1 <<< (shift_product[SHIFT-2:0] - 1'b1);
            always @(posedge clk) if (move) begin
                multiplier <= {1'b0, entry[BIAS+SHIFT+:31]};
                product <= sum * multiplier;
                shift_product <= shift_held;
                rounded <= shift_product[SHIFT-1] ? product <<< shift_product[SHIFT-2:0]
                    : (product + half) >>> shift_product[SHIFT-2:0];
                code <= rounded < LOW ? LOW[OUT-1:0] : rounded > HIGH ? HIGH[OUT-1:0] : rounded[OUT-1:0];
            end
        end else begin : by_shift
            localparam KEPT = SUM + LEFT > RIGHT + 1 ? SUM + LEFT - RIGHT : 2;
            wire signed [SUM+LEFT:0] wide = {sum[SUM-1], sum, {LEFT{1'b0}}};
            wire signed [SUM+LEFT:0] near = wide >>> RIGHT;
            wire signed [KEPT-1:0] kept = near[KEPT-1:0];
            wire signed [KEPT-1:0] value = kept >>> shift_held;
            // to the format's own range by its bits, no comparison
            wire signed [KEPT+OUT:0] long = value;  // at least one bit more than the code has
            wire negative = value[KEPT-1];
            wire below = SIGNED ? negative && !(&long[KEPT+OUT:OUT-1]) : negative;
            wire above = !negative && |long[KEPT+OUT:OUT-SIGNED];
            wire [OUT-1:0] least = SIGNED ? 1 << (OUT - 1) : 0;
            wire [OUT-1:0] most = SIGNED ? (1 << (OUT - 1)) - 1 : {OUT{1'b1}};
            wire [OUT-1:0] clamped = below ? least : above ? most : long[OUT-1:0];
            if (SIGNED && LOW != -(33'sd1 <<< (OUT - 1))) begin : narrow
                always @(posedge clk) if (move) code <= clamped == least ? LOW[OUT-1:0] : clamped;
            end else begin : whole
                always @(posedge clk) if (move) code <= clamped;
            end
        end
    endgenerate
endmodule
