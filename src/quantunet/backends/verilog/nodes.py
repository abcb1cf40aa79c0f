"""Verilog text of one node: the library's modules with a plan's numbers. Pure functions; every module is named by its
node's place in the graph, and talks by valid, ready and data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantunet import fpga_cost
from quantunet.backends.verilog.fold import RequantizePlan, WeightPlan
from quantunet.backends.verilog.plan import Plan
from quantunet.backends.verilog.stream import EMPTY, Stream
from quantunet.ir.graph import (
    ArgMax,
    Concat,
    Conv2d,
    ConvTranspose2d,
    MaxPool2d,
    Node,
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
)


def module_name(plan: Plan, node: Node) -> str:
    """Name of the node's module."""
    return f"node_{plan.graph.nodes.index(node)}"


def node_module(plan: Plan, node: Node) -> str:
    """The module of ``node``, with the memories it needs; '' for the input, which is the first stream itself."""
    out, lanes = plan.streams[node.name], plan.lanes
    sources = [plan.streams[name] for name in node.inputs]
    name = module_name(plan, node)
    match node:
        case Conv2d() | ConvTranspose2d():
            body = _weighted(name, plan.weighted[node.name], sources[0], out, lanes)
        case Rescale():
            body = _rescale(name, plan.requantized[node.name], sources[0], out, lanes)
        case UpsampleBilinear2d():
            body = _bilinear(name, plan.requantized[node.name], sources[0], out, lanes)
        case MaxPool2d():
            body = _instance(
                "qn_max_pool",
                "pool",
                {"BITS": out.bits, "LANES": lanes, "SIGNED": int(out.signed), "BEATS": out.beats}
                | {"WIDTH": sources[0].width},
                _STREAM_PORTS,
            )
        case UpsampleNearest2d():
            body = _instance(
                "qn_upsample_nearest",
                "up",
                {"BITS": out.bits * lanes, "BEATS": out.beats, "WIDTH": sources[0].width},
                _STREAM_PORTS,
            )
        case Concat():
            return _concat_module(name, node, sources, out, lanes)
        case Threshold():
            body = _threshold(node, sources[0])
        case ArgMax():
            body = _arg_max(sources[0], out, lanes)
        case _:
            return ""
    roms = ""
    if isinstance(body, tuple):
        body, roms = body
    ports = _ports(sources[0].bits * lanes, _out_bits(node, out, lanes))
    return f"// {type(node).__name__} {_comment(node.name)}\nmodule {name} (\n{ports});\n{body}endmodule\n{roms}"


def _comment(text: str) -> str:
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text)


def _out_bits(node: Node, out: Stream, lanes: int) -> int:
    return out.bits if isinstance(node, Threshold | ArgMax) else out.bits * lanes


def _ports(in_bits: int, out_bits: int) -> str:
    return f"""    input wire clk,
    input wire rst,
    input wire in_valid,
    output wire in_ready,
    input wire [{in_bits - 1}:0] in_data,
    output wire out_valid,
    input wire out_ready,
    output wire [{out_bits - 1}:0] out_data
"""


_STREAM_PORTS = {
    port: port for port in ("clk", "rst", "in_valid", "in_ready", "in_data", "out_valid", "out_ready", "out_data")
}


def _instance(module: str, name: str, parameters: Mapping[str, int | str], ports: Mapping[str, str]) -> str:
    values = ", ".join(f".{key}({value})" for key, value in parameters.items())
    wires = ", ".join(f".{key}({value})" for key, value in ports.items())
    return f"    {module} #({values}) {name} ({wires});\n"


def rom_module(name: str, words: Sequence[int], bits: int) -> str:
    """A memory of constants of ``bits`` bits, read in one clock; holds its word while ``read`` is low."""
    address = max((len(words) - 1).bit_length(), 1)
    style = "block" if len(words) >= fpga_cost.BLOCK_ROM_DEPTH else "logic"
    digits = -(-bits // 4)
    lines = "".join(f"        words[{at}] = {bits}'h{word:0{digits}x};\n" for at, word in enumerate(words))
    return f"""module {name} (
    input wire clk,
    input wire read,
    input wire [{address - 1}:0] address,
    output reg [{bits - 1}:0] word
);
    (* rom_style = "{style}" *) reg [{bits - 1}:0] words[0:{len(words) - 1}];
    initial begin
{lines}    end
    always @(posedge clk) if (read) word <= words[address];
endmodule
"""


def _field(value: int, bits: int) -> int:
    return value & ((1 << bits) - 1)


def _packed(values: Sequence[int], bits: Sequence[int]) -> int:
    """Two's complement fields one above the other, the first lowest."""
    word, place = 0, 0
    for value, width in zip(values, bits, strict=True):
        word |= _field(value, width) << place
        place += width
    return word


def _requantize_stage(name: str, stage: RequantizePlan, out: Stream, lanes: int) -> tuple[str, str]:
    """From ``sum_valid`` and ``sums`` (lanes x acc_bits) to the output, and the table's module.

    ``move`` is high where the stage goes on by one step: unless a code waits at the output. ``index`` is the number of
    the beat in its pixel.
    """
    entries = [_entry(stage, place) for place in range(len(stage.bias))]
    words = [_packed(entries[at : at + lanes], [stage.entry_bits] * lanes) for at in range(0, len(entries), lanes)]
    bits, beats = stage.entry_bits * lanes, len(words)
    index = max((beats - 1).bit_length(), 1)
    parameters = {
        "ACC": stage.acc_bits,
        "BIAS": stage.bias_bits,
        "SUM": max(stage.sum_bits, stage.acc_bits),
        "SHIFT": stage.shift_bits,
        "LEFT": stage.left,
        "RIGHT": stage.right,
        "MULTIPLIES": int(stage.multiplier is not None),
        "RAW": int(stage.raw),
        "OUT": out.bits,
        "SIGNED": int(out.signed),
        "LOW": f"{'-' if stage.low < 0 else ''}33'sd{abs(stage.low)}",
        "HIGH": f"33'sd{stage.high}",
    }
    units = "".join(
        _instance(
            "qn_requantize",
            f"requantize_{lane}",
            parameters,
            {
                "clk": "clk",
                "move": "move",
                "acc": f"sums[{lane * stage.acc_bits} +: {stage.acc_bits}]",
                "entry": f"entry[{lane * stage.entry_bits} +: {stage.entry_bits}]",
                "code": f"codes[{lane * out.bits} +: {out.bits}]",
            },
        )
        for lane in range(lanes)
    )
    last = stage.latency - 1
    text = f"""    reg [{last}:0] moving;
    wire move = !moving[{last}] || out_ready;
    assign out_valid = moving[{last}];
    always @(posedge clk)
        if (rst) moving <= 0;
        else if (move) moving <= {{moving[{last - 1}:0], sum_valid}};
    reg [{index - 1}:0] index;
    always @(posedge clk)
        if (rst || (move && sum_valid && index == {beats - 1})) index <= 0;
        else if (move && sum_valid) index <= index + 1'b1;
    wire [{bits - 1}:0] entry;
    {name}_table table_of_entries (.clk(clk), .read(move), .address(index), .word(entry));
    wire [{lanes * out.bits - 1}:0] codes;
    assign out_data = codes;
{units}"""
    return text, rom_module(f"{name}_table", words, bits)


def _entry(stage: RequantizePlan, place: int) -> int:
    fields = [stage.bias[place], stage.shift[place]]
    bits = [stage.bias_bits, stage.shift_bits]
    if stage.multiplier is not None:
        fields, bits = [*fields, stage.multiplier[place]], [*bits, 31]
    return _packed(fields, bits)


def _weighted(name: str, plan: WeightPlan, source: Stream, out: Stream, lanes: int) -> tuple[str, str]:
    folding, code = plan.folding, source.bits
    pack = folding.inputs // lanes
    word = folding.inputs * code
    pairs = (folding.inputs + 1) // 2 * (3 * code + 1)
    address = max((plan.depth - 1).bit_length(), 1)
    delay = plan.latency - 3  # from word to add
    acc, filters = plan.requantize.acc_bits, folding.filters
    row_bits = [bits * folding.inputs for bits in plan.weight_bits]
    starts = [sum(row_bits[:index]) for index in range(filters)]
    dots = "".join(
        f"    wire signed [{plan.acc_bits[index] - 1}:0] acc_{index};\n"
        + _instance(
            "qn_dot_multiply" if plan.multiplied[index] else "qn_dot",
            f"dot_{index}",
            {"LANES": folding.inputs, "BITS": code, "SIGNED": int(source.signed), "WEIGHT": plan.weight_bits[index]}
            | ({"DELAY": plan.levels - int(folding.inputs > 1)} if plan.multiplied[index] else {"LEVELS": plan.levels})
            | {"ACC": plan.acc_bits[index]},
            {"clk": "clk", "run": "run", "pairs": "pairs", "weights": f"weights[{starts[index]} +: {row_bits[index]}]"}
            | {"add": f"add[{delay - 1}]", "first": f"first[{delay - 1}]", "acc": f"acc_{index}"},
        )
        + _extended(f"folded[{index * acc} +: {acc}]", f"acc_{index}", plan.acc_bits[index], acc, True)
        for index in range(filters)
    )
    stage, table = _requantize_stage(name, plan.requantize, out, lanes)
    index = max((out.beats - 1).bit_length(), 1)
    window = {
        "BITS": word, "HEIGHT": source.height, "WIDTH": source.width, "KERNEL": plan.kernel, "STRIDE": plan.stride,
        "PADDING": plan.padding, "UP": plan.up, "OUT_HEIGHT": out.height, "OUT_WIDTH": out.width,
        "GROUPS": folding.groups, "FOLDS": folding.folds, "ROWS": plan.rows, "WEIGHT_ADDRESS": address,
    }  # fmt: skip
    text = f"""    wire word_in_valid, word_in_ready;
    wire [{word - 1}:0] word_in;
    qn_gear #(.BITS({lanes * code}), .BEATS({source.beats}), .PACK({pack})) gear (
        .clk(clk), .rst(rst), .in_valid(in_valid), .in_ready(in_ready), .in_data(in_data),
        .out_valid(word_in_valid), .out_ready(word_in_ready), .out_data(word_in));
    wire run, word_valid, word_first, word_last, word_outside;
    wire [{word - 1}:0] word;
    wire [{address - 1}:0] weight_address;
{
        _instance(
            "qn_window",
            "window",
            window,
            {
                "clk": "clk",
                "rst": "rst",
                "in_valid": "word_in_valid",
                "in_ready": "word_in_ready",
                "in_data": "word_in",
                "run": "run",
                "read_weight": "weight_address",
                "word_valid": "word_valid",
                "word_first": "word_first",
                "word_last": "word_last",
                "word_outside": "word_outside",
                "word": "word",
            },
        )
    }    wire [{sum(row_bits) - 1}:0] weights_read;
    reg [{sum(row_bits) - 1}:0] weights;
    {name}_weights weight_memory (.clk(clk), .read(run), .address(weight_address), .word(weights_read));
    always @(posedge clk) if (run) weights <= weights_read;
    wire [{pairs - 1}:0] pairs;
    qn_pairs #(.LANES({folding.inputs}), .BITS({code}), .SIGNED({int(source.signed)})) pairs_of_codes (
        .clk(clk), .run(run), .outside(word_outside), .word(word), .pairs(pairs));
    reg [{delay - 1}:0] add, first;
    reg [{delay}:0] last;
    always @(posedge clk) begin
        if (run) first <= {{first[{delay - 2}:0], word_first}};
        if (rst) begin
            add <= 0;
            last <= 0;
        end else if (run) begin
            add <= {{add[{delay - 2}:0], word_valid}};
            last <= {{last[{delay - 1}:0], word_valid && word_last}};
        end
    end
    wire [{filters * acc - 1}:0] folded;
{dots}    wire sum_valid, sums_taken;
    assign run = sums_taken || !last[{delay}];
    wire [{lanes * acc - 1}:0] sums;
{stage}{
        _instance(
            "qn_serialize",
            "serialize",
            {"FILTERS": filters, "LANES": lanes, "BITS": acc, "BEATS": plan.beats, "COUNT": out.beats, "INDEX": index}
            | {"ENDS": f"{out.beats}'b" + "".join(str(int(end)) for end in reversed(plan.ends))},
            {"clk": "clk", "rst": "rst", "move": "move", "load": f"last[{delay}] && run", "ready": "sums_taken"}
            | {"index": "index", "sums": "folded", "out_valid": "sum_valid", "out_data": "sums"},
        )
    }"""
    words = [
        _packed(
            [int(value) for row in step for value in row],
            [bits for bits in plan.weight_bits for _ in range(folding.inputs)],
        )
        for step in plan.weights
    ]
    return text, rom_module(f"{name}_weights", words, sum(row_bits)) + table


def _extended(target: str, value: str, bits: int, wide: int, signed: bool) -> str:
    if wide == bits:
        return f"    assign {target} = {value};\n"
    high = f"{value}[{bits - 1}]" if signed else "1'b0"
    return f"    assign {target} = {{{{{wide - bits}{{{high}}}}}, {value}}};\n"


def _rescale(name: str, plan: RequantizePlan, source: Stream, out: Stream, lanes: int) -> tuple[str, str]:
    stage, table = _requantize_stage(name, plan, out, lanes)
    sums = "".join(
        _extended(
            f"sums[{lane * plan.acc_bits} +: {plan.acc_bits}]",
            f"code_{lane}",
            source.bits,
            plan.acc_bits,
            source.signed,
        )
        for lane in range(lanes)
    )
    codes = "".join(
        f"    wire [{source.bits - 1}:0] code_{lane} = in_data[{lane * source.bits} +: {source.bits}];\n"
        for lane in range(lanes)
    )
    text = f"""    wire sum_valid = in_valid;
    wire [{lanes * plan.acc_bits - 1}:0] sums;
{codes}{sums}{stage}    assign in_ready = move;
"""
    return text, table


def _bilinear(name: str, plan: RequantizePlan, source: Stream, out: Stream, lanes: int) -> tuple[str, str]:
    stage, table = _requantize_stage(name, plan, out, lanes)
    text = f"""    wire sum_valid;
    wire [{lanes * plan.acc_bits - 1}:0] sums;
{stage}{
        _instance(
            "qn_bilinear",
            "bilinear",
            {
                "BITS": source.bits,
                "LANES": lanes,
                "SIGNED": int(source.signed),
                "BEATS": source.beats,
                "HEIGHT": source.height,
                "WIDTH": source.width,
            },
            {
                "clk": "clk",
                "rst": "rst",
                "in_valid": "in_valid",
                "in_ready": "in_ready",
                "in_data": "in_data",
                "run": "move",
                "sum_valid": "sum_valid",
                "sums": "sums",
            },
        )
    }"""
    return text, table


def _concat_module(name: str, node: Node, sources: Sequence[Stream], out: Stream, lanes: int) -> str:
    """All inputs widened to the output's codes, then joined two by two."""
    ports, wires, width = "", "", lanes * out.bits
    for index, source in enumerate(sources):
        ports += f"""    input wire in{index}_valid,
    output wire in{index}_ready,
    input wire [{source.bits * lanes - 1}:0] in{index}_data,
"""
        wires += f"    wire [{width - 1}:0] wide{index};\n"
        for lane in range(lanes):
            wires += f"    wire [{source.bits - 1}:0] code{index}_{lane} = in{index}_data[{lane * source.bits} +: "
            wires += f"{source.bits}];\n"
            target = f"wide{index}[{lane * out.bits} +: {out.bits}]"
            wires += _extended(target, f"code{index}_{lane}", source.bits, out.bits, source.signed)
    valid, ready, data, beats = "in0_valid", "in0_ready", "wide0", sources[0].beats
    for index, source in enumerate(sources[1:], 1):
        last = index == len(sources) - 1
        result = ("out_valid", "out_ready", "out_data") if last else tuple(
            f"joined{index}_{part}" for part in ("valid", "ready", "data")
        )  # fmt: skip
        if not last:
            wires += f"    wire {result[0]}, {result[1]};\n    wire [{width - 1}:0] {result[2]};\n"
        wires += _instance(
            "qn_concat",
            f"concat{index}",
            {"BITS": width, "A_BEATS": beats, "B_BEATS": source.beats},
            {"clk": "clk", "rst": "rst", "a_valid": valid, "a_ready": ready, "a_data": data}
            | {"b_valid": f"in{index}_valid", "b_ready": f"in{index}_ready", "b_data": f"wide{index}"}
            | {"out_valid": result[0], "out_ready": result[1], "out_data": result[2]},
        )
        valid, ready, data = result
        beats += source.beats
    if len(sources) == 1:
        wires += "    assign out_valid = in0_valid, in0_ready = out_ready, out_data = wide0;\n"
    return f"""// {type(node).__name__} {_comment(node.name)}
module {name} (
    input wire clk,
    input wire rst,
{ports}    output wire out_valid,
    input wire out_ready,
    output wire [{width - 1}:0] out_data
);
{wires}endmodule
"""


def _threshold(node: Threshold, source: Stream) -> str:
    limit = f"{'-' if node.threshold < 0 else ''}33'sd{abs(node.threshold)}"
    return f"""    assign out_valid = in_valid;
    assign in_ready = out_ready;
    qn_threshold #(.BITS({source.bits}), .SIGNED({int(source.signed)}), .LIMIT({limit})) threshold (
        .code(in_data[{source.bits - 1}:0]), .label(out_data));
"""


def _arg_max(source: Stream, out: Stream, lanes: int) -> str:
    index = out.bits
    places = [0 if place == EMPTY else (1 << index) | place for place in source.layout]
    table = _packed(places, [index + 1] * len(places))
    bits = (index + 1) * len(places)
    return _instance(
        "qn_arg_max",
        "arg_max",
        {"BITS": source.bits, "LANES": lanes, "SIGNED": int(source.signed), "BEATS": source.beats}
        | {"INDEX": index, "CHANNELS": f"{bits}'h{table:x}"},
        _STREAM_PORTS,
    )
