"""The formulas of ``fpga_cost`` on the plan of a design: what every node takes, and the cost that folding goes by."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from quantunet import fpga_cost
from quantunet.backends.verilog.fold import Folding, WeightPlan, word_places
from quantunet.backends.verilog.plan import Plan
from quantunet.backends.verilog.stream import EMPTY, Stream
from quantunet.energy import Energy, layer_energy
from quantunet.fpga_cost import ConvShape, Resources
from quantunet.ir.graph import (
    ArgMax,
    Concat,
    ConvTranspose2d,
    MaxPool2d,
    Node,
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
    WeightNode,
)
from quantunet.ir.layer_table import layer_table

LUTS_PER_RAM18 = 190
"""What an 18-kbit RAM counts as when foldings are compared: as many tables stand beside one in a Zynq-7020."""


def folding_cost(
    node: WeightNode,
    source: Stream,
    folding: Folding,
    weight_bits: Sequence[int],
    acc_bits: Sequence[int],
    dsp_tables: float = inf,
) -> float:
    """Look-up tables of a folding, ``dsp_tables`` for each multiplier, and a share for its block RAMs."""
    kernel = node.weight.shape[2]
    positions = 4 if isinstance(node, ConvTranspose2d) else kernel**2
    beats = folding.folds * folding.filters
    shape = ConvShape(
        folding.inputs,
        *_codes(folding, source),
        source.bits,
        tuple(weight_bits),
        tuple(acc_bits),
        positions * folding.groups * folding.folds,
        kernel + 1,
        source.width * folding.groups,
        1,
        8,
        beats,
        max(acc_bits) + 2,
        max(acc_bits),
        2,
        False,
        (source.height, source.width * folding.groups, folding.folds, kernel * folding.groups),
        tuple(
            fpga_cost.is_multiplied(folding.inputs, source.bits, *widths, dsp_tables)
            for widths in zip(weight_bits, acc_bits, strict=True)
        ),
    )
    resources = fpga_cost.conv_resources(shape)
    multipliers = dsp_tables * resources.dsp if resources.dsp else 0
    return resources.lut + multipliers + RAM_SHARE * LUTS_PER_RAM18 * resources.bram18


RAM_SHARE = 0.25
"""Tables run out before RAMs do: a RAM counts a quarter of its share of the part."""


def estimate(plan: Plan) -> dict[str, Resources]:
    """Resources by node, and by skip as ``tensor → reader``, named as in ``synthesize``."""
    found = {node.name: _node(plan, node) for node in plan.graph.nodes[1:]}
    for (tensor, reader), depth in plan.skips.items():
        if depth:
            found[f"{tensor} → {reader}"] = fpga_cost.fifo_resources(depth, plan.streams[tensor].bits * plan.lanes)
    return found


def energies(plan: Plan) -> dict[str, Energy]:
    """Energy of one image by convolution and by skip; what other nodes take is left out.

    Traffic is what the design's memories move: words and weights read at every step, rows and skips written and read.
    """
    formats, macs = plan.graph.formats(), {}
    for row in layer_table(plan.graph, plan.height, plan.width):
        macs[row.name] = row
    found = {}
    for name, weighted in plan.weighted.items():
        row, source = macs[name], plan.streams[plan.graph.node(name).inputs[0]]
        word = weighted.folding.inputs * (source.bits + sum(weighted.weight_bits))
        written = source.pixels * source.beats * source.bits * plan.lanes
        activation_bits = formats[source.name].bit_width
        traffic = plan.clocks[name] * word + written
        found[name] = layer_energy(row.macs, row.weight_bits, activation_bits, row.acc_bit_width, traffic)
    for (tensor, reader), depth in plan.skips.items():
        stream = plan.streams[tensor]
        if depth:
            bits = 2 * stream.pixels * stream.beats * stream.bits * plan.lanes
            found[f"{tensor} → {reader}"] = layer_energy(0, 0, 0, 0, bits)
    return found


def conv_shape(plan: Plan, name: str, weighted: WeightPlan) -> ConvShape:
    """A planned convolution, as the formulas see it."""
    out, source = plan.streams[name], plan.streams[plan.graph.node(name).inputs[0]]
    folding, stage = weighted.folding, weighted.requantize
    return ConvShape(
        folding.inputs,
        *_codes(folding, source),
        source.bits,
        weighted.weight_bits,
        weighted.acc_bits,
        weighted.depth,
        weighted.rows,
        source.width * folding.groups,
        plan.lanes,
        out.bits,
        out.beats,
        stage.entry_bits,
        stage.sum_bits,
        0 if stage.raw or not any(stage.shift) else stage.shift_bits,
        stage.multiplier is not None,
        (source.height, source.width * folding.groups, folding.folds, weighted.kernel * folding.groups),
        weighted.multiplied,
    )


def _node(plan: Plan, node: Node) -> Resources:
    out, lanes = plan.streams[node.name], plan.lanes
    source = plan.streams[node.inputs[0]]
    match node:
        case MaxPool2d():
            words = _power(source.width // 2) * _power(source.beats)
            return fpga_cost.resize_resources(words, out.bits * lanes, (source.width, source.beats))
        case UpsampleNearest2d():
            words = 2 * _power(source.width) * _power(source.beats)
            counters = (source.width, source.beats, source.width, source.beats)
            return fpga_cost.resize_resources(words, out.bits * lanes, counters)
        case UpsampleBilinear2d() | Rescale():
            stage = plan.requantized[node.name]
            lut = lanes * (3 * stage.sum_bits) + 40
            if isinstance(node, Rescale):
                return Resources(lut, lut)
            ring = fpga_cost.ram18(3 * source.width * source.beats, source.bits * lanes)
            return Resources(lut + 120, lut, ring)
        case Concat():
            return Resources(12 + out.bits * lanes, 6)
        case Threshold() | ArgMax():
            return Resources(source.bits * (1 if isinstance(node, Threshold) else 4), 8)
        case _:
            return fpga_cost.conv_resources(conv_shape(plan, node.name, plan.weighted[node.name]))


def _codes(folding: Folding, source: Stream) -> tuple[int, int]:
    """Codes of a word that a weight multiplies, and pairs of neighbours among them.

    A place that no group fills has weights of 0 throughout, which synthesis removes.
    """
    filled = (word_places(source, folding) != EMPTY).any(axis=0)
    pairs = filled[: len(filled) // 2 * 2].reshape(-1, 2)
    return int(filled.sum()), int(pairs.all(axis=1).sum())


def _power(value: int) -> int:
    return 1 << max(value - 1, 0).bit_length()
