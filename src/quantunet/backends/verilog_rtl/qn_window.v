// A ring of ROWS image rows and the addresses of a convolution over it.
//
// Writes words of BITS bits, GROUPS of them a pixel. For every output pixel in row-major order, FOLDS times, it reads
// the KERNEL x KERNEL window, row by row, GROUPS words a pixel: one word a clock, with its place in the weight memory.
// UP = 2 is the transposed convolution 2x2 of stride 2 (KERNEL 1): each pixel is read for each of its four outputs,
// which have weights of their own. An output row starts when the rows that it reads are whole. Each row takes a power of
// two of words, so that an address is a row's place in the ring beside a column, without an addition.
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
    input wire in_valid,
    output wire in_ready,
    input wire [BITS-1:0] in_data,
    input wire room,                // the results of one more fold find a place
    output wire fold_issued,        // the last step of a fold goes out
    output reg [WEIGHT_ADDRESS-1:0] read_weight,  // one clock before the word
    output reg word_valid,
    output reg word_first,          // of a fold
    output reg word_last,
    output reg word_outside,        // in the padding: count it as 0
    output reg [BITS-1:0] word
);
    localparam integer PITCH = WIDTH * GROUPS;
    localparam integer RUN = KERNEL * GROUPS;
    localparam PLACE = PITCH > 1 ? $clog2(PITCH) : 1;
    localparam SLOT = ROWS > 1 ? $clog2(ROWS) : 1;
    localparam COLUMN = $clog2((WIDTH + KERNEL + PADDING) * GROUPS + STRIDE * GROUPS + 1) + 1;
    localparam LINE = $clog2(HEIGHT + 2 * KERNEL + PADDING + STRIDE + 1) + 1;
    localparam FEW = $clog2(ROWS + KERNEL + STRIDE + 1) + 1;  // bits of a count of rows
    localparam STEP = RUN > 1 ? $clog2(RUN) : 1;
    localparam TAP = KERNEL > 1 ? $clog2(KERNEL) : 1;
    localparam FOLD = FOLDS > 1 ? $clog2(FOLDS) : 1;
    localparam integer SWEEP = FOLDS * KERNEL * RUN;  // steps of an output pixel
    localparam integer MOVES = UP == 2 ? WIDTH : OUT_WIDTH;
    localparam integer DROPS = UP == 2 ? HEIGHT : OUT_HEIGHT;
    // how far the first row of the window moves in the ring: to the next output row, and to the next image
    localparam integer NEXT_ROW = STRIDE % ROWS;
    localparam integer NEXT_IMAGE = (HEIGHT - (DROPS - 1) * STRIDE + ROWS * KERNEL) % ROWS;
    localparam integer FIRST_SLOT = (ROWS - PADDING % ROWS) % ROWS;
    localparam signed [COLUMN-1:0] FIRST_COLUMN = -PADDING * GROUPS;
    localparam signed [COLUMN-1:0] LAST_COLUMN = ((MOVES - 1) * STRIDE - PADDING) * GROUPS;
    localparam signed [LINE-1:0] FIRST_LINE = -PADDING;
    localparam signed [LINE-1:0] LAST_LINE = (DROPS - 1) * STRIDE - PADDING;
    localparam signed [LINE-1:0] LOWEST = HEIGHT - KERNEL;  // first row of the last window that fits
    // a stride may skip rows, between windows or at the end: they too must be there before they are released
    localparam integer SKIPS = STRIDE > KERNEL || HEIGHT + PADDING > (DROPS - 1) * STRIDE + KERNEL;

    reg [BITS-1:0] ring[0:(ROWS<<PLACE)-1];

    // writing
    reg [SLOT-1:0] write_slot;
    reg [PLACE-1:0] write_place;
    reg [FEW-1:0] occupied;  // whole rows not yet released
    wire write = in_valid && in_ready;
    wire row_written = write && write_place == PITCH - 1;
    assign in_ready = occupied != ROWS;

    function [SLOT-1:0] around;  // (slot + by) mod ROWS
        input [SLOT-1:0] slot;
        input integer by;
        reg [SLOT:0] sum;
        begin
            sum = {1'b0, slot} + by[SLOT:0];
            if (sum >= ROWS) sum = sum - ROWS;
            around = sum[SLOT-1:0];
        end
    endfunction

    // reading
    reg row_ready, odd_column, odd_row;
    reg [STEP-1:0] step;
    reg [TAP-1:0] tap;
    reg [FOLD-1:0] fold;
    reg signed [COLUMN-1:0] column, column_start;
    reg signed [LINE-1:0] line, line_start;
    reg [SLOT-1:0] slot, slot_start;
    reg [WEIGHT_ADDRESS-1:0] weight;

    wire run_end = step == RUN - 1;
    wire fold_end = run_end && tap == KERNEL - 1;
    wire pixel_end = fold_end && fold == FOLDS - 1;
    wire moves = UP == 1 || odd_column;
    wire drops = UP == 1 || odd_row;
    wire column_end = moves && column_start == LAST_COLUMN;
    wire row_end = pixel_end && column_end;
    wire image_end = drops && line_start == LAST_LINE;
    wire go = row_ready && (!fold_end || room);
    assign fold_issued = go && fold_end;

    // rows max(line_start, 0) to min(line_start + KERNEL, HEIGHT) - 1 are read; the counts are small: low bits do
    wire above = line_start < 0;
    wire below = line_start > LOWEST;
    wire [FEW-1:0] few = line_start[FEW-1:0];
    wire [FEW-1:0] left_over = HEIGHT - (above ? {FEW{1'b0}} : few);
    wire [FEW-1:0] window_rows = below ? left_over : KERNEL + (above ? few : {FEW{1'b0}});
    wire stays_above = line_start + STRIDE < 0;
    wire [FEW-1:0] released = image_end ? left_over : stays_above ? {FEW{1'b0}}
        : STRIDE + (above ? few : {FEW{1'b0}});
    wire [FEW-1:0] needed = SKIPS && drops && released > window_rows ? released : window_rows;

    wire signed [COLUMN-1:0] column_next = !moves ? column_start : column_end ? FIRST_COLUMN
        : column_start + STRIDE * GROUPS;
    wire [SLOT-1:0] slot_next = image_end ? around(slot_start, NEXT_IMAGE)
        : drops ? around(slot_start, NEXT_ROW) : slot_start;
    wire signed [LINE-1:0] line_next = image_end ? FIRST_LINE : drops ? line_start + STRIDE : line_start;

    always @(posedge clk) begin
        if (rst) begin
            write_slot <= 0;
            write_place <= 0;
            occupied <= 0;
        end else begin
            if (write) write_place <= row_written ? {PLACE{1'b0}} : write_place + 1'b1;
            if (row_written) write_slot <= around(write_slot, 1);
            occupied <= occupied + row_written - (go && row_end && drops ? released : {FEW{1'b0}});
        end
    end

    always @(posedge clk) begin
        if (rst) begin
            row_ready <= 0;
            odd_column <= 0;
            odd_row <= 0;
            step <= 0;
            tap <= 0;
            fold <= 0;
            column <= FIRST_COLUMN;
            column_start <= FIRST_COLUMN;
            line <= FIRST_LINE;
            line_start <= FIRST_LINE;
            slot <= FIRST_SLOT;
            slot_start <= FIRST_SLOT;
            weight <= 0;
        end else if (!row_ready) begin
            row_ready <= occupied >= needed;
        end else if (go) begin
            step <= run_end ? {STEP{1'b0}} : step + 1'b1;
            column <= !run_end ? column + 1 : pixel_end ? column_next : column_start;
            weight <= weight + 1'b1;
            if (run_end) begin
                tap <= fold_end ? {TAP{1'b0}} : tap + 1'b1;
                line <= !fold_end ? line + 1 : row_end ? line_next : line_start;
                slot <= !fold_end ? around(slot, 1) : row_end ? slot_next : slot_start;
            end
            if (fold_end) fold <= pixel_end ? {FOLD{1'b0}} : fold + 1'b1;
            if (pixel_end) begin
                odd_column <= !odd_column;
                column_start <= column_next;
                if (UP == 1) weight <= 0;
                else if (odd_column) weight <= odd_row != column_end ? 2 * SWEEP : 0;
            end
            if (row_end) begin
                odd_row <= !odd_row;
                odd_column <= 0;
                slot_start <= slot_next;
                line_start <= line_next;
                row_ready <= 0;
            end
        end
    end

    // two clocks from counters to word
    reg [SLOT+PLACE-1:0] read_address;
    reg read_valid, read_first, read_last, read_outside;
    wire [COLUMN+PLACE-1:0] place = {{PLACE{1'b0}}, column};
    wire outside = PADDING > 0 && (line < 0 || line >= HEIGHT || column < 0 || column >= PITCH);
    always @(posedge clk) begin
        if (write) ring[{write_slot, write_place}] <= in_data;
        word <= ring[read_address];
    end
    always @(posedge clk) begin
        read_address <= {slot, place[PLACE-1:0]};
        read_weight <= weight;
        read_first <= step == 0 && tap == 0;
        read_last <= fold_end;
        read_outside <= outside;
        word_first <= read_first;
        word_last <= read_last;
        word_outside <= read_outside;
        read_valid <= go && !rst;
        word_valid <= read_valid && !rst;
    end
endmodule
