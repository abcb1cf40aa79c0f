"""The one mapping from nodes of an integer graph to ONNX nodes; what QONNX and QDQ write differently is a ``Dialect``.

Tensors are float32 and hold integers. float32 holds every integer up to 2^24, so each node whose accumulators are
proven small enough is computed in float32, exactly; every other one (and each that has a multiplier) in int64.

Both dialects round to nearest, half to even; our rule is half up. They agree where there are no ties: where a right
shift follows, half an accumulator step is added, which moves each tie up and passes no other rounding point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from quantunet.backends.onnx.writer import FLOAT, INT32, INT64, OnnxWriter
from quantunet.formats import INT32 as ACCUMULATOR
from quantunet.formats import IntFormat
from quantunet.ir import ranges
from quantunet.ir.graph import (
    ArgMax,
    Concat,
    Conv2d,
    ConvTranspose2d,
    GraphError,
    IntegerGraph,
    MaxPool2d,
    Node,
    Requantize,
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
    WeightNode,
)

EXACT = 2**24
"""float32 holds every integer up to here."""

Floats = NDArray[np.float32]


class Dialect(Protocol):
    """How codes and weights of few bits are written."""

    def convolve(self, writer: OnnxWriter, node: WeightNode, x: str, scale: Floats, offset: Floats, name: str) -> str:
        """``(products + offset) * scale`` by output channel, all of it exact in float32.

        Args:
            node: what to take weights, their widths, stride and padding from; its bias is in ``offset``.
            scale: (out,), powers of two.
            offset: (out,), in accumulator steps.
        """
        ...

    def codes(self, writer: OnnxWriter, x: str, limits: IntFormat, name: str) -> str:
        """``x`` rounded to nearest and saturated to ``limits``."""
        ...


@dataclass(frozen=True)
class OnnxForm:
    """A model, and the tensor in which the codes of each node of the integer graph are."""

    model: onnx.ModelProto
    tensors: Mapping[str, str]


def convolution(node: WeightNode) -> tuple[str, dict[str, Any]]:
    """ONNX's operator and its attributes, all of them given: qonnx knows no defaults."""
    attributes = {"kernel_shape": list(node.weight.shape[2:]), "dilations": [1, 1], "group": 1}
    if isinstance(node, Conv2d):
        return "Conv", attributes | {"strides": [node.stride] * 2, "pads": [node.padding] * 4}
    return "ConvTranspose", attributes | {"strides": [2, 2], "pads": [0, 0, 0, 0]}


def write_nodes(graph: IntegerGraph, source: str, dialect: Dialect, writer: OnnxWriter) -> dict[str, str]:
    """Add all nodes but the input, whose codes are in tensor ``source``; the tensor in which each node's codes are.

    All are float32, but int32 accumulators beyond float32, and the mask, which is of ONNX's choosing.

    Raises:
        GraphError: if one input channel of a node alone could leave what float32 holds.
    """
    tensors = {graph.input.name: source}
    proofs = {proof.name: proof for proof in ranges.prove(graph)}
    formats = graph.formats()
    for node in graph.nodes[1:]:
        inputs = [tensors[name] for name in node.inputs]
        proof = proofs.get(node.name)
        largest = 0 if proof is None else max(-proof.low, proof.high)
        tensors[node.name] = _write(node, inputs, largest, [formats[name] for name in node.inputs], dialect, writer)
    return tensors


def _write(
    node: Node, inputs: list[str], largest: int, sources: list[IntFormat], dialect: Dialect, writer: OnnxWriter
) -> str:
    x = inputs[0]
    match node:
        case Conv2d() | ConvTranspose2d():
            return _weighted(node, x, largest, sources[0], dialect, writer)
        case MaxPool2d():
            return largest_of_four(writer, x, node.name)
        case UpsampleNearest2d():
            return nearest_twice(writer, x, node.name)
        case UpsampleBilinear2d():
            sixteenth = _resize(writer, x, f"{node.name}/sixteenths", "linear", "half_pixel")
            acc = writer.add("Mul", [sixteenth, writer.scalar(16)], f"{node.name}/sum")
            return _requantized(acc, largest, node.requantize, dialect, writer, node.name)
        case Rescale():
            return _requantized(x, largest, node.requantize, dialect, writer, node.name)
        case Concat():
            return writer.add("Concat", inputs, node.name, axis=1)
        case Threshold():
            logits = writer.add("Cast", [x], f"{node.name}/logits", to=INT32)
            limit = writer.constant(np.asarray(node.threshold, np.int32), f"{node.name}/threshold")
            above = writer.add("Greater", [logits, limit], f"{node.name}/above")
            return writer.add("Cast", [above], node.name, to=INT64)
        case ArgMax():
            return writer.add("ArgMax", [x], node.name, axis=1, keepdims=1)
        case _:
            raise GraphError(f"node {node.name!r} of kind {type(node).__name__} has no ONNX form")


def largest_of_four(writer: OnnxWriter, x: str, name: str) -> str:
    """The maximum over each 2x2 block."""
    return writer.add("MaxPool", [x], name, kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4)


def nearest_twice(writer: OnnxWriter, x: str, name: str) -> str:
    """Each pixel as a 2x2 block."""
    return _resize(writer, x, name, "nearest", "asymmetric", nearest_mode="floor")


def _resize(writer: OnnxWriter, x: str, name: str, mode: str, coordinates: str, **attributes: str) -> str:
    """Twice the height and width."""
    scales = writer.constant(np.array([1, 1, 2, 2], np.float32), "twice")
    attributes |= {"mode": mode, "coordinate_transformation_mode": coordinates}
    return writer.add("Resize", [x, "", scales], name, **attributes)


def _weighted(node: WeightNode, x: str, largest: int, source: IntFormat, dialect: Dialect, writer: OnnxWriter) -> str:
    """A convolution of either kind: in float32 where that is exact, else in parts that are, summed in int64."""
    channels, stage = len(node.bias), node.requantize
    if stage is None and largest <= EXACT:
        return dialect.convolve(writer, node, x, np.ones(channels, np.float32), _floats(node.bias), node.name)
    if stage is not None and _is_exact(stage, largest):
        scaled = dialect.convolve(
            writer, node, x, _scale(stage), _floats(node.bias) + _half_step(stage), f"{node.name}/scaled"
        )
        return dialect.codes(writer, scaled, stage.output, node.name)
    acc = _sum_of_parts(node, x, source, dialect, writer)
    bias = writer.constant(_by_channel(node.bias.astype(np.int64)), f"{node.name}/bias")
    acc = writer.add("Add", [acc, bias], f"{node.name}/acc")
    if stage is None:
        return writer.add("Cast", [acc], node.name, to=INT32)
    return _requantized_int64(acc, stage, dialect, writer, node.name)


def _sum_of_parts(node: WeightNode, x: str, source: IntFormat, dialect: Dialect, writer: OnnxWriter) -> str:
    """The products of ``node`` as int64: convolutions over runs of input channels, none of them beyond float32."""
    zeros, ones = np.zeros(len(node.bias), np.float32), np.ones(len(node.bias), np.float32)
    total = ""
    runs = _runs_of_channels(node, source)
    for first, last in runs:
        name = f"{node.name}/products" if len(runs) == 1 else f"{node.name}/products{first}"
        part = x
        if len(runs) > 1:
            limits = [writer.constant(np.array([value], np.int64), f"index_{value}") for value in (first, last, 1)]
            part = writer.add("Slice", [x, *limits], f"{name}/input")
        products = dialect.convolve(writer, _part_of(node, first, last), part, ones, zeros, f"{name}/float")
        products = writer.add("Cast", [products], name, to=INT64)
        total = products if not total else writer.add("Add", [total, products], f"{name}/sum")
    return total


def _runs_of_channels(node: WeightNode, source: IntFormat) -> list[tuple[int, int]]:
    magnitudes = np.abs(node.weight.astype(np.int64)).sum(axis=(2, 3)) * max(-source.q_min, source.q_max)  # (out, in)
    runs: list[tuple[int, int]] = []
    first = 0
    for last in range(1, magnitudes.shape[1] + 1):
        if magnitudes[:, last - 1].max() > EXACT:
            raise GraphError(
                f"node {node.name!r}: the products of input channel {last - 1} alone could exceed 2^24, "
                "which float32 does not hold: use a smaller kernel or fewer bits"
            )
        if magnitudes[:, first:last].sum(axis=1).max() > EXACT:
            runs.append((first, last - 1))
            first = last - 1
    return [*runs, (first, magnitudes.shape[1])]


def _part_of(node: WeightNode, first: int, last: int) -> WeightNode:
    weight = np.ascontiguousarray(node.weight[:, first:last])
    if isinstance(node, Conv2d):
        return Conv2d(node.name, node.inputs, weight, node.weight_bit_width, node.bias, None, node.stride, node.padding)
    return ConvTranspose2d(node.name, node.inputs, weight, node.weight_bit_width, node.bias, None)


def _requantized(acc: str, largest: int, stage: Requantize, dialect: Dialect, writer: OnnxWriter, name: str) -> str:
    """Codes of a float32 tensor of integers."""
    if not _is_exact(stage, largest):
        acc = writer.add("Cast", [acc], f"{name}/acc", to=INT64)
        return _requantized_int64(acc, stage, dialect, writer, name)
    half = _half_step(stage)
    if half.any():
        acc = writer.add("Add", [acc, writer.constant(_by_channel(half), f"{name}/half_step")], f"{name}/no_ties")
    scale = _scale(stage)
    if np.any(scale != 1):
        acc = writer.add("Mul", [acc, writer.constant(_by_channel(scale), f"{name}/scale")], f"{name}/scaled")
    return dialect.codes(writer, acc, stage.output, name)


def _requantized_int64(acc: str, stage: Requantize, dialect: Dialect, writer: OnnxWriter, name: str) -> str:
    """``clamp(floor((acc * multiplier + 2^(shift-1)) / 2^shift))`` on int64, as ``arith.requantize``."""
    shift = stage.shift.astype(np.int64)
    right = np.maximum(shift, 0)
    factor = stage.multiplier.astype(np.int64) << np.maximum(-shift, 0)
    half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
    divisor = writer.constant(_by_channel(np.int64(1) << right), f"{name}/divisor")
    product = writer.add("Mul", [acc, writer.constant(_by_channel(factor), f"{name}/multiplier")], f"{name}/product")
    product = writer.add("Add", [product, writer.constant(_by_channel(half), f"{name}/half")], f"{name}/with_half")
    # ONNX divides towards zero; its modulus has the sign of the divisor, so what is left divides without a rest
    rest = writer.add("Mod", [product, divisor], f"{name}/rest")
    whole = writer.add("Sub", [product, rest], f"{name}/whole")
    rounded = writer.add("Div", [whole, divisor], f"{name}/rounded")
    limits = [writer.scalar(limit, np.int64) for limit in (stage.output.q_min, stage.output.q_max)]
    clamped = writer.add("Clip", [rounded, *limits], f"{name}/clamped")
    if stage.output == ACCUMULATOR:
        return writer.add("Cast", [clamped], name, to=INT32)
    return dialect.codes(writer, writer.add("Cast", [clamped], f"{name}/float", to=FLOAT), stage.output, name)


def _is_exact(stage: Requantize, largest: int) -> bool:
    """Whether float32 holds (acc + 1/2) 2^-shift for every accumulator."""
    return stage.is_shift_only and 2 * largest + 1 <= EXACT and stage.output != ACCUMULATOR


def _scale(stage: Requantize) -> Floats:
    return np.ldexp(np.float32(1), -stage.shift).astype(np.float32)


def _half_step(stage: Requantize) -> Floats:
    return np.where(stage.shift > 0, np.float32(0.5), np.float32(0))


def _floats(values: NDArray[np.integer]) -> Floats:
    return values.astype(np.float32)


def _by_channel(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return values.reshape(1, -1, 1, 1)
