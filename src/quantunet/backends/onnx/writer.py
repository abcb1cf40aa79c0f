"""Collecting the nodes and constants of an ONNX graph, and making a model of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantunet import __version__
from quantunet.ir.graph import IntegerGraph

Shape = Sequence[int | str]


class OnnxWriter:
    """Nodes and constants in the order in which they are added. Tensors have unique names.

    Args:
        share_constants: equal constants are one tensor. FINN changes constants in place, so there each has one reader.
    """

    def __init__(self, share_constants: bool = True) -> None:
        self._share_constants = share_constants
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._by_content: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._names: set[str] = set()

    def fresh_name(self, wanted: str) -> str:
        """``wanted``, or with a number where it is taken."""
        name, number = wanted, 2
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._names.add(name)
        return name

    def add(self, op_type: str, inputs: Sequence[str], name: str, domain: str = "", **attributes: Any) -> str:
        """One node of one output; returns the output's name, which is ``name`` where that is free."""
        output = self.fresh_name(name)
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, domain=domain, **attributes))
        return output

    def constant(self, values: NDArray[Any], name: str, data_type: int | None = None) -> str:
        """An initialiser; ``data_type`` names ONNX's packed types, which NumPy has not."""
        if data_type is None:
            tensor = numpy_helper.from_array(np.asarray(values, order="C"))
        else:
            tensor = helper.make_tensor("", data_type, values.shape, values.ravel())
        key = (f"{tensor.data_type}", tuple(values.shape), tensor.SerializeToString())
        if key not in self._by_content or not self._share_constants:
            tensor.name = self.fresh_name(name)
            self.constants[tensor.name] = tensor
            self._by_content[key] = tensor.name
        return self._by_content[key]

    def scalar(self, value: float, dtype: type[np.generic] = np.float32) -> str:
        """A constant of no dimensions."""
        return self.constant(np.asarray(value, dtype), f"{np.dtype(dtype).name}_{value:g}")


def value_info(name: str, data_type: int, shape: Shape) -> onnx.ValueInfoProto:
    """A declared tensor; text in ``shape`` is a size left open."""
    return helper.make_tensor_value_info(name, data_type, list(shape))


def make_model(
    graph: IntegerGraph,
    writer: OnnxWriter,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    opsets: Mapping[str, int],
) -> onnx.ModelProto:
    """The checked model, with what is needed to make its input codes of an image in its metadata."""
    used = {name for node in writer.nodes for name in node.input}
    constants = [tensor for name, tensor in writer.constants.items() if name in used]
    body = helper.make_graph(writer.nodes, "quantunet", list(inputs), list(outputs), constants)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    ir_version = helper.find_min_ir_version_for([each for each in imports if each.domain == ""])
    model = helper.make_model(
        body, opset_imports=imports, ir_version=ir_version, producer_name="quantunet", producer_version=__version__
    )
    source = graph.input
    helper.set_model_props(
        model,
        {
            "input_scale": repr(source.scale),
            "input_format": str(source.output),
            "quantunet": json.dumps(dict(graph.metadata), sort_keys=True),
        },
    )
    onnx.checker.check_model(model, full_check=not any(opsets.keys() - {""}))
    return model


FLOAT, INT32, INT64, UINT8, INT8 = (
    int(TensorProto.FLOAT),
    int(TensorProto.INT32),
    int(TensorProto.INT64),
    int(TensorProto.UINT8),
    int(TensorProto.INT8),
)
