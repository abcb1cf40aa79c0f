"""Verilog text of the whole design: AXI-Stream in and out, one module a node, forks and the queues of skips."""

from __future__ import annotations

from quantunet.backends.verilog.nodes import module_name, node_module
from quantunet.backends.verilog.plan import Plan
from quantunet.ir.graph import ArgMax, Concat, Input, Threshold

TOP = "quantunet"


def design_text(plan: Plan) -> str:
    """The modules of all nodes, then the top module ``quantunet``."""
    nodes = "\n".join(text for node in plan.graph.nodes if (text := node_module(plan, node)))
    return f"{nodes}\n{top_module(plan)}"


def traced(plan: Plan) -> dict[str, int]:
    """Bits of a beat of every traced stream, by tensor, in the order of the trace ports ``t0_…``, ``t1_…``."""
    return {
        node.name: plan.streams[node.name].bits * (1 if isinstance(node, Threshold | ArgMax) else plan.lanes)
        for node in plan.graph.nodes[1:]
    }


def lane_bytes(plan: Plan) -> int:
    """Bytes of one lane of the input stream."""
    return -(-plan.streams[plan.graph.input.name].bits // 8)


def top_module(plan: Plan) -> str:
    """``s_axis`` takes whole bytes a lane, ``m_axis`` gives one byte a pixel, ``tlast`` with the last of an image.

    With ``QN_TRACE`` defined there are ports that show every stream: valid and ready both high, and its data.
    """
    graph, lanes = plan.graph, plan.lanes
    index = {node.name: place for place, node in enumerate(graph.nodes)}
    widths = {graph.input.name: plan.streams[graph.input.name].bits * lanes, **traced(plan)}
    readers: dict[str, list[tuple[str, int]]] = {name: [] for name in index}
    for node in graph.nodes:
        for port, name in enumerate(node.inputs):
            readers[name].append((node.name, port))
    text, trace_ports, traces = "", "", ""
    for name, place in index.items():
        text += f"    wire s{place}_valid, s{place}_ready;\n    wire [{widths[name] - 1}:0] s{place}_data;\n"
        for reader, port in readers[name]:
            stem = f"s{place}_to_{index[reader]}_{port}"
            text += f"    wire {stem}_valid, {stem}_ready;\n    wire [{widths[name] - 1}:0] {stem}_data;\n"
        text += _branches(plan, name, place, [(index[reader], reader, port) for reader, port in readers[name]], widths)
    for place, name in enumerate(traced(plan)):
        own = f"s{index[name]}"
        trace_ports += f",\n    output wire t{place}_valid,\n    output wire [{widths[name] - 1}:0] t{place}_data"
        traces += f"    assign t{place}_valid = {own}_valid && {own}_ready;\n"
        traces += f"    assign t{place}_data = {own}_data;\n"
    for node in graph.nodes:
        if isinstance(node, Input):
            continue
        own = f"s{index[node.name]}"
        ports = ".clk(clk), .rst(rst)"
        for port, name in enumerate(node.inputs):
            prefix = f"in{port}" if isinstance(node, Concat) else "in"
            stem = f"s{index[name]}_to_{index[node.name]}_{port}"
            ports += "".join(f", .{prefix}_{part}({stem}_{part})" for part in ("valid", "ready", "data"))
        ports += "".join(f", .out_{part}({own}_{part})" for part in ("valid", "ready", "data"))
        text += f"    {module_name(plan, node)} n{index[node.name]} ({ports});\n"
    source, mask = plan.streams[graph.input.name], plan.streams[graph.output.name]
    last = f"s{index[graph.output.name]}"
    lane_bits = 8 * lane_bytes(plan)
    codes = ", ".join(f"s_axis_tdata[{lane_bits * lane} +: {source.bits}]" for lane in reversed(range(lanes)))
    count = max((mask.pixels - 1).bit_length(), 1)
    return f"""module {TOP} (
    input wire clk,
    input wire rst,
    input wire s_axis_tvalid,
    output wire s_axis_tready,
    input wire [{lane_bits * lanes - 1}:0] s_axis_tdata,
    output wire m_axis_tvalid,
    input wire m_axis_tready,
    output wire [7:0] m_axis_tdata,
    output wire m_axis_tlast
`ifdef QN_TRACE{trace_ports}
`endif
);
{text}    assign s0_valid = s_axis_tvalid;
    assign s_axis_tready = s0_ready;
    assign s0_data = {{{codes}}};
    reg [{count - 1}:0] pixel;
    always @(posedge clk)
        if (rst) pixel <= 0;
        else if (m_axis_tvalid && m_axis_tready) pixel <= m_axis_tlast ? 0 : pixel + 1'b1;
    assign m_axis_tvalid = {last}_valid;
    assign {last}_ready = m_axis_tready;
    assign m_axis_tdata = {last}_data;
    assign m_axis_tlast = pixel == {mask.pixels - 1};
`ifdef QN_TRACE
{traces}`endif
endmodule
"""


def _branches(plan: Plan, name: str, place: int, readers: list[tuple[int, str, int]], widths: dict[str, int]) -> str:
    """From a stream to each of its readers, through a queue where the plan has one."""
    own = f"s{place}"
    text = ""
    if len(readers) > 1:
        count = len(readers)
        text += f"    wire [{count - 1}:0] fork{place}_valid, fork{place}_ready;\n"
        text += f"    wire [{widths[name] - 1}:0] fork{place}_data;\n"
        text += f"    qn_fork #(.BITS({widths[name]}), .READERS({count})) fork{place} (.clk(clk), .rst(rst), "
        text += f".in_valid({own}_valid), .in_ready({own}_ready), .in_data({own}_data), "
        text += f".out_valid(fork{place}_valid), .out_ready(fork{place}_ready), .out_data(fork{place}_data));\n"
    for branch, (reader_place, reader, port) in enumerate(readers):
        stem = f"s{place}_to_{reader_place}_{port}"
        if len(readers) == 1:
            text += f"    assign {stem}_valid = {own}_valid, {own}_ready = {stem}_ready, {stem}_data = {own}_data;\n"
            continue
        valid, ready, data = f"fork{place}_valid[{branch}]", f"fork{place}_ready[{branch}]", f"fork{place}_data"
        depth = plan.skips.get((name, reader), 0)
        if depth:
            text += f"    qn_fifo #(.BITS({widths[name]}), .DEPTH({depth})) skip{place}_{reader_place}_{port} ("
            text += f".clk(clk), .rst(rst), .in_valid({valid}), .in_ready({ready}), .in_data({data}), "
            text += f".out_valid({stem}_valid), .out_ready({stem}_ready), .out_data({stem}_data));\n"
        else:
            text += f"    assign {stem}_valid = {valid}, {ready} = {stem}_ready, {stem}_data = {data};\n"
    return text
