// The mask: one byte a pixel.

// 1 where the code of the first lane is greater than LIMIT.
module qn_threshold #(
    parameter BITS = 14,
    parameter SIGNED = 1,
    parameter signed [32:0] LIMIT = 0
) (
    input wire [BITS-1:0] code,
    output wire label
);
    wire signed [BITS:0] value = {SIGNED && code[BITS-1], code};
    assign label = value > LIMIT;
endmodule

// The channel with the largest code of a pixel, the lowest channel of several. CHANNELS holds the channel of every
// place of a pixel's BEATS x LANES, INDEX bits each, and above them whether there is one.
module qn_arg_max #(
    parameter BITS = 8,
    parameter LANES = 1,
    parameter SIGNED = 1,
    parameter BEATS = 2,
    parameter INDEX = 1,
    parameter [BEATS*LANES*(INDEX+1)-1:0] CHANNELS = 0
) (
    input wire clk,
    input wire rst,
    input wire in_valid,
    output wire in_ready,
    input wire [LANES*BITS-1:0] in_data,
    output reg out_valid,
    input wire out_ready,
    output wire [INDEX-1:0] out_data
);
    localparam BEAT = BEATS > 1 ? $clog2(BEATS) : 1;
    reg [BEAT-1:0] beat;
    reg has_best;
    reg signed [BITS:0] best;
    reg [INDEX-1:0] best_channel;
    assign in_ready = !out_valid || out_ready;
    assign out_data = best_channel;

    reg found;
    reg signed [BITS:0] value, most;
    reg [INDEX-1:0] channel;
    reg [INDEX:0] place;
    integer l;
    always @* begin
        found = has_best;
        most = best;
        channel = best_channel;
        value = 0;
        place = 0;
        for (l = 0; l < LANES; l = l + 1) begin
            place = CHANNELS[(beat*LANES+l)*(INDEX+1)+:INDEX+1];
            value = {SIGNED && in_data[l*BITS+BITS-1], in_data[l*BITS+:BITS]};
            if (place[INDEX] && (!found || value > most || (value == most && place[INDEX-1:0] < channel))) begin
                found = 1;
                most = value;
                channel = place[INDEX-1:0];
            end
        end
    end
    always @(posedge clk) begin
        if (rst) begin
            beat <= 0;
            has_best <= 0;
            out_valid <= 0;
        end else begin
            if (in_valid && in_ready) begin
                best <= most;
                best_channel <= channel;
                has_best <= beat != BEATS - 1;
                beat <= beat == BEATS - 1 ? {BEAT{1'b0}} : beat + 1'b1;
                out_valid <= beat == BEATS - 1;
            end else if (out_ready) out_valid <= 0;
        end
    end
endmodule
