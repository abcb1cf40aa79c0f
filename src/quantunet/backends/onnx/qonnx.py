"""QONNX: weights as integers, ``Quant`` nodes that state the learned widths, scales that are powers of two."""

from __future__ import annotations

from typing import Literal

import numpy as np

from quantunet.backends.onnx import writer as onnx_writer
from quantunet.backends.onnx.nodes import Floats, OnnxForm, convolution, write_nodes
from quantunet.backends.onnx.writer import OnnxWriter, make_model, value_info
from quantunet.formats import IntFormat
from quantunet.ir.graph import Conv2d, IntegerGraph, WeightNode

DOMAIN = "qonnx.custom_op.general"
OPSET = 13

Widths = Literal["channel", "layer"]


def qonnx_model(graph: IntegerGraph, height: int, width: int, widths: Widths = "channel") -> OnnxForm:
    """The model of one image size: input codes (1, c, h, w) as float32, to the mask (1, 1, h, w), int64.

    Args:
        widths: "channel" writes one Quant for all channels of equal width and joins them, since qonnx executes no
            Quant of several widths; "layer" writes one Quant of the widest channel's width, which other tools read.

    Raises:
        GraphError: if the size does not fit the graph.
    """
    writer, source = OnnxWriter(), graph.input
    shapes = graph.shapes(height, width)
    name = writer.fresh_name(source.name)
    dialect = QonnxDialect(widths)
    tensors = write_nodes(graph, dialect.codes(writer, name, source.output, f"{name}/codes"), dialect, writer)
    image = value_info(name, onnx_writer.FLOAT, [1, *shapes[source.name]])
    mask = value_info(tensors[graph.output.name], onnx_writer.INT64, [1, *shapes[graph.output.name]])
    return OnnxForm(make_model(graph, writer, [image], [mask], {"": OPSET, DOMAIN: 1}), tensors)


class QonnxDialect:
    """Integers in float32, the widths in ``Quant`` nodes of scale 1; powers of two are Mul nodes of their own."""

    def __init__(self, widths: Widths) -> None:
        self._widths = widths

    def convolve(self, writer: OnnxWriter, node: WeightNode, x: str, scale: Floats, offset: Floats, name: str) -> str:
        """See ``Dialect``: products of integers, then the offset by Add, then the scale by Mul."""
        weights = self._weights(writer, node)
        changes = [
            (op, values) for op, values, same in (("Add", offset, 0), ("Mul", scale, 1)) if np.any(values != same)
        ]
        op_type, attributes = convolution(node)
        y = writer.add(op_type, [x, weights], f"{name}/products" if changes else name, **attributes)
        for position, (op_type, values) in enumerate(changes, 1):
            operand = writer.constant(values.reshape(1, -1, 1, 1), f"{name}/{op_type}_operand")
            y = writer.add(op_type, [y, operand], name if position == len(changes) else f"{name}/{op_type}")
        return y

    def codes(self, writer: OnnxWriter, x: str, limits: IntFormat, name: str) -> str:
        """See ``Dialect``.

        One signed bit is {-1, 0} here and {-1, 1} in qonnx: it is written as one unsigned bit with zero-point 1.
        """
        one_signed_bit = limits.signed and limits.bit_width == 1
        operands = [writer.scalar(value) for value in (1, 1 if one_signed_bit else 0, limits.bit_width)]
        return writer.add(
            "Quant",
            [x, *operands],
            name,
            DOMAIN,
            signed=int(limits.signed and not one_signed_bit),
            narrow=int(limits.narrow_range),
            rounding_mode="ROUND",
        )

    def _weights(self, writer: OnnxWriter, node: WeightNode) -> str:
        """(out, in, kh, kw), or (in, out, 2, 2) of a transposed convolution."""
        axis, name = 0 if isinstance(node, Conv2d) else 1, node.name
        weight = node.weight.astype(np.float32).swapaxes(0, axis)
        if self._widths == "layer":
            widest = max(int(node.weight_bit_width.max()), 2)
            codes = writer.constant(weight, f"{name}/weight_codes")
            return self.codes(writer, codes, IntFormat(widest, True), f"{name}/weight")
        order, parts = [], []
        for width in sorted(set(node.weight_bit_width.tolist())):
            chosen = np.flatnonzero(node.weight_bit_width == width)
            order += chosen.tolist()
            codes = writer.constant(weight.take(chosen, axis), f"{name}/weight_codes_{width}bit")
            parts.append(self.codes(writer, codes, IntFormat(width, True), f"{name}/weight_{width}bit"))
        if len(parts) == 1:
            return parts[0]
        joined = writer.add("Concat", parts, f"{name}/weight_by_width", axis=axis)
        places = writer.constant(np.argsort(order).astype(np.int64), f"{name}/channel_order")
        return writer.add("Gather", [joined, places], f"{name}/weight", axis=axis)
