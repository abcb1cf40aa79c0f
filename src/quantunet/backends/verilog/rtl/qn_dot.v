// Dot products by bit planes of the weights.
//
// For a pair of codes (a, b) and one bit of each weight, the partial product is 0, a, b or a + b: one 5-input table a
// bit, with the sum a + b shared by all filters. Pairs are added in a tree, planes are joined with their weights
// 1, 2, 4 …, the highest plane negative (two's complement).

// The codes of a word in pairs, and their sums; 0 outside the image. One clock.
module qn_pairs #(
    parameter LANES = 8,
    parameter BITS = 4,
    parameter SIGNED = 0
) (
    input wire clk,
    input wire run,
    input wire outside,
    input wire [LANES*BITS-1:0] word,
    output wire [((LANES+1)/2)*(3*BITS+1)-1:0] pairs  // of each pair: sum, second, first
);
    wire clear = run && outside;
    genvar p;
    generate
        for (p = 0; p < (LANES + 1) / 2; p = p + 1) begin : pair
            wire [BITS-1:0] first = word[2*p*BITS+:BITS];
            wire [BITS-1:0] second;
            if (2 * p + 1 < LANES) begin : full
                assign second = word[(2*p+1)*BITS+:BITS];
            end else begin : half
                assign second = 0;
            end
            reg [BITS-1:0] first_held, second_held;
            reg [BITS:0] sum_held;
            always @(posedge clk) begin
                if (clear) begin
                    first_held <= 0;
                    second_held <= 0;
                    sum_held <= 0;
                end else if (run) begin
                    first_held <= first;
                    second_held <= second;
                    sum_held <= {SIGNED && first[BITS-1], first} + {SIGNED && second[BITS-1], second};
                end
            end
            assign pairs[p*(3*BITS+1)+:3*BITS+1] = {sum_held, second_held, first_held};
        end
    endgenerate
endmodule

// One filter: sum of LANES products a clock, added up from `first` on. LEVELS >= $clog2(WEIGHT) registers join the
// planes, so that filters of different width answer at the same time. From pairs to acc:
// 1 + $clog2(pairs) + LEVELS + 1 clocks in which `run` is high; `add` and `first` come as late as their sum.
module qn_dot #(
    parameter LANES = 8,
    parameter BITS = 4,
    parameter SIGNED = 0,
    parameter WEIGHT = 3,
    parameter LEVELS = 2,
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
    localparam PAIRS = (LANES + 1) / 2;
    localparam DEPTH = $clog2(PAIRS);
    localparam LEAVES = 1 << DEPTH;
    localparam TREE = BITS + 1 + DEPTH;  // bits of a plane's sum
    localparam EVEN = 1 << LEVELS;       // planes, filled up with absent ones

    genvar b, p, l;
    generate
        for (b = 0; b < WEIGHT; b = b + 1) begin : plane
            for (l = 0; l <= DEPTH; l = l + 1) begin : level
                reg [(BITS+1+l)*(LEAVES>>l)-1:0] sums;
            end
            for (p = 0; p < LEAVES; p = p + 1) begin : leaf
                if (p < PAIRS) begin : used
                    wire [BITS-1:0] one = pairs[p*(3*BITS+1)+:BITS];
                    wire [BITS-1:0] two = pairs[p*(3*BITS+1)+BITS+:BITS];
                    wire [BITS:0] both = pairs[p*(3*BITS+1)+2*BITS+:BITS+1];
                    wire takes_one = weights[2*p*WEIGHT+b];
                    wire takes_two;
                    if (2 * p + 1 < LANES) begin : full
                        assign takes_two = weights[(2*p+1)*WEIGHT+b];
                    end else begin : half
                        assign takes_two = 0;
                    end
                    always @(posedge clk) if (run)
                        plane[b].level[0].sums[p*(BITS+1)+:BITS+1] <=
                            takes_one ? (takes_two ? both : {SIGNED && one[BITS-1], one})
                            : takes_two ? {SIGNED && two[BITS-1], two} : {BITS + 1{1'b0}};
                end else begin : unused
                    always @(posedge clk) if (run) plane[b].level[0].sums[p*(BITS+1)+:BITS+1] <= 0;
                end
            end
            for (l = 1; l <= DEPTH; l = l + 1) begin : tree
                for (p = 0; p < (LEAVES >> l); p = p + 1) begin : node
                    wire [BITS+l-1:0] low = plane[b].level[l-1].sums[2*p*(BITS+l)+:BITS+l];
                    wire [BITS+l-1:0] high = plane[b].level[l-1].sums[(2*p+1)*(BITS+l)+:BITS+l];
                    always @(posedge clk) if (run)
                        plane[b].level[l].sums[p*(BITS+1+l)+:BITS+1+l] <=
                            {SIGNED && low[BITS+l-1], low} + {SIGNED && high[BITS+l-1], high};
                end
            end
        end
        // joined[l].sums: groups of 2^l planes, TREE + 2^l bits each, unsigned unless codes or the highest plane are signed
        for (l = 0; l <= LEVELS; l = l + 1) begin : joined
            wire [(TREE+(1<<l))*(EVEN>>l)-1:0] sums;
        end
        for (b = 0; b < EVEN; b = b + 1) begin : bottom
            if (b < WEIGHT) begin : used
                wire [TREE-1:0] sum = plane[b].level[DEPTH].sums;
                assign joined[0].sums[b*(TREE+1)+:TREE+1] = {SIGNED && sum[TREE-1], sum};
            end else begin : absent
                assign joined[0].sums[b*(TREE+1)+:TREE+1] = 0;
            end
        end
        for (l = 1; l <= LEVELS; l = l + 1) begin : join_planes
            for (p = 0; p < (EVEN >> l); p = p + 1) begin : group
                localparam HALF = 1 << (l - 1);
                localparam IN = TREE + HALF;
                localparam OUT = TREE + 2 * HALF;
                localparam FIRST = 2 * p * HALF;  // planes FIRST to FIRST + HALF - 1, then HALF more
                localparam MIDDLE = FIRST + HALF;
                wire signed [IN-1:0] low = joined[l-1].sums[2*p*IN+:IN];
                wire signed [IN-1:0] high = joined[l-1].sums[(2*p+1)*IN+:IN];
                reg signed [OUT-1:0] sum;
                assign joined[l].sums[p*OUT+:OUT] = sum;
                // the half with the highest plane is signed, unless that plane stands alone in it: then it is subtracted
                wire low_sign = low[IN-1] && (SIGNED || (MIDDLE > WEIGHT - 1 && WEIGHT - 1 > FIRST));
                wire signed [OUT-1:0] low_wide = {{HALF{low_sign}}, low};
                if (MIDDLE > WEIGHT - 1) begin : alone
                    always @(posedge clk) if (run) sum <= low_wide;
                end else if (MIDDLE == WEIGHT - 1) begin : negative
                    wire high_sign = SIGNED && high[IN-1];
                    wire signed [OUT-1:0] high_wide = {{HALF{high_sign}}, high};
                    always @(posedge clk) if (run) sum <= low_wide - (high_wide <<< HALF);
                end else begin : positive
                    wire high_sign = high[IN-1] && (SIGNED || MIDDLE + HALF > WEIGHT - 1);
                    wire signed [OUT-1:0] high_wide = {{HALF{high_sign}}, high};
                    always @(posedge clk) if (run) sum <= low_wide + (high_wide <<< HALF);
                end
            end
        end
    endgenerate

    localparam SUM = TREE + EVEN;
    wire [SUM-1:0] sum = joined[LEVELS].sums;
    wire sum_sign = sum[SUM-1];
    wire signed [SUM:0] product = {sum_sign, sum};
    wire signed [ACC-1:0] so_far = first ? {ACC{1'b0}} : acc;
    generate
        if (WEIGHT == 1) begin : minus
            always @(posedge clk) if (run && add) acc <= so_far - product;
        end else begin : plus
            always @(posedge clk) if (run && add) acc <= so_far + product;
        end
    endgenerate
endmodule
