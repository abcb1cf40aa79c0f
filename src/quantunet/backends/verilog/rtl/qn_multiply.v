// Dot products by multipliers: for filters whose bit planes take more tables than a multiplier is worth.

// One filter, in the place of `qn_dot` and in as many clocks: LANES products, a tree, the accumulator. DELAY >= 0 clocks
// fill up what the planes of `qn_dot` take longer: the first in front of the products, where multipliers have registers.
module qn_dot_multiply #(
    parameter LANES = 8,
    parameter BITS = 4,
    parameter SIGNED = 0,
    parameter WEIGHT = 3,
    parameter DELAY = 1,
    parameter ACC = 16
) (
    input wire clk,
    input wire run,
    input wire [((LANES+1)/2)*(3*BITS+1)-1:0] pairs,
    input wire [LANES*WEIGHT-1:0] weights,
    input wire add,
    input wire first,
    output reg signed [ACC-1:0] acc
);
    localparam DEPTH = LANES > 1 ? $clog2(LANES) : 0;
    localparam LEAVES = 1 << DEPTH;
    localparam PRODUCT = BITS + WEIGHT + 1;
    localparam LATE = DELAY > 1 ? DELAY - 1 : 0;

    genvar l, s;
    generate
        for (l = 0; l <= DEPTH; l = l + 1) begin : level
            wire [(PRODUCT+l)*(LEAVES>>l)-1:0] sums;
        end
        for (s = 0; s < LEAVES; s = s + 1) begin : leaf
            if (s < LANES) begin : used
                wire [BITS-1:0] bits = pairs[(s/2)*(3*BITS+1)+(s%2)*BITS+:BITS];
                wire signed [BITS:0] code = {SIGNED && bits[BITS-1], bits};
                wire signed [WEIGHT-1:0] weight = weights[s*WEIGHT+:WEIGHT];
                reg signed [PRODUCT-1:0] product;
                if (DELAY > 0) begin : registered
                    reg signed [BITS:0] code_held;
                    reg signed [WEIGHT-1:0] weight_held;
                    always @(posedge clk) if (run) begin
                        code_held <= code;
                        weight_held <= weight;
                        product <= code_held * weight_held;
                    end
                end else begin : direct
                    always @(posedge clk) if (run) product <= code * weight;
                end
                assign level[0].sums[s*PRODUCT+:PRODUCT] = product;
            end else begin : unused
                assign level[0].sums[s*PRODUCT+:PRODUCT] = 0;
            end
        end
        for (l = 1; l <= DEPTH; l = l + 1) begin : tree
            for (s = 0; s < (LEAVES >> l); s = s + 1) begin : node
                wire signed [PRODUCT+l-2:0] low = level[l-1].sums[2*s*(PRODUCT+l-1)+:PRODUCT+l-1];
                wire signed [PRODUCT+l-2:0] high = level[l-1].sums[(2*s+1)*(PRODUCT+l-1)+:PRODUCT+l-1];
                reg signed [PRODUCT+l-1:0] sum;
                always @(posedge clk) if (run) sum <= low + high;
                assign level[l].sums[s*(PRODUCT+l)+:PRODUCT+l] = sum;
            end
        end
        for (l = 0; l <= LATE; l = l + 1) begin : late
            wire signed [PRODUCT+DEPTH-1:0] sum;
        end
        assign late[0].sum = level[DEPTH].sums;
        for (l = 0; l < LATE; l = l + 1) begin : wait_for_planes
            reg signed [PRODUCT+DEPTH-1:0] held;
            always @(posedge clk) if (run) held <= late[l].sum;
            assign late[l+1].sum = held;
        end
    endgenerate

    wire signed [PRODUCT+DEPTH-1:0] sum = late[LATE].sum;
    wire signed [ACC-1:0] so_far = first ? {ACC{1'b0}} : acc;
    always @(posedge clk) if (run && add) acc <= so_far + sum;
endmodule
