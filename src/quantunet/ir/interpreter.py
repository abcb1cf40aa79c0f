"""The NumPy interpreter of the IntegerGraph: the oracle that every backend is compared with.

Products are summed by a matrix product in floats, which is exact here: every partial sum is an integer below 2^31
(``ranges.prove`` shows it), far under the 2^53 up to which float64 holds all integers. Where the largest code and the
weights keep all sums under 2^24, float32 holds them too, in half the time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantunet.arith import Int64, requantize
from quantunet.ir.graph import (
    ArgMax,
    Concat,
    Conv2d,
    ConvTranspose2d,
    GraphError,
    IntArray,
    IntegerGraph,
    MaxPool2d,
    Node,
    Requantize,
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
)


def quantize_input(graph: IntegerGraph, image: NDArray[np.floating]) -> Int64:
    """Codes of a normalised image of shape (..., c, h, w): the only float arithmetic of a deployed model.

    ``saturate(floor(image / scale + 1/2))``, in float64.

    Raises:
        GraphError: if a pixel is not finite.
    """
    if not np.isfinite(image).all():
        raise GraphError("the image holds values that are not finite (NaN or infinity)")
    codes = np.floor(image.astype(np.float64) / graph.input.scale + 0.5)
    limits = graph.input.output
    return np.clip(codes, limits.q_min, limits.q_max).astype(np.int64)


def run(graph: IntegerGraph, codes: NDArray[np.integer]) -> Int64:
    """The mask (n, h, w) of input codes (n, c, h, w).

    Raises:
        GraphError: if the codes do not fit the graph's input.
    """
    return trace(graph, codes)[graph.output.name][:, 0]


def trace(graph: IntegerGraph, codes: NDArray[np.integer]) -> dict[str, Int64]:
    """Every tensor of the graph, by name, each (n, c, h, w)."""
    expected = graph.input
    if codes.ndim != 4 or codes.shape[1] != expected.channels:
        raise GraphError(f"input codes of shape {codes.shape} do not fit (n, {expected.channels}, h, w)")
    if codes.size and (codes.min() < expected.output.q_min or codes.max() > expected.output.q_max):
        raise GraphError(f"input codes reach {codes.min()}..{codes.max()}, outside the format {expected.output}")
    tensors: dict[str, Int64] = {expected.name: codes.astype(np.int64)}
    for node in graph.nodes[1:]:
        tensors[node.name] = evaluate(node, [tensors[name] for name in node.inputs])
    return tensors


def evaluate(node: Node, inputs: list[Int64]) -> Int64:
    """One node's output tensor (n, c, h, w) from its inputs."""
    match node:
        case Conv2d():
            acc = _convolve(inputs[0], node.weight, node.stride, node.padding) + _by_channel(node.bias)
            return _requantize(acc, node.requantize)
        case ConvTranspose2d():
            acc = _convolve_transposed(inputs[0], node.weight) + _by_channel(node.bias)
            return _requantize(acc, node.requantize)
        case MaxPool2d():
            n, c, h, w = inputs[0].shape
            return inputs[0].reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))
        case UpsampleNearest2d():
            return inputs[0].repeat(2, axis=2).repeat(2, axis=3)
        case UpsampleBilinear2d():
            return _requantize(_double_linear(_double_linear(inputs[0], 2), 3), node.requantize)
        case Rescale():
            return _requantize(inputs[0], node.requantize)
        case Concat():
            return np.concatenate(inputs, axis=1)
        case Threshold():
            return (inputs[0] > node.threshold).astype(np.int64)
        case ArgMax():
            return inputs[0].argmax(axis=1, keepdims=True)
        case _:
            raise GraphError(f"node {node.name!r} of kind {type(node).__name__} cannot be evaluated")


def _by_channel(values: IntArray) -> Int64:
    return values.astype(np.int64)[None, :, None, None]


def _requantize(acc: Int64, stage: Requantize | None) -> Int64:
    if stage is None:
        return acc
    return requantize(acc, _by_channel(stage.multiplier), _by_channel(stage.shift), stage.output)


def _exact_float(x: Int64, weight: IntArray) -> type[np.floating]:
    """The narrowest float that holds every sum of products of these codes and weights exactly."""
    largest = int(np.abs(x).max(initial=0)) * int(np.abs(weight.astype(np.int64)).sum(axis=(1, 2, 3)).max(initial=0))
    return np.float32 if largest < 2**24 else np.float64


def _convolve(x: Int64, weight: IntArray, stride: int, padding: int) -> Int64:
    n, _, height, width = x.shape
    out_channels, _, kernel_height, kernel_width = weight.shape
    exact = _exact_float(x, weight)
    padded = np.pad(x.astype(exact), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    out_height = (height + 2 * padding - kernel_height) // stride + 1
    out_width = (width + 2 * padding - kernel_width) // stride + 1
    acc = np.zeros((n, out_channels, out_height * out_width), exact)
    for i in range(kernel_height):
        for j in range(kernel_width):
            window = padded[:, :, i : i + stride * out_height : stride, j : j + stride * out_width : stride]
            window = window[:, :, :out_height, :out_width].reshape(n, x.shape[1], -1)
            acc += weight[:, :, i, j].astype(exact) @ window
    return acc.reshape(n, out_channels, out_height, out_width).astype(np.int64)


def _convolve_transposed(x: Int64, weight: IntArray) -> Int64:
    n, channels, height, width = x.shape
    out = np.empty((n, weight.shape[0], 2 * height, 2 * width), np.int64)
    exact = _exact_float(x, weight)
    flat = x.reshape(n, channels, -1).astype(exact)
    for i in range(2):
        for j in range(2):
            product = weight[:, :, i, j].astype(exact) @ flat
            out[:, :, i::2, j::2] = product.reshape(n, -1, height, width).astype(np.int64)
    return out


def _double_linear(x: Int64, axis: int) -> Int64:
    """Bilinear x2 along one axis, times 4."""
    length = x.shape[axis]
    before = np.take(x, np.maximum(np.arange(length) - 1, 0), axis)
    after = np.take(x, np.minimum(np.arange(length) + 1, length - 1), axis)
    doubled = np.stack((before + 3 * x, 3 * x + after), axis + 1)
    return doubled.reshape(*x.shape[:axis], 2 * length, *x.shape[axis + 1 :])
