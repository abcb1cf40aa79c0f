"""The integer graph as a list of hls4ml's layers, each with the types that the graph proves. Needs no hls4ml.

A node becomes one to three layers: a convolution writes its accumulators exactly, a layer of ours requantizes them; a
transposed convolution is a 1x1 convolution to four times the channels, and a layer that spreads them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantunet.formats import IntFormat, smallest_format
from quantunet.ir import ranges
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
    WeightNode,
)

Layer = dict[str, Any]


@dataclass
class LayerList:
    """Layers in order, how each is configured, and which of them holds the codes of a node.

    Args:
        settings: hls4ml's ``LayerName`` configuration: precision, reuse factor, strategy.
        layer_of: name of a node of the graph -> name of the layer that writes its codes.
        joins: name of a layer that joins two -> (tensors of the graph that it reads, the Concat it belongs to).
    """

    layers: list[Layer] = field(default_factory=list)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    layer_of: dict[str, str] = field(default_factory=dict)
    joins: dict[str, tuple[tuple[str, str], str]] = field(default_factory=dict)

    def add(self, class_name: str, name: str, inputs: list[str], output: IntFormat, **attributes: Any) -> str:
        """One layer that writes ``output``; returns its name."""
        self.layers.append({"class_name": class_name, "name": name, "inputs": inputs, **attributes})
        self.settings[name] = {"Precision": {"result": fixed(output)}, "Trace": True}
        return name


def fixed(codes: IntFormat) -> str:
    """hls4ml's name of a format. Never an integer type: for int<2> its product takes -2 for 1."""
    return f"{'fixed' if codes.signed else 'ufixed'}<{codes.bit_width},{codes.bit_width}>"


def layer_list(graph: IntegerGraph, height: int, width: int, target_cycles: int) -> LayerList:
    """All layers for images of ``height`` x ``width`` pixels.

    Args:
        target_cycles: clock cycles that each convolution may take for an image; multipliers are shared so far.

    Raises:
        GraphError: if the size does not fit the graph.
    """
    found = LayerList()
    proofs = {proof.name: IntFormat(proof.bit_width, True) for proof in ranges.prove(graph)}
    shapes, formats = graph.shapes(height, width), graph.formats()
    for position, node in enumerate(graph.nodes):
        name = f"n{position}_{re.sub(r'[^A-Za-z0-9]', '_', node.name)}"
        inputs = [found.layer_of[source] for source in node.inputs]
        found.layer_of[node.name] = name
        _add(found, node, name, inputs, proofs.get(node.name), shapes, formats, target_cycles)
    return found


def _add(
    found: LayerList,
    node: Node,
    name: str,
    inputs: list[str],
    acc: IntFormat | None,
    shapes: dict[str, tuple[int, int, int]],
    formats: dict[str, IntFormat],
    target_cycles: int,
) -> None:
    output = formats[node.name]
    out_channels, out_height, out_width = shapes[node.name]
    if isinstance(node, Input):
        shape = [out_height, out_width, out_channels]
        found.add("InputLayer", name, [], output, input_shape=shape, data_format="channels_last")
        return
    channels, height, width = shapes[node.inputs[0]]
    size = {"in_height": height, "in_width": width, "n_chan": channels, "data_format": "channels_last"}
    match node:
        case Conv2d():
            assert acc is not None
            written = name if node.requantize is None else f"{name}_acc"
            weight = node.weight.transpose(2, 3, 1, 0)  # (kh, kw, in, out)
            padding = {f"pad_{side}": node.padding for side in ("top", "bottom", "left", "right")}
            convolved = _add_conv(
                found, node, written, inputs, weight, node.bias, acc, target_cycles,
                size | padding | {"out_height": out_height, "out_width": out_width},
                node.stride, (height + 2 * node.padding) * (width + 2 * node.padding),
            )  # fmt: skip
            _add_requantize(found, node.requantize, name, convolved, acc, shapes[node.name])
        case ConvTranspose2d():
            assert acc is not None
            weight = node.weight.transpose(1, 2, 3, 0).reshape(1, 1, channels, 4 * out_channels)
            no_padding = {f"pad_{side}": 0 for side in ("top", "bottom", "left", "right")}
            products = _add_conv(
                found, node, f"{name}_products", inputs, weight, np.tile(node.bias, 4), acc, target_cycles,
                size | no_padding | {"out_height": height, "out_width": width}, 1, height * width,
            )  # fmt: skip
            spread = name if node.requantize is None else f"{name}_acc"
            found.add("QuantunetDepthToSpace", spread, [products], acc, **size | {"n_chan": out_channels})
            _add_requantize(found, node.requantize, name, spread, acc, shapes[node.name])
        case MaxPool2d():
            pooling = {"pool_height": 2, "pool_width": 2, "stride_height": 2, "stride_width": 2, "n_filt": channels}
            padding = {f"pad_{side}": 0 for side in ("top", "bottom", "left", "right")}
            found.add(
                "MaxPooling2D", name, inputs, output, **size, **pooling, **padding, padding="valid",
                out_height=out_height, out_width=out_width,
            )  # fmt: skip
            found.settings[name]["Precision"]["accum"] = fixed(output)
        case UpsampleNearest2d():
            found.add("QuantunetUpsampleNearest", name, inputs, output, **size)
        case UpsampleBilinear2d():
            assert acc is not None
            found.add("QuantunetUpsampleBilinear", f"{name}_acc", inputs, acc, **size, work_bits=acc.bit_width + 4)
            _add_requantize(found, node.requantize, name, f"{name}_acc", acc, shapes[node.name])
        case Rescale():
            _add_requantize(found, node.requantize, name, inputs[0], formats[node.inputs[0]], shapes[node.name])
        case Concat():
            _add_joins(found, node, name, inputs, output)
        case Threshold():
            found.add("QuantunetThreshold", name, inputs, output, **size, limit=node.threshold)
        case ArgMax():
            found.add("QuantunetArgMax", name, inputs, output, **size)
        case _:
            raise GraphError(f"node {node.name!r} of kind {type(node).__name__} has no form in hls4ml")


def _add_conv(
    found: LayerList,
    node: WeightNode,
    name: str,
    inputs: list[str],
    weight: NDArray[np.integer],
    bias: NDArray[np.integer],
    acc: IntFormat,
    target_cycles: int,
    size: dict[str, Any],
    stride: int,
    pixels_read: int,
) -> str:
    """A convolution of weights (kh, kw, in, out) to its accumulators; all types as wide as they must be."""
    kernel_height, kernel_width, fan_in, filters = weight.shape
    found.add(
        "Conv2D", name, inputs, acc, **size, n_filt=filters, filt_height=kernel_height, filt_width=kernel_width,
        stride_height=stride, stride_width=stride, dilation_height=1, dilation_width=1, padding="same",
        weight_data=weight.astype(np.float64), bias_data=bias.astype(np.float64),
    )  # fmt: skip
    n_in = kernel_height * kernel_width * fan_in
    reuse = reuse_factor(n_in, filters, target_cycles // pixels_read)
    found.settings[name]["Precision"] |= {
        "weight": fixed(IntFormat(int(node.weight_bit_width.max()), True)),
        "bias": fixed(smallest_format(min(int(bias.min()), -1), max(int(bias.max()), 0))),
        "accum": fixed(acc),
    }
    found.settings[name] |= {"ReuseFactor": reuse, "Strategy": "latency" if reuse == 1 else "resource"}
    return name


def _add_requantize(
    found: LayerList, stage: Requantize | None, name: str, source: str, acc: IntFormat, shape: tuple[int, int, int]
) -> None:
    """From ``source``, of format ``acc``, to codes."""
    if stage is None:
        return
    channels, height, width = shape
    has_multiplier = not stage.is_shift_only
    left = int(np.maximum(-stage.shift, 0).max())
    rounding = int(stage.shift.max()) + 1  # the half that is added before the shift may be wider than the value
    product_bits = acc.bit_width + 1 + (32 if has_multiplier else 0)
    found.add(
        "QuantunetRequantize", name, [source], stage.output, n_pixels=height * width, n_chan=channels,
        multipliers=stage.multiplier.tolist(), shifts=stage.shift.tolist(), has_multiplier=has_multiplier,
        work_bits=max(product_bits + left, rounding) + 2, q_min=stage.output.q_min, q_max=stage.output.q_max,
    )  # fmt: skip


def _add_joins(found: LayerList, node: Concat, name: str, inputs: list[str], output: IntFormat) -> None:
    """hls4ml joins two at a time."""
    if len(inputs) == 1:
        raise GraphError(f"node {node.name!r} joins one tensor: hls4ml has no such layer")
    joined, tensor = inputs[0], node.inputs[0]
    for position in range(1, len(inputs)):
        last = position == len(inputs) - 1
        pair = [joined, inputs[position]]
        joined = found.add(
            "Concatenate", name if last else f"{name}_part{position}", pair, output, op="concatenate3d", axis=3
        )
        found.joins[joined] = ((tensor, node.inputs[position]), node.name)
        tensor = node.name


def reuse_factor(n_in: int, n_out: int, at_most: int) -> int:
    """The largest number of multiplications that one multiplier of a layer may do for a pixel, as hls4ml allows them.

    It divides n_in * n_out; below n_in it shares out whole outputs, from n_in on it is a multiple of n_in.
    """
    allowed = [
        reuse
        for reuse in range(1, min(at_most, n_in * n_out) + 1)
        if n_in * n_out % reuse == 0 and (reuse % n_in == 0 if reuse >= n_in else n_in * n_out // reuse % n_out == 0)
    ]
    return max(allowed, default=1)
