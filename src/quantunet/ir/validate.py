"""Whether a graph is well formed: what ``read_model`` demands of a file, and ``lower`` of its own work."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from quantunet.arith import MAX_SHIFT, MULTIPLIER_BITS
from quantunet.formats import INT32, IntFormat
from quantunet.ir.graph import (
    ArgMax,
    Concat,
    Conv2d,
    ConvTranspose2d,
    GraphError,
    Input,
    IntegerGraph,
    MaxPool2d,
    Node,
    Requantize,
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
    output_format,
)

MAX_NODES = 1024
MAX_CHANNELS = 16384
MAX_KERNEL = 31
MAX_SIZE_MULTIPLE = 4096
"""Limits far above any U-Net, so that a hostile file cannot ask for unbounded memory."""

MAX_CODE_BIT_WIDTH = 8
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,100}")
_ONE_INPUT = (
    Conv2d | ConvTranspose2d | MaxPool2d | UpsampleNearest2d | UpsampleBilinear2d | Rescale | Threshold | ArgMax
)


def validate(graph: IntegerGraph) -> None:
    """Check names, order, arity, channels, widths, codes, requantization and sizes; ``ranges.prove`` checks overflow.

    Raises:
        GraphError: at the first fault, naming the node.
    """
    if not 2 <= len(graph.nodes) <= MAX_NODES:
        raise GraphError(f"a graph of {len(graph.nodes)} nodes: it needs an input, a mask, and at most {MAX_NODES}")
    if not isinstance(graph.nodes[0], Input):
        raise GraphError(f"node {graph.nodes[0].name!r} stands first and is no input")
    if not isinstance(graph.output, Threshold | ArgMax):
        raise GraphError(f"node {graph.output.name!r} stands last and is no mask (threshold or arg-max)")
    channels: dict[str, int] = {}
    formats: dict[str, IntFormat] = {}
    for position, node in enumerate(graph.nodes):
        _check_name_and_inputs(node, position, channels)
        channels[node.name] = _check_node(node, [channels[name] for name in node.inputs])
        if channels[node.name] > MAX_CHANNELS:
            raise GraphError(f"node {node.name!r} has {channels[node.name]} channels, more than {MAX_CHANNELS}")
        formats[node.name] = _check_formats(node, [formats[name] for name in node.inputs], channels)
    _check_sizes(graph)


def _check_name_and_inputs(node: Node, position: int, known: Mapping[str, int]) -> None:
    if not isinstance(node.name, str) or not _NAME.fullmatch(node.name) or node.name == "__metadata__":
        raise GraphError(f"node {position} has the name {node.name!r}: use 1 to 100 letters, digits and _ . : / -")
    if node.name in known:
        raise GraphError(f"two nodes have the name {node.name!r}")
    for name in node.inputs:
        if name not in known:
            raise GraphError(f"node {node.name!r} reads {name!r}, which no earlier node writes")
    count = len(node.inputs)
    if (isinstance(node, Input) and (position or count)) or (isinstance(node, _ONE_INPUT) and count != 1):
        raise GraphError(f"node {node.name!r} of kind {type(node).__name__} reads {count} tensors at place {position}")
    if isinstance(node, Concat) and count < 1:
        raise GraphError(f"node {node.name!r} joins nothing")


def _check_node(node: Node, inputs: list[int]) -> int:
    """The node's own fields against the channels of its inputs; returns its channels."""
    match node:
        case Input():
            if node.channels < 1:
                raise GraphError(f"node {node.name!r} has {node.channels} channels")
            if not (math.isfinite(node.scale) and node.scale > 0):
                raise GraphError(f"node {node.name!r} has the scale {node.scale}, which is not positive and finite")
            _check_code_format(node, node.output)
            return node.channels
        case Conv2d():
            kernel = node.weight.shape[2:]
            if node.weight.ndim != 4 or not 1 <= min(kernel) <= max(kernel) <= MAX_KERNEL:
                raise GraphError(f"node {node.name!r} has a weight of shape {node.weight.shape}")
            if not (1 <= node.stride <= MAX_KERNEL and 0 <= node.padding < min(kernel)):
                raise GraphError(
                    f"node {node.name!r}: stride {node.stride}, padding {node.padding} do not suit kernel {kernel}"
                )
            return _check_weights(node, inputs[0])
        case ConvTranspose2d():
            if node.weight.ndim != 4 or node.weight.shape[2:] != (2, 2):
                raise GraphError(f"node {node.name!r} has a weight of shape {node.weight.shape}, not (out, in, 2, 2)")
            return _check_weights(node, inputs[0])
        case UpsampleBilinear2d() | Rescale():
            _check_requantize(node, node.requantize, inputs[0])
            return inputs[0]
        case MaxPool2d() | UpsampleNearest2d():
            return inputs[0]
        case Concat():
            return sum(inputs)
        case Threshold():
            if inputs[0] != 1 or not INT32.q_min <= node.threshold <= INT32.q_max:
                raise GraphError(f"node {node.name!r} compares {inputs[0]} channels with {node.threshold}")
            return 1
        case ArgMax():
            if inputs[0] < 2:
                raise GraphError(f"node {node.name!r} takes the largest of {inputs[0]} channel")
            return 1
        case _:
            raise GraphError(f"node {node.name!r} is of unknown kind {type(node).__name__}")


def _check_weights(node: Conv2d | ConvTranspose2d, in_channels: int) -> int:
    out_channels = node.weight.shape[0]
    if out_channels < 1 or node.weight.shape[1] != in_channels:
        raise GraphError(f"node {node.name!r}: weight {node.weight.shape} does not suit {in_channels} input channels")
    _check_integers(node, "weight_bit_width", node.weight_bit_width, out_channels, 1, MAX_CODE_BIT_WIDTH)
    _check_integers(node, "bias", node.bias, out_channels, INT32.q_min, INT32.q_max)
    if node.weight.dtype.kind not in "iu":
        raise GraphError(f"node {node.name!r}: weights are {node.weight.dtype}, not integers")
    half = 1 << (node.weight_bit_width.astype(np.int64) - 1)
    rows = node.weight.reshape(out_channels, -1)
    wrong = np.flatnonzero((rows.min(axis=1) < -half) | (rows.max(axis=1) >= half))
    if wrong.size:
        width = node.weight_bit_width[wrong[0]]
        raise GraphError(f"node {node.name!r}: weights of output channel {wrong[0]} do not fit {width} bits")
    if node.requantize is not None:
        _check_requantize(node, node.requantize, out_channels)
    return out_channels


def _check_requantize(node: Node, stage: Requantize, channels: int) -> None:
    _check_integers(node, "multiplier", stage.multiplier, channels, 0, (1 << MULTIPLIER_BITS) - 1)
    _check_integers(node, "shift", stage.shift, channels, -31, MAX_SHIFT)
    if np.any((stage.shift < 0) & (stage.multiplier != 1)):
        raise GraphError(f"node {node.name!r}: a shift to the left has a multiplier other than 1")
    if stage.output != INT32:  # logits of several scales are aligned in int32
        _check_code_format(node, stage.output)


def _check_integers(node: Node, field: str, values: np.ndarray, count: int, low: int, high: int) -> None:
    if values.dtype.kind not in "iu" or values.shape != (count,):
        raise GraphError(f"node {node.name!r}: {field} is {values.dtype} {values.shape}, not integers ({count},)")
    if values.min() < low or values.max() > high:
        raise GraphError(f"node {node.name!r}: {field} {values.min()}..{values.max()} leaves {low}..{high}")


def _check_code_format(node: Node, codes: IntFormat) -> None:
    if codes.bit_width > MAX_CODE_BIT_WIDTH:
        raise GraphError(f"node {node.name!r} writes {codes} codes: at most {MAX_CODE_BIT_WIDTH} bits")


def _check_formats(node: Node, inputs: list[IntFormat], channels: Mapping[str, int]) -> IntFormat:
    if INT32 in inputs and isinstance(node, Conv2d | ConvTranspose2d | UpsampleBilinear2d | Concat):
        raise GraphError(f"node {node.name!r} reads int32 accumulators: requantize them first")
    return output_format(node, inputs, channels)


def _check_sizes(graph: IntegerGraph) -> None:
    """Some image size must run through: poolings halve even sizes, concatenated tensors are equally large."""
    multiple = graph.size_multiple()
    if multiple > MAX_SIZE_MULTIPLE:
        raise GraphError(f"the graph needs image sizes that are multiples of {multiple}, more than {MAX_SIZE_MULTIPLE}")
    fault: GraphError | None = None
    for blocks in range(256 // multiple + 1, 256 // multiple + 9):
        try:
            graph.shapes(multiple * blocks, multiple * blocks)
        except GraphError as error:
            fault = error
        else:
            return
    if fault is not None:
        raise fault
