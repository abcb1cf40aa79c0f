"""The streaming design of a graph, as numbers: lanes, folding, widths, rows kept, depth of the queues, clocks a frame.

Streams carry pixels row by row, the channels of a pixel in ``beats`` beats of ``lanes`` codes. Which channel stands in
which place is the tensor's ``layout``: filters are sorted by width, so that those that share a multiplier array are
alike, and the next layer's weights are permuted instead of the stream. A place may be empty: its weights are zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

from quantunet.backends.verilog.fold import (
    ROW_CLOCKS,
    Cost,
    RequantizePlan,
    WeightPlan,
    conv_layout,
    plan_requantize,
    plan_weights,
)
from quantunet.backends.verilog.stream import EMPTY, Stream, skip_depths
from quantunet.ir import ranges
from quantunet.ir.graph import (
    ArgMax,
    Concat,
    Conv2d,
    ConvTranspose2d,
    IntegerGraph,
    MaxPool2d,
    Node,
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
)
from quantunet.ir.ranges import Interval

MAX_LANES = 64


@dataclass(frozen=True)
class Plan:
    """The whole design.

    Args:
        streams: by tensor.
        weighted: by node; ``requantized`` those of Rescale and UpsampleBilinear2d.
        skips: (tensor, reading node): words of the queue on that branch.
        clocks: by node, for one frame at full speed.
        dsp_tables: tables that a multiplier counts as; ``inf``: there are none.
    """

    graph: IntegerGraph
    height: int
    width: int
    lanes: int
    streams: Mapping[str, Stream]
    weighted: Mapping[str, WeightPlan]
    requantized: Mapping[str, RequantizePlan]
    skips: Mapping[tuple[str, str], int]
    clocks: Mapping[str, int]
    dsp_tables: float

    @property
    def clocks_per_frame(self) -> int:
        """Clocks between two frames, by the slowest node."""
        return max(self.clocks.values())


def make_plan(graph: IntegerGraph, height: int, width: int, clocks: int, cost: Cost, dsp_tables: float = inf) -> Plan:
    """The cheapest design of its kind that takes a frame every ``clocks`` clocks; the fastest where none does.

    Args:
        cost: of a folding, in which a multiplier counts ``dsp_tables`` tables; ``inf``: there are none.

    Raises:
        PlanError: if the graph has an operation that the library lacks.
        GraphError: if the size does not suit the graph.
    """
    shapes = graph.shapes(height, width)
    lanes = next(
        (lanes for lanes in range(1, MAX_LANES + 1) if _stream_clocks(graph, shapes, lanes) <= clocks), MAX_LANES
    )
    bounds, formats = ranges.intervals(graph), graph.formats()
    streams: dict[str, Stream] = {}
    weighted: dict[str, WeightPlan] = {}
    requantized: dict[str, RequantizePlan] = {}
    for node in graph.nodes:
        channels, rows, columns = shapes[node.name]
        sources = [streams[name] for name in node.inputs]
        natural = tuple(range(channels)) + (EMPTY,) * (-channels % lanes)
        layout, bits, signed = natural, formats[node.name].bit_width, formats[node.name].signed
        match node:
            case Conv2d() | ConvTranspose2d():
                plan = plan_weights(
                    node, sources[0], bounds[node.inputs[0]], lanes, (rows, columns), clocks, cost, dsp_tables
                )
                weighted[node.name] = plan
                layout = conv_layout(plan.channels, lanes)
                if plan.requantize.raw:
                    bits, signed = plan.requantize.sum_bits, True
            case Rescale():
                source = bounds[node.inputs[0]]
                layout = sources[0].layout
                acc_bits = sources[0].bits + int(not sources[0].signed)
                requantized[node.name] = plan_requantize(node.requantize, None, source, layout, acc_bits)
            case UpsampleBilinear2d():
                source = bounds[node.inputs[0]]
                layout = sources[0].layout
                sums = Interval(16 * source.low, 16 * source.high)
                requantized[node.name] = plan_requantize(node.requantize, None, sums, layout, sources[0].bits + 5)
            case Concat():
                starts = np.cumsum([0] + [source.channels for source in sources])
                layout = tuple(
                    place if place == EMPTY else place + int(start)
                    for source, start in zip(sources, starts, strict=False)
                    for place in source.layout
                )
            case MaxPool2d() | UpsampleNearest2d():
                layout, bits, signed = sources[0].layout, sources[0].bits, sources[0].signed
            case Threshold() | ArgMax():
                layout = (0,) + (EMPTY,) * (lanes - 1)
        streams[node.name] = Stream(node.name, bits, signed, rows, columns, len(layout) // lanes, layout)
    node_clocks = {node.name: _clocks(node, streams, weighted.get(node.name)) for node in graph.nodes}
    skips = skip_depths(graph, streams)
    return Plan(graph, height, width, lanes, streams, weighted, requantized, skips, node_clocks, dsp_tables)


def _stream_clocks(graph: IntegerGraph, shapes: Mapping[str, tuple[int, int, int]], lanes: int) -> int:
    """Clocks that the busiest stream of ``lanes`` lanes takes; pooling takes two a beat."""
    pooled = {node.inputs[0] for node in graph.nodes if isinstance(node, MaxPool2d)}
    doubled = {node.name for node in graph.nodes if isinstance(node, UpsampleBilinear2d)}
    most = 0
    for name, (channels, height, width) in shapes.items():
        factor = 4 if name in doubled else 2 if name in pooled else 1
        most = max(most, factor * -(-channels // lanes) * height * width + ROW_CLOCKS * height)
    return most


def _clocks(node: Node, streams: Mapping[str, Stream], weighted: WeightPlan | None) -> int:
    out = streams[node.name]
    written = out.pixels * out.beats
    match node:
        case Conv2d() | ConvTranspose2d():
            assert weighted is not None
            sweep = weighted.steps * weighted.folding.folds
            return out.height * (out.width * sweep + ROW_CLOCKS)
        case MaxPool2d():
            source = streams[node.inputs[0]]
            return 2 * source.pixels * source.beats
        case UpsampleBilinear2d():
            return 4 * written + ROW_CLOCKS * out.height
        case _:
            return written
