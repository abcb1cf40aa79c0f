"""QONNX as FINN reads it: integer weights, integer ``MultiThreshold`` nodes, every tensor's type stated.

FINN's hardware knows thresholds and nothing else between two convolutions. So bias, shift, rounding and saturation
become the integers from which on the sum of products has the next code; nothing is left for FINN to absorb or round.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from quantunet.backends.integer_thresholds import integer_thresholds
from quantunet.backends.onnx import writer as onnx_writer
from quantunet.backends.onnx.nodes import EXACT, OnnxForm, convolution, largest_of_four, nearest_twice
from quantunet.backends.onnx.qonnx import DOMAIN, OPSET
from quantunet.backends.onnx.writer import OnnxWriter, make_model, value_info
from quantunet.formats import IntFormat, smallest_format
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
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
    WeightNode,
)
from quantunet.ir.ranges import Interval

MASK = IntFormat(1, False)


def finn_model(graph: IntegerGraph, height: int, width: int) -> OnnxForm:
    """The model of one image size: input codes (1, c, h, w) as float32, to the mask (1, 1, h, w).

    The mask is float32 of the type BINARY where the graph ends in a ``Threshold``. Where it ends in an ``ArgMax``,
    which is no layer of FINN and stays with the host, it is int64.

    Raises:
        GraphError: if the size does not fit the graph, or sums of products leave what float32 holds exactly.
    """
    shapes = graph.shapes(height, width)
    form = _FinnWriter(graph, ranges.intervals(graph))
    for node in graph.nodes:
        form.tensors[node.name] = form.write(node)
    first, last = form.tensors[graph.input.name], form.tensors[graph.output.name]
    image = value_info(first, onnx_writer.FLOAT, [1, *shapes[graph.input.name]])
    mask_type = onnx_writer.INT64 if isinstance(graph.output, ArgMax) else onnx_writer.FLOAT
    mask = value_info(last, mask_type, [1, *shapes[graph.output.name]])
    model = make_model(graph, form.writer, [image], [mask], {"": OPSET, DOMAIN: 1})
    model.graph.quantization_annotation.extend(_annotation(name, kind) for name, kind in form.types.items())
    return OnnxForm(model, form.tensors)


def finn_type(limits: IntFormat) -> str:
    """FINN's name of a format. One signed bit, {-1, 0} here, is INT2: its INT1 and BIPOLAR are other sets."""
    if not limits.signed:
        return "BINARY" if limits.bit_width == 1 else f"UINT{limits.bit_width}"
    return f"INT{max(limits.bit_width, 2)}"


def _annotation(tensor: str, kind: str) -> onnx.TensorAnnotation:
    """Where qonnx and FINN look for the type of a float32 tensor that holds integers."""
    entry = onnx.StringStringEntryProto(key="finn_datatype", value=kind)
    return onnx.TensorAnnotation(tensor_name=tensor, quant_parameter_tensor_names=[entry])


@dataclass
class _FinnWriter:
    """The nodes so far, and FINN's type of each tensor that states one."""

    graph: IntegerGraph
    bounds: dict[str, Interval]
    writer: OnnxWriter = field(default_factory=lambda: OnnxWriter(share_constants=False))
    tensors: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def write(self, node: Node) -> str:
        """Add one node; the tensor in which its codes are."""
        inputs, name = [self.tensors[each] for each in node.inputs], node.name
        match node:
            case Conv2d() | ConvTranspose2d():
                return self._weighted(node, inputs[0])
            case MaxPool2d():
                return largest_of_four(self.writer, inputs[0], name)
            case UpsampleNearest2d():
                return nearest_twice(self.writer, inputs[0], name)
            case UpsampleBilinear2d():
                raise GraphError(
                    f"node {name!r}: FINN has no bilinear up-sampling: train with nearest or transposed up-sampling"
                )
            case Rescale():
                thresholds = integer_thresholds(node.requantize, self.bounds[node.inputs[0]])
                return self._thresholds(inputs[0], thresholds, node.requantize.output, name)
            case Concat():
                return self.writer.add("Concat", inputs, name, axis=1)
            case Threshold():
                return self._thresholds(inputs[0], np.array([[node.threshold + 1]], np.int64), MASK, name)
            case ArgMax():
                return self.writer.add("ArgMax", inputs, name, axis=1, keepdims=1)
            case _:
                if node.inputs:
                    raise GraphError(f"node {name!r} of kind {type(node).__name__} has no form for FINN")
                tensor = self.writer.fresh_name(name)
                self.types[tensor] = finn_type(self.graph.input.output)
                return tensor

    def _weighted(self, node: WeightNode, x: str) -> str:
        products = ranges.product_sums(node.weight, self.bounds[node.inputs[0]])
        bias = node.bias.astype(np.int64)
        largest = int(np.max([-products.low, products.high, np.abs(bias) - products.low, np.abs(bias) + products.high]))
        if largest >= EXACT:
            raise GraphError(
                f"node {node.name!r}: sums of products could reach {largest}, beyond the 2^24 that FINN's float32 "
                "tensors hold exactly: use fewer bits for its weights or its input"
            )
        op_type, attributes = convolution(node)
        name, stage = node.name, node.requantize
        y = self.writer.add(op_type, [x, self._weights(node)], f"{name}/products", **attributes)
        if stage is None:
            operand = self.writer.constant(bias.reshape(1, -1, 1, 1).astype(np.float32), f"{name}/bias")
            self.types[operand] = finn_type(smallest_format(min(int(bias.min()), -1), int(bias.max())))
            return self.writer.add("Add", [y, operand], name)
        thresholds = integer_thresholds(stage, Interval(products.low + bias, products.high + bias))
        return self._thresholds(y, thresholds - bias[:, None], stage.output, name)

    def _weights(self, node: WeightNode) -> str:
        """(out, in, kh, kw), or (in, out, 2, 2) of a transposed convolution; FINN has one type for all channels."""
        weight = node.weight if isinstance(node, Conv2d) else node.weight.swapaxes(0, 1)
        tensor = self.writer.constant(weight.astype(np.float32), f"{node.name}/weight")
        self.types[tensor] = finn_type(IntFormat(int(node.weight_bit_width.max()), True))
        return tensor

    def _thresholds(self, x: str, thresholds: NDArray[np.int64], output: IntFormat, name: str) -> str:
        """``output.q_min`` and one for each threshold of the channel that ``x`` has reached."""
        operand = self.writer.constant(thresholds.astype(np.float32), f"{name}/thresholds")
        low, high = min(int(thresholds.min()), -1), int(thresholds.max())
        self.types[operand] = finn_type(smallest_format(low, high))
        kind = finn_type(output)
        bias = float(output.q_min)
        y = self.writer.add("MultiThreshold", [x, operand], name, DOMAIN, out_dtype=kind, out_scale=1.0, out_bias=bias)
        self.types[y] = kind
        return y
