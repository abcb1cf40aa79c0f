// Pooling and up-sampling. Streams of LANES codes of BITS bits, BEATS beats a pixel.

// The largest of each 2x2 block: one memory of half a row of maxima; two clocks a beat.
module qn_max_pool #(
    parameter BITS = 4,
    parameter LANES = 1,
    parameter SIGNED = 0,
    parameter BEATS = 8,
    parameter WIDTH = 8
) (
    input wire clk,
    input wire rst,
    input wire in_valid,
    output wire in_ready,
    input wire [LANES*BITS-1:0] in_data,
    output reg out_valid,
    input wire out_ready,
    output reg [LANES*BITS-1:0] out_data
);
    localparam BEAT = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam PAIR = WIDTH > 2 ? $clog2(WIDTH / 2) : 1;
    reg [LANES*BITS-1:0] maxima[0:(1<<(PAIR+BEAT))-1];
    reg [LANES*BITS-1:0] held, largest;
    reg [BEAT-1:0] beat;
    reg [PAIR-1:0] pair;
    reg odd_column, odd_row, looked_up;
    wire [PAIR+BEAT-1:0] at = {pair, beat};
    wire last = odd_row && odd_column;
    wire done = looked_up && (!last || !out_valid || out_ready);
    assign in_ready = done;

    genvar l;
    generate
        for (l = 0; l < LANES; l = l + 1) begin : lane
            wire [BITS-1:0] new_code = in_data[l*BITS+:BITS];
            wire [BITS-1:0] old_code = held[l*BITS+:BITS];
            wire greater = SIGNED ? $signed(new_code) > $signed(old_code) : new_code > old_code;
            always @* largest[l*BITS+:BITS] = greater || (!odd_row && !odd_column) ? new_code : old_code;
        end
    endgenerate
    wire beat_end = beat == BEATS - 1;
    wire pair_end = beat_end && odd_column;
    wire row_end = pair_end && pair == WIDTH / 2 - 1;
    always @(posedge clk) begin
        if (done) maxima[at] <= largest;
        held <= maxima[at];
        if (done && last) out_data <= largest;
    end
    always @(posedge clk) begin
        if (rst) begin
            beat <= 0;
            pair <= 0;
            odd_column <= 0;
            odd_row <= 0;
            looked_up <= 0;
            out_valid <= 0;
        end else begin
            looked_up <= in_valid && !done;
            out_valid <= (done && last) || (out_valid && !out_ready);
            if (done) begin
                beat <= beat_end ? {BEAT{1'b0}} : beat + 1'b1;
                if (beat_end) odd_column <= !odd_column;
                if (pair_end) pair <= row_end ? {PAIR{1'b0}} : pair + 1'b1;
                if (row_end) odd_row <= !odd_row;
            end
        end
    end
endmodule

// Each pixel becomes a 2x2 block: a ring of two rows, each read twice, each pixel of it twice.
module qn_upsample_nearest #(
    parameter BITS = 4,
    parameter BEATS = 8,
    parameter WIDTH = 8
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
    localparam BEAT = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam X = WIDTH > 1 ? $clog2(WIDTH) : 1;
    reg [BITS-1:0] ring[0:(1<<(1+X+BEAT))-1];  // by row, column, beat
    reg write_row, read_row, second_column, second_row;
    reg [X-1:0] write_x, read_x;
    reg [BEAT-1:0] write_beat, read_beat;
    reg [1:0] rows;
    wire write = in_valid && in_ready;
    wire write_pixel = write && write_beat == BEATS - 1;
    wire row_written = write_pixel && write_x == WIDTH - 1;
    assign in_ready = rows != 2;
    wire read = rows != 0 && (!out_valid || out_ready);
    wire read_pixel = read && read_beat == BEATS - 1;
    wire x_end = read_x == WIDTH - 1;
    wire row_read = read_pixel && second_column && x_end;
    wire released = row_read && second_row;
    always @(posedge clk) begin
        if (write) ring[{write_row, write_x, write_beat}] <= in_data;
        if (read) out_data <= ring[{read_row, read_x, read_beat}];
    end
    always @(posedge clk) begin
        if (rst) begin
            write_row <= 0;
            write_x <= 0;
            write_beat <= 0;
            read_row <= 0;
            read_x <= 0;
            read_beat <= 0;
            second_column <= 0;
            second_row <= 0;
            rows <= 0;
            out_valid <= 0;
        end else begin
            if (write) write_beat <= write_pixel ? {BEAT{1'b0}} : write_beat + 1'b1;
            if (write_pixel) write_x <= row_written ? {X{1'b0}} : write_x + 1'b1;
            if (row_written) write_row <= !write_row;
            rows <= rows + row_written - released;
            out_valid <= read || (out_valid && !out_ready);
            if (read) read_beat <= read_pixel ? {BEAT{1'b0}} : read_beat + 1'b1;
            if (read_pixel) second_column <= !second_column;
            if (read_pixel && second_column) read_x <= x_end ? {X{1'b0}} : read_x + 1'b1;
            if (row_read) second_row <= !second_row;
            if (released) read_row <= !read_row;
        end
    end
endmodule

// Bilinear x2: the four weighted codes of every output, summed up: 16 times the value. A ring of three rows; four
// clocks a beat. The sum comes with sum_valid.
module qn_bilinear #(
    parameter BITS = 4,
    parameter LANES = 1,
    parameter SIGNED = 0,
    parameter BEATS = 8,
    parameter HEIGHT = 8,
    parameter WIDTH = 8
) (
    input wire clk,
    input wire rst,
    input wire in_valid,
    output wire in_ready,
    input wire [LANES*BITS-1:0] in_data,
    input wire run,                 // while low, all that is read holds
    output reg sum_valid,
    output wire [LANES*(BITS+5)-1:0] sums
);
    localparam integer PITCH = WIDTH * BEATS;
    localparam integer SIZE = 3 * PITCH;
    localparam ADDRESS = $clog2(SIZE);
    localparam BEAT = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam X = $clog2(2 * WIDTH);
    localparam Y = $clog2(2 * HEIGHT);
    reg [LANES*BITS-1:0] ring[0:SIZE-1];
    reg [ADDRESS-1:0] write_at;
    reg [$clog2(PITCH+1)-1:0] written;
    reg [1:0] occupied;
    reg row_ready, releasing;  // a row is released when the last word of it has been read, one step after its address
    reg [1:0] corner;  // bit 0: the farther column, bit 1: the farther row
    reg [BEAT-1:0] beat;
    reg [X-1:0] x;
    reg [Y-1:0] y;
    reg [ADDRESS-1:0] row, column;  // of the nearer pixel's row and, in it, of the nearer pixel
    wire write = in_valid && in_ready;
    wire row_written = write && written == PITCH - 1;
    assign in_ready = occupied != 3;

    wire first_row = y == 0;
    wire last_row = y == 2 * HEIGHT - 1;
    wire first_column = x == 0;
    wire last_column = x == 2 * WIDTH - 1;
    // an even output lies towards the pixel before, an odd one towards the pixel after; at the edge it stays
    wire row_stays = first_row || last_row || !corner[1];
    wire column_stays = first_column || last_column || !corner[0];
    wire [ADDRESS-1:0] row_before = row == 0 ? SIZE - PITCH : row - PITCH;
    wire [ADDRESS-1:0] row_after = row == SIZE - PITCH ? 0 : row + PITCH;
    wire [ADDRESS-1:0] row_read = row_stays ? row : y[0] ? row_after : row_before;
    wire [ADDRESS-1:0] column_read = column_stays ? column : x[0] ? column + BEATS : column - BEATS;
    wire go = row_ready && run;
    wire beat_end = corner == 3 && beat == BEATS - 1;
    wire row_end = beat_end && last_column;
    // output rows 2i and 2i - 1 read rows i - 1 and i; row i - 1 is released after output row 2i
    wire [1:0] needed = first_row || last_row ? 2'd1 : 2'd2;
    wire released = last_row || (!y[0] && !first_row);

    always @(posedge clk) begin
        if (rst) begin
            write_at <= 0;
            written <= 0;
            occupied <= 0;
            row_ready <= 0;
            releasing <= 0;
            corner <= 0;
            beat <= 0;
            x <= 0;
            y <= 0;
            row <= 0;
            column <= 0;
        end else begin
            if (write) begin
                write_at <= write_at == SIZE - 1 ? {ADDRESS{1'b0}} : write_at + 1'b1;
                written <= row_written ? 0 : written + 1'b1;
            end
            occupied <= occupied + row_written - (run && releasing);
            if (run) releasing <= go && row_end && released;
            if (!row_ready) row_ready <= !releasing && occupied >= needed;
            else if (go) begin
                corner <= corner + 1'b1;
                if (corner == 3) begin
                    beat <= beat == BEATS - 1 ? {BEAT{1'b0}} : beat + 1'b1;
                    column <= beat != BEATS - 1 ? column + 1'b1 : last_column ? {ADDRESS{1'b0}}
                        : x[0] ? column + 1'b1 : column - (BEATS - 1);
                end
                if (beat_end) x <= last_column ? {X{1'b0}} : x + 1'b1;
                if (row_end) begin
                    y <= last_row ? {Y{1'b0}} : y + 1'b1;
                    if (y[0]) row <= row_after;
                    row_ready <= 0;
                end
            end
        end
    end

    reg [ADDRESS-1:0] read_address;
    reg [LANES*BITS-1:0] word;
    reg read_valid, word_valid, scaled_valid;
    reg [1:0] read_corner, word_corner, scaled_corner;
    always @(posedge clk) begin
        if (write) ring[write_at] <= in_data;
        if (run) word <= ring[read_address];
    end
    always @(posedge clk) if (run) begin
        read_address <= row_read + column_read;
        read_corner <= corner;
        word_corner <= read_corner;
        scaled_corner <= word_corner;
    end
    always @(posedge clk) begin
        if (rst) begin
            read_valid <= 0;
            word_valid <= 0;
            scaled_valid <= 0;
            sum_valid <= 0;
        end else if (run) begin
            read_valid <= go;
            word_valid <= read_valid;
            scaled_valid <= word_valid;
            sum_valid <= scaled_valid && scaled_corner == 3;
        end
    end
    genvar l;
    generate
        for (l = 0; l < LANES; l = l + 1) begin : lane
            wire signed [BITS+4:0] code = {{5{SIGNED && word[l*BITS+BITS-1]}}, word[l*BITS+:BITS]};
            reg signed [BITS+4:0] scaled, sum;
            always @(posedge clk) if (run) begin
                scaled <= word_corner == 0 ? (code <<< 3) + code : word_corner == 3 ? code : (code <<< 1) + code;
                if (scaled_valid) sum <= (scaled_corner == 0 ? {BITS + 5{1'b0}} : sum) + scaled;
            end
            assign sums[l*(BITS+5)+:BITS+5] = sum;
        end
    endgenerate
endmodule
