// Streams: valid, ready and LANES codes a beat; a beat moves where valid and ready are both high.
// Every output here holds its data while valid is high and ready is low. Reset is synchronous, active high.

// A queue of DEPTH words and one more in its output register.
module qn_fifo #(
    parameter BITS = 8,
    parameter DEPTH = 16
) (
    input wire clk,
    input wire rst,
    input wire in_valid,
    output wire in_ready,
    input wire [BITS-1:0] in_data,
    output reg out_valid,
    input wire out_ready,
    output reg [BITS-1:0] out_data
);
    localparam ADDRESS = DEPTH > 1 ? $clog2(DEPTH) : 1;
    localparam COUNT = $clog2(DEPTH + 1);
    localparam [ADDRESS-1:0] LAST = DEPTH - 1;

    reg [BITS-1:0] words[0:DEPTH-1];
    reg [ADDRESS-1:0] write_at, read_at;
    reg [COUNT-1:0] count;
    assign in_ready = count != DEPTH;
    wire write = in_valid && in_ready;
    wire read = count != 0 && (!out_valid || out_ready);

    always @(posedge clk) begin
        if (write) words[write_at] <= in_data;
        if (read) out_data <= words[read_at];
    end
    always @(posedge clk) begin
        if (rst || (write && write_at == LAST)) write_at <= 0;
        else if (write) write_at <= write_at + 1'b1;
        if (rst || (read && read_at == LAST)) read_at <= 0;
        else if (read) read_at <= read_at + 1'b1;
        if (rst) count <= 0;
        else if (write != read) count <= count + (write ? {{COUNT - 1{1'b0}}, 1'b1} : {COUNT{1'b1}});
        if (rst) out_valid <= 0;
        else out_valid <= read || (out_valid && !out_ready);
    end
endmodule

// One stream to several readers; each takes a beat when it is ready, the writer goes on when all have it.
module qn_fork #(
    parameter BITS = 8,
    parameter READERS = 2
) (
    input wire clk,
    input wire rst,
    input wire in_valid,
    output wire in_ready,
    input wire [BITS-1:0] in_data,
    output wire [READERS-1:0] out_valid,
    input wire [READERS-1:0] out_ready,
    output wire [BITS-1:0] out_data
);
    reg [READERS-1:0] taken;
    assign out_valid = {READERS{in_valid}} & ~taken;
    assign in_ready = &(taken | out_ready);
    assign out_data = in_data;
    always @(posedge clk) begin
        if (rst || (in_valid && in_ready)) taken <= 0;
        else if (in_valid) taken <= taken | out_ready;
    end
endmodule

// Gathers BEATS beats of each pixel into words of PACK beats, the last in the highest bits. Below the beats of a word
// that is not full stands what came before: the weights there are 0.
module qn_gear #(
    parameter BITS = 8,
    parameter BEATS = 8,
    parameter PACK = 4
) (
    input wire clk,
    input wire rst,
    input wire in_valid,
    output wire in_ready,
    input wire [BITS-1:0] in_data,
    output reg out_valid,
    input wire out_ready,
    output reg [BITS*PACK-1:0] out_data
);
    localparam PLACE = PACK > 1 ? $clog2(PACK) : 1;
    localparam BEAT = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam [PLACE-1:0] LAST_PLACE = PACK - 1;
    localparam [BEAT-1:0] LAST_BEAT = BEATS - 1;
    reg [PLACE-1:0] place;
    wire pixel_end, fills;
    wire move = in_valid && in_ready;
    assign in_ready = !out_valid || out_ready;
    assign fills = place == LAST_PLACE || pixel_end;
    generate
        if (BEATS % PACK == 0) begin : even
            assign pixel_end = 0;
        end else begin : uneven
            reg [BEAT-1:0] beat;
            assign pixel_end = beat == LAST_BEAT;
            always @(posedge clk) begin
                if (rst || (move && pixel_end)) beat <= 0;
                else if (move) beat <= beat + 1'b1;
            end
        end
        if (PACK > 1) begin : several
            always @(posedge clk) if (move) out_data <= {in_data, out_data[BITS*PACK-1:BITS]};
        end else begin : one
            always @(posedge clk) if (move) out_data <= in_data;
        end
    endgenerate
    always @(posedge clk) begin
        if (rst || (move && fills)) place <= 0;
        else if (move) place <= place + 1'b1;
        if (rst) out_valid <= 0;
        else out_valid <= (move && fills) || (out_valid && !out_ready);
    end
endmodule

// The channels of two streams, pixel by pixel: A_BEATS beats of the first, then B_BEATS of the second.
module qn_concat #(
    parameter BITS = 8,
    parameter A_BEATS = 1,
    parameter B_BEATS = 1
) (
    input wire clk,
    input wire rst,
    input wire a_valid,
    output wire a_ready,
    input wire [BITS-1:0] a_data,
    input wire b_valid,
    output wire b_ready,
    input wire [BITS-1:0] b_data,
    output wire out_valid,
    input wire out_ready,
    output wire [BITS-1:0] out_data
);
    localparam MOST = A_BEATS > B_BEATS ? A_BEATS : B_BEATS;
    localparam BEAT = MOST > 1 ? $clog2(MOST) : 1;
    localparam [BEAT-1:0] A_LAST = A_BEATS - 1;
    localparam [BEAT-1:0] B_LAST = B_BEATS - 1;
    reg second;
    reg [BEAT-1:0] beat;
    assign out_valid = second ? b_valid : a_valid;
    assign out_data = second ? b_data : a_data;
    assign a_ready = out_ready && !second;
    assign b_ready = out_ready && second;
    always @(posedge clk) begin
        if (rst) begin
            second <= 0;
            beat <= 0;
        end else if (out_valid && out_ready) begin
            if (beat == (second ? B_LAST : A_LAST)) begin
                beat <= 0;
                second <= !second;
            end else beat <= beat + 1'b1;
        end
    end
endmodule
