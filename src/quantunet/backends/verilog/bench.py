"""The program that a simulated design runs in."""

from __future__ import annotations

from quantunet.backends.verilog.plan import Plan
from quantunet.backends.verilog.top import TOP, lane_bytes, traced


def bench_text(plan: Plan) -> str:
    """C++ program around the design: sends the images of ``in.bin``, writes ``mask.bin``, prints the clocks it took.

    With ``QN_TRACE`` defined it also writes every stream to ``t0.bin``, ``t1.bin`` …, each beat in whole 32-bit words.
    Arguments: images, seed, and of 256 clocks how many offer a beat and how many accept one.
    """
    source, mask = plan.streams[plan.graph.input.name], plan.streams[plan.graph.output.name]
    beats, lanes = source.pixels * source.beats, plan.lanes * lane_bytes(plan)
    count = len(traced(plan))
    shows = "".join(f"        if (top.t{at}_valid) show(traces[{at}], top.t{at}_data);\n" for at in range(count))
    give = (
        "top.s_axis_tdata = image[sent];"
        if lanes == 1
        else f"std::memset(&top.s_axis_tdata, 0, sizeof top.s_axis_tdata); "
        f"std::memcpy(&top.s_axis_tdata, &image[sent * {lanes}], {lanes});"
    )
    patience = 64 * plan.clocks_per_frame + 1_000_000
    return f"""#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "V{TOP}.h"
#include "verilated.h"

static uint64_t state;

static bool chance(int of_256)
{{
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return int((state >> 40) & 255) < of_256;
}}

#ifdef QN_TRACE
template <class Data> static void show(FILE *file, const Data &data)
{{
    uint32_t words[(sizeof data + 3) / 4] = {{0}};
    std::memcpy(words, &data, sizeof data);
    std::fwrite(words, 4, sizeof words / 4, file);
}}
#endif

int main(int argc, char **argv)
{{
    const long images = std::atol(argv[1]), beats = {beats} * images, pixels = {mask.pixels} * images;
    const int send = std::atoi(argv[3]), take = std::atoi(argv[4]);
    state = std::strtoull(argv[2], nullptr, 10) * 2654435761ULL + 1;
    std::vector<uint8_t> image(beats * {lanes} + 8);
    FILE *input = std::fopen("in.bin", "rb");
    if (std::fread(image.data(), 1, beats * {lanes}, input) != size_t(beats * {lanes})) return 2;
    FILE *masks = std::fopen("mask.bin", "wb");
#ifdef QN_TRACE
    std::vector<FILE *> traces;
    for (int at = 0; at < {count}; at++) {{
        traces.push_back(std::fopen(("t" + std::to_string(at) + ".bin").c_str(), "wb"));
    }}
#endif
    VerilatedContext context;
    context.randReset(2);
    context.randSeed(7);
    V{TOP} top(&context);
    long sent = 0, taken = 0, clocks = 0, quiet = 0;
    std::string ends;
    top.clk = 0;
    top.rst = 1;
    top.s_axis_tvalid = 0;
    top.m_axis_tready = 0;
    for (int at = 0; at < 4; at++) {{
        top.clk = 0;
        top.eval();
        top.clk = 1;
        top.eval();
    }}
    top.rst = 0;
    while (taken < pixels) {{
        top.clk = 0;
        if (!top.s_axis_tvalid) top.s_axis_tvalid = sent < beats && chance(send);
        if (top.s_axis_tvalid) {{ {give} }}
        top.m_axis_tready = chance(take);
        top.eval();
        const bool moves_in = top.s_axis_tvalid && top.s_axis_tready;
        const bool moves_out = top.m_axis_tvalid && top.m_axis_tready;
#ifdef QN_TRACE
{shows}#endif
        if (moves_out) std::fputc(top.m_axis_tdata, masks);
        if (moves_out && ++taken % {mask.pixels} == 0) {{
            if (!top.m_axis_tlast) return 5;
            ends += " " + std::to_string(clocks);
        }} else if (moves_out && top.m_axis_tlast) {{
            return 6;
        }}
        top.clk = 1;
        top.eval();
        clocks++;
        if (moves_in) {{
            sent++;
            top.s_axis_tvalid = 0;
        }}
        quiet = moves_in || moves_out ? 0 : quiet + 1;
        if (quiet > {patience}L) {{
            std::fprintf(stderr, "no beat for %ld clocks: %ld of %ld in, ", quiet, sent, beats);
            std::fprintf(stderr, "%ld of %ld out\\n", taken, pixels);
            return 4;
        }}
    }}
    top.final();
    std::fclose(masks);
#ifdef QN_TRACE
    for (FILE *file : traces) std::fclose(file);
#endif
    std::printf("%ld%s\\n", clocks, ends.c_str());
    return 0;
}}
"""
