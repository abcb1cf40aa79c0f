// A ring of ROWS image rows and the addresses of a convolution over it.
//
// Writes words of BITS bits, GROUPS of them a pixel. For every output pixel in row-major order, FOLDS times, it reads
// the KERNEL x KERNEL window, row by row, GROUPS words a pixel: one word a clock, with its place in the weight memory.
// UP = 2 is the transposed convolution 2x2 of stride 2 (KERNEL 1): each pixel is read for each of its four outputs,
// which have weights of their own. An output row starts when the rows that it reads are whole. An address is a row's
// place in the ring, a column and a group side by side; the column is the only one that takes an adder of full width.
module qn_window #(
    parameter BITS = 8,
    parameter HEIGHT = 8,
    parameter WIDTH = 8,
    parameter KERNEL = 3,
    parameter STRIDE = 1,
    parameter PADDING = 1,
    parameter UP = 1,
    parameter OUT_HEIGHT = 8,
    parameter OUT_WIDTH = 8,
    parameter GROUPS = 1,
    parameter FOLDS = 1,
    parameter ROWS = 4,
    parameter WEIGHT_ADDRESS = 4
) (
    input wire clk,
    input wire rst,
    input wire run,                 // while low, all that is read holds
    input wire in_valid,
    output wire in_ready,
    input wire [BITS-1:0] in_data,
    output reg [WEIGHT_ADDRESS-1:0] read_weight,  // one clock before the word
    output reg word_valid,
    output reg word_first,          // of a fold
    output reg word_last,
    output reg word_outside,        // in the padding: count it as 0
    output reg [BITS-1:0] word
);
    localparam X = WIDTH > 1 ? $clog2(WIDTH) : 1;
    localparam GROUP = GROUPS > 1 ? $clog2(GROUPS) : 1;
    localparam PLACE = GROUPS > 1 ? X + GROUP : X;
    localparam SLOT = ROWS > 1 ? $clog2(ROWS) : 1;
    localparam integer MOVES = UP == 2 ? WIDTH : OUT_WIDTH;
    localparam integer DROPS = UP == 2 ? HEIGHT : OUT_HEIGHT;
    localparam COLUMN = $clog2(MOVES * STRIDE + WIDTH + KERNEL + PADDING + 1) + 1;
    localparam LINE = $clog2(HEIGHT + 2 * KERNEL + PADDING + STRIDE + 1) + 1;
    localparam FEW = $clog2(ROWS + KERNEL + STRIDE + 1) + 1;  // bits of a count of rows
    localparam TAP = KERNEL > 1 ? $clog2(KERNEL) : 1;
    localparam integer SWEEP = FOLDS * KERNEL * KERNEL * GROUPS;  // steps of an output pixel
    // how far the first row of the window moves in the ring: to the next output row, and to the next image
    localparam integer NEXT_ROW = STRIDE % ROWS;
    localparam integer NEXT_IMAGE = (HEIGHT - (DROPS - 1) * STRIDE + ROWS * KERNEL) % ROWS;
    localparam integer FIRST_SLOT = (ROWS - PADDING % ROWS) % ROWS;
    localparam signed [COLUMN-1:0] FIRST_COLUMN = -PADDING;
    localparam signed [COLUMN-1:0] LAST_COLUMN = (MOVES - 1) * STRIDE - PADDING;
    localparam signed [LINE-1:0] FIRST_LINE = -PADDING;
    localparam signed [LINE-1:0] LAST_LINE = (DROPS - 1) * STRIDE - PADDING;
    localparam signed [LINE-1:0] LOWEST = HEIGHT - KERNEL;  // first row of the last window that fits
    // a stride may skip rows, between windows or at the end: they too must be there before they are released
    localparam integer SKIPS = STRIDE > KERNEL || HEIGHT + PADDING > (DROPS - 1) * STRIDE + KERNEL;
    // only the first and the last output row see padding: two flags tell all there is to know of a row
    localparam integer EDGES = STRIDE == 1 && PADDING <= 1 && HEIGHT >= KERNEL;

    reg [BITS-1:0] ring[0:(ROWS<<PLACE)-1];

    function [SLOT-1:0] around;  // (slot + by) mod ROWS
        input [SLOT-1:0] slot;
        input integer by;
        reg [SLOT:0] sum;
        begin
            sum = {1'b0, slot} + by[SLOT:0];
            if (ROWS != 1 << SLOT && sum >= ROWS) sum = sum - ROWS;
            around = sum[SLOT-1:0];
        end
    endfunction

    // writing
    reg [SLOT-1:0] write_slot;
    reg [X-1:0] write_x;
    reg [FEW-1:0] occupied;  // whole rows not yet released
    wire [PLACE-1:0] write_place;
    wire write = in_valid && in_ready;
    wire pixel_written;
    wire row_written = pixel_written && write_x == WIDTH - 1;
    assign in_ready = occupied != ROWS;

    // reading
    reg row_ready, first, odd_column, odd_row;
    reg [TAP-1:0] tap_x, tap_y;
    reg signed [COLUMN-1:0] column_start;
    reg signed [LINE-1:0] line_start;
    reg [SLOT-1:0] slot_start;
    reg [WEIGHT_ADDRESS-1:0] weight;

    wire go = row_ready && run;
    wire tap_end;
    wire run_end = tap_end && tap_x == KERNEL - 1;
    wire fold_end = run_end && tap_y == KERNEL - 1;
    wire pixel_end;
    wire moves = UP == 1 || odd_column;
    wire drops = UP == 1 || odd_row;
    wire column_end = moves && column_start == LAST_COLUMN;
    wire row_end = pixel_end && column_end;
    wire image_end = drops && line_start == LAST_LINE;
    wire signed [COLUMN-1:0] column = column_start + $signed({1'b0, tap_x});
    wire [PLACE-1:0] read_place;

    generate
        if (GROUPS > 1) begin : groups
            reg [GROUP-1:0] write_group, group;
            wire write_end = write_group == GROUPS - 1;
            assign pixel_written = write && write_end;
            assign write_place = {write_x, write_group};
            assign tap_end = group == GROUPS - 1;
            assign read_place = {column[X-1:0], group};
            always @(posedge clk) begin
                if (rst || pixel_written) write_group <= 0;
                else if (write) write_group <= write_group + 1'b1;
                if (rst || (go && tap_end)) group <= 0;
                else if (go) group <= group + 1'b1;
            end
        end else begin : one_group
            assign pixel_written = write;
            assign write_place = write_x;
            assign tap_end = 1;
            assign read_place = column[X-1:0];
        end
        if (UP == 1) begin : by_weight  // the place in the weight memory tells where a pixel ends
            assign pixel_end = weight == SWEEP - 1;
        end else begin : by_fold
            localparam FOLD = FOLDS > 1 ? $clog2(FOLDS) : 1;
            reg [FOLD-1:0] fold;
            assign pixel_end = fold_end && fold == FOLDS - 1;
            always @(posedge clk) begin
                if (rst || (go && pixel_end)) fold <= 0;
                else if (go && fold_end) fold <= fold + 1'b1;
            end
        end
    endgenerate

    // rows max(line_start, 0) to min(line_start + KERNEL, HEIGHT) - 1 are read
    wire above = line_start < 0;
    wire [FEW-1:0] needed, released;
    wire outside_row;
    generate
        if (EDGES) begin : edges
            wire below = line_start == LAST_LINE;
            assign needed = PADDING == 1 && (above || below) ? KERNEL - 1 : KERNEL;
            assign released = image_end ? KERNEL - PADDING : PADDING == 1 && above ? 0 : 1;
            assign outside_row = PADDING == 1 && ((above && tap_y == 0) || (below && tap_y == KERNEL - 1));
        end else begin : any
            wire signed [LINE-1:0] line = line_start + $signed({1'b0, tap_y});
            wire below = line_start > LOWEST;
            wire [FEW-1:0] few = line_start[FEW-1:0];  // the counts are small: low bits do
            wire [FEW-1:0] left_over = HEIGHT - (above ? {FEW{1'b0}} : few);
            wire [FEW-1:0] window_rows = below ? left_over : KERNEL + (above ? few : {FEW{1'b0}});
            wire stays_above = line_start + STRIDE < 0;
            assign released = image_end ? left_over : stays_above ? {FEW{1'b0}}
                : STRIDE + (above ? few : {FEW{1'b0}});
            assign needed = SKIPS && drops && released > window_rows ? released : window_rows;
            assign outside_row = PADDING > 0 && (line < 0 || line >= HEIGHT);
        end
    endgenerate

    // rows are released when the last word of them has been read, one step after its address
    reg [FEW-1:0] releasing;
    always @(posedge clk) begin
        if (rst) begin
            write_slot <= 0;
            occupied <= 0;
            releasing <= 0;
        end else begin
            if (row_written) write_slot <= around(write_slot, 1);
            occupied <= occupied + row_written - (run ? releasing : {FEW{1'b0}});
            if (run) releasing <= go && row_end && drops ? released : {FEW{1'b0}};
        end
        if (rst || row_written) write_x <= 0;
        else if (pixel_written) write_x <= write_x + 1'b1;
    end

    always @(posedge clk) begin
        if (rst) begin
            row_ready <= 0;
            first <= 1;
            odd_column <= 0;
            odd_row <= 0;
            line_start <= FIRST_LINE;
            slot_start <= FIRST_SLOT;
        end else if (!row_ready) begin
            row_ready <= releasing == 0 && occupied >= needed;
        end else if (go) begin
            first <= fold_end;
            if (pixel_end) odd_column <= !odd_column && !row_end;
            if (row_end) begin
                odd_row <= !odd_row;
                row_ready <= 0;
                if (drops) begin
                    slot_start <= around(slot_start, image_end ? NEXT_IMAGE : NEXT_ROW);
                    line_start <= image_end ? FIRST_LINE : line_start + STRIDE;
                end
            end
        end
        if (rst || (go && run_end)) tap_x <= 0;
        else if (go && tap_end) tap_x <= tap_x + 1'b1;
        if (rst || (go && fold_end)) tap_y <= 0;
        else if (go && run_end) tap_y <= tap_y + 1'b1;
        if (rst || (go && row_end)) column_start <= FIRST_COLUMN;
        else if (go && pixel_end && moves) column_start <= column_start + STRIDE;
        if (rst || (UP == 1 && go && pixel_end)) weight <= 0;
        else if (go) begin
            if (UP == 2 && pixel_end && odd_column) weight <= odd_row != column_end ? 2 * SWEEP : 0;
            else weight <= weight + 1'b1;
        end
    end

    // two clocks from counters to word
    reg [SLOT+PLACE-1:0] read_address;
    reg read_valid, read_first, read_last, read_outside;
    wire [COLUMN-1:0] from_left = column;
    wire outside = outside_row || (PADDING > 0 && from_left >= WIDTH);  // a negative column is a large one
    always @(posedge clk) begin
        if (write) ring[{write_slot, write_place}] <= in_data;
        if (run) word <= ring[read_address];
    end
    always @(posedge clk) begin
        if (run) begin
            read_address <= {around(slot_start, tap_y), read_place};
            read_weight <= weight;
            read_first <= first;
            read_last <= fold_end;
            read_outside <= outside;
            word_first <= read_first;
            word_last <= read_last;
            word_outside <= read_outside;
        end
        if (rst) begin
            read_valid <= 0;
            word_valid <= 0;
        end else if (run) begin
            read_valid <= go;
            word_valid <= read_valid;
        end
    end
endmodule
