"""What every layer of a graph costs, and the graph altogether, from the formulas of ``cost``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantunet import cost
from quantunet.formats import INT32, IntFormat
from quantunet.ir import ranges
from quantunet.ir.graph import (
    Conv2d,
    ConvTranspose2d,
    IntegerGraph,
    Rescale,
    UpsampleBilinear2d,
    WeightNode,
)


@dataclass(frozen=True)
class LayerRow:
    """One node that holds weights, for an image of given size.

    Args:
        op: ``conv 3x3`` or ``conv_transpose 2x2``.
        parameters: weights and biases.
        weights: weights alone.
        macs: multiply-accumulates of one image.
        weight_bits: mean width over the weights; ``weight_bits_min``, ``weight_bits_max`` over the output channels.
        activation_bits: width of the codes that the node reads.
        output_bits: width of the codes that it writes; 32 where it leaves accumulators.
        packed_bytes: weight rows as packed in the file, biases not counted.
        bops: macs x weight width x activation width.
        acc_bit_width: signed width that holds the accumulator for every possible input.
    """

    name: str
    op: str
    parameters: int
    weights: int
    macs: int
    weight_bits: float
    weight_bits_min: int
    weight_bits_max: int
    activation_bits: int
    output_bits: int
    packed_bytes: int
    bops: int
    acc_bit_width: int


@dataclass(frozen=True)
class GraphTotals:
    """Sums and means over a graph, for an image of given size.

    Args:
        weight_bits_by_layer: mean over the layers of their mean weight width.
        weight_bits_by_parameter: mean over all weights; biases are 32-bit integers and not counted in.
        activation_bits: mean width over the tensors that are quantized inside the network: written by a requantization
            to codes; the input, copies (pooled, joined) and int32 logits do not count.
        packed_weight_bytes: weight rows as packed, every row filled up to a whole byte.
        float32_bytes: 4 x (weights + biases) of this graph.
        peak_activation_bytes: most bytes of tensors alive at once, nodes run in order, a code in 8, 16 or 32 bits.
        peak_packed_activation_bytes: the same, were the codes packed at their own width.
    """

    weights: int
    biases: int
    macs: int
    bops: int
    weight_bits_by_layer: float
    weight_bits_by_parameter: float
    activation_bits: float
    packed_weight_bytes: int
    float32_bytes: int
    peak_activation_bytes: int
    peak_packed_activation_bytes: int


def layer_table(graph: IntegerGraph, height: int, width: int) -> list[LayerRow]:
    """One row for every node with weights, in order, for one image of ``height`` x ``width`` pixels.

    Raises:
        GraphError: if the size does not suit the graph, or an accumulator could overflow.
    """
    formats, shapes = graph.formats(), graph.shapes(height, width)
    acc_bit_width = {proof.name: proof.bit_width for proof in ranges.prove(graph)}
    return [
        _row(node, formats, shapes[node.name], shapes[node.inputs[0]], acc_bit_width[node.name])
        for node in graph.weight_nodes()
    ]


def totals(graph: IntegerGraph, rows: Sequence[LayerRow], height: int, width: int) -> GraphTotals:
    """Sums and means over the ``rows`` of ``layer_table(graph, height, width)``; nan where there is nothing to average.

    Raises:
        GraphError: if the size does not suit the graph.
    """
    weights = sum(row.weights for row in rows)
    parameters = sum(row.parameters for row in rows)
    peak, peak_packed = _peak_activation_bytes(graph, height, width)
    return GraphTotals(
        weights=weights,
        biases=parameters - weights,
        macs=sum(row.macs for row in rows),
        bops=sum(row.bops for row in rows),
        weight_bits_by_layer=_ratio(sum(row.weight_bits for row in rows), len(rows)),
        weight_bits_by_parameter=_ratio(sum(row.weight_bits * row.weights for row in rows), weights),
        activation_bits=_mean_activation_bits(graph),
        packed_weight_bytes=sum(row.packed_bytes for row in rows),
        float32_bytes=cost.float32_bytes(parameters),
        peak_activation_bytes=peak,
        peak_packed_activation_bytes=peak_packed,
    )


def _row(
    node: WeightNode,
    formats: dict[str, IntFormat],
    output: tuple[int, int, int],
    source: tuple[int, int, int],
    acc_bit_width: int,
) -> LayerRow:
    out_channels, in_channels, kernel_height, kernel_width = node.weight.shape
    if isinstance(node, Conv2d):
        op = f"conv {kernel_height}x{kernel_width}"
        macs = cost.conv_macs(out_channels, in_channels, kernel_height, kernel_width, *output[1:])
    else:
        op = "conv_transpose 2x2"
        macs = cost.conv_transpose_macs(out_channels, in_channels, kernel_height, kernel_width, *source[1:])
    weights_per_row = in_channels * kernel_height * kernel_width
    bit_width = node.weight_bit_width.astype(np.int64)
    activation_bits = formats[node.inputs[0]].bit_width
    return LayerRow(
        name=node.name,
        op=op,
        parameters=node.weight.size + out_channels,
        weights=node.weight.size,
        macs=macs,
        weight_bits=float(bit_width.mean()),  # all output channels have equally many weights
        weight_bits_min=int(bit_width.min()),
        weight_bits_max=int(bit_width.max()),
        activation_bits=activation_bits,
        output_bits=formats[node.name].bit_width,
        packed_bytes=int(cost.packed_bytes(weights_per_row, bit_width).sum()),
        # every output channel has macs / out_channels products at its own width
        bops=cost.bops(macs // out_channels, int(bit_width.sum()), activation_bits),
        acc_bit_width=acc_bit_width,
    )


def _mean_activation_bits(graph: IntegerGraph) -> float:
    formats = graph.formats()
    widths = [
        formats[node.name].bit_width
        for node in graph.nodes
        if isinstance(node, Conv2d | ConvTranspose2d | UpsampleBilinear2d | Rescale) and formats[node.name] != INT32
    ]
    return _ratio(sum(widths), len(widths))


def _peak_activation_bytes(graph: IntegerGraph, height: int, width: int) -> tuple[int, int]:
    """Tensors live from the node that writes them to the last that reads them; joining and up-sampling copy."""
    formats, shapes = graph.formats(), graph.shapes(height, width)
    last_reader = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs}
    live: dict[str, tuple[int, int]] = {}
    peak, peak_packed = 0, 0
    for place, node in enumerate(graph.nodes):
        elements, stored = int(np.prod(shapes[node.name], dtype=np.int64)), formats[node.name]
        live[node.name] = (
            cost.tensor_bytes(elements, stored.storage_bit_width),
            cost.packed_bytes(elements, stored.bit_width),
        )
        peak = max(peak, sum(unpacked for unpacked, _ in live.values()))
        peak_packed = max(peak_packed, sum(packed for _, packed in live.values()))
        live = {name: sizes for name, sizes in live.items() if last_reader.get(name, -1) > place}
    return peak, peak_packed


def _ratio(total: float, count: int) -> float:
    return total / count if count else float("nan")
