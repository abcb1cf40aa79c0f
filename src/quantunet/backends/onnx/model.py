"""ONNX of QuantizeLinear and DequantizeLinear: weights in INT4 or INT8 (INT2 at opset 25), activations in UINT8."""

from __future__ import annotations

import numpy as np
import onnx

from quantunet.backends.onnx import writer as onnx_writer
from quantunet.backends.onnx.nodes import Floats, OnnxForm, convolution, write_nodes
from quantunet.backends.onnx.writer import FLOAT, OnnxWriter, make_model, value_info
from quantunet.formats import IntFormat
from quantunet.ir.graph import Conv2d, IntegerGraph, WeightNode

OPSETS = (21, 25)
"""The first with 4-bit types and the first with 2-bit types."""


def onnx_model(graph: IntegerGraph, opset: int = 21, trace: bool = False) -> OnnxForm:
    """The model from input codes (n, c, h, w), in the machine integer of their format, to the mask (n, 1, h, w), int64.

    Args:
        opset: 21 or 25.
        trace: make every node's codes an output, called by the node's name.
    """
    writer, source = OnnxWriter(), graph.input
    container = onnx_writer.INT8 if source.output.signed else onnx_writer.UINT8
    name = writer.fresh_name(source.name)
    dialect = QdqDialect(opset)
    codes = dialect.codes(writer, writer.add("Cast", [name], f"{name}/float", to=FLOAT), source.output, f"{name}/codes")
    tensors = write_nodes(graph, codes, dialect, writer)
    image = value_info(name, container, ["n", source.channels, "h", "w"])
    shown = [node.name for node in graph.nodes[1:]] if trace else [graph.output.name]
    channels = graph.channels()
    outputs = [
        value_info(tensors[node], _data_type(writer, tensors[node]), ["n", channels[node], f"h_{node}", f"w_{node}"])
        for node in shown
    ]
    return OnnxForm(make_model(graph, writer, [image], outputs, {"": opset}), tensors)


class QdqDialect:
    """Integers between QuantizeLinear and DequantizeLinear, per output channel; scales are powers of two."""

    def __init__(self, opset: int) -> None:
        self._containers = [(4, onnx.TensorProto.INT4), (8, onnx.TensorProto.INT8)]
        if opset >= 25:
            self._containers.insert(0, (2, onnx.TensorProto.INT2))

    def convolve(self, writer: OnnxWriter, node: WeightNode, x: str, scale: Floats, offset: Floats, name: str) -> str:
        """See ``Dialect``: the scale is that of the weights' DequantizeLinear, the offset the bias."""
        regular = isinstance(node, Conv2d)
        weight = node.weight if regular else node.weight.transpose(1, 0, 2, 3)
        widest = int(node.weight_bit_width.max())
        container = next(int(kind) for width, kind in self._containers if widest <= width)
        codes = writer.constant(weight, f"{node.name}/weight_codes", container)
        scales = writer.constant(scale, f"{node.name}/weight_scale")
        weights = writer.add("DequantizeLinear", [codes, scales], f"{node.name}/weight", axis=0 if regular else 1)
        inputs = [x, weights]
        if offset.any():
            inputs.append(writer.constant(offset * scale, f"{node.name}/bias"))
        op_type, attributes = convolution(node)
        return writer.add(op_type, inputs, name, **attributes)

    def codes(self, writer: OnnxWriter, x: str, limits: IntFormat, name: str) -> str:
        """See ``Dialect``: Clip where the container is wider than the format, then QuantizeLinear of scale 1.

        The container is unsigned, with zero-point 128 for signed codes: ONNX Runtime's default optimisations move int8
        codes past other nodes wrongly (its issues 25526, 27845).
        """
        container = IntFormat(8, limits.signed)
        if (limits.q_min, limits.q_max) != (container.q_min, container.q_max):
            x = writer.add("Clip", [x, writer.scalar(limits.q_min), writer.scalar(limits.q_max)], f"{name}/clipped")
        operands = [writer.scalar(1), writer.scalar(-container.q_min, np.uint8)]
        quantized = writer.add("QuantizeLinear", [x, *operands], f"{name}/uint8")
        return writer.add("DequantizeLinear", [quantized, *operands], name)


def _data_type(writer: OnnxWriter, tensor: str) -> int:
    node = next(node for node in writer.nodes if tensor in node.output)
    if node.op_type == "ArgMax":
        return onnx_writer.INT64
    return next((each.i for each in node.attribute if each.name == "to"), onnx_writer.FLOAT)
