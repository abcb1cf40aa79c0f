"""A graph laid out in C for one image size: what its names, types and places in memory are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantunet.backends.c.kernels import PORTABLE, Kernel
from quantunet.backends.c.pack import packed_bits, tensor_bytes, unpack
from quantunet.backends.c.plan import Plan, Tiling, fused_heads, plan
from quantunet.errors import UserError
from quantunet.formats import IntFormat
from quantunet.ir.graph import ArgMax, GraphError, IntegerGraph, Node, Threshold

PREFIX = "quantunet"
LINE_COLUMNS = 116


@dataclass(frozen=True)
class CModel:
    """A graph laid out for one image size: all that the text is made from.

    Args:
        prefix: of every name that other files see, so that several models link into one program.
        kernel: the inner product that goes with it.
    """

    graph: IntegerGraph
    height: int
    width: int
    tiling: Tiling
    plan: Plan
    prefix: str
    kernel: Kernel = PORTABLE

    def identifier(self, name: str) -> str:
        """A C identifier for the tensor ``name``, unique by its position."""
        index = next(index for index, node in enumerate(self.graph.nodes) if node.name == name)
        return f"n{index}_{sanitise(name)}"

    @cached_property
    def runs_as(self) -> Mapping[str, Node]:
        """By name of a mask, the convolution that is run as part of it."""
        return {mask: self.graph.node(conv) for conv, mask in fused_heads(self.graph).items()}

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """(c, h, w) of every tensor."""
        return self.graph.shapes(self.height, self.width)

    @cached_property
    def stored_nodes(self) -> tuple[Node, ...]:
        """The nodes whose tensors are stored, the image's and the mask's too, in order."""
        left_out = {*fused_heads(self.graph), *self.plan.joins}
        return tuple(node for node in self.graph.nodes if node.name not in left_out)


def lay_out(
    graph: IntegerGraph,
    height: int,
    width: int,
    tiling: Tiling | None = None,
    prefix: str = PREFIX,
    kernel: Kernel = PORTABLE,
) -> CModel:
    """Check that C can hold ``graph`` and plan its memory; ``tiling`` is the kernel's own if not given.

    Raises:
        GraphError: if the size does not fit, a format has no C storage, or the graph ends in no mask.
    """
    if not isinstance(graph.output, Threshold | ArgMax):
        raise GraphError(f"node {graph.output.name!r} stands last and is no mask: end the graph in Threshold or ArgMax")
    channels = graph.channels()
    for node in graph.nodes:
        if isinstance(node, Threshold) and channels[node.inputs[0]] != 1:
            raise GraphError(f"node {node.name!r} compares {channels[node.inputs[0]]} channels: give it one")
    for name, fmt in graph.formats().items():
        if fmt == IntFormat(32, False):
            raise GraphError(f"tensor {name!r} is unsigned of 32 bits, which C arithmetic in int32 cannot hold: use 31")
    tiling = tiling or kernel.tiling
    return CModel(graph, height, width, tiling, plan(graph, height, width, tiling), prefix, kernel)


def sanitise(name: str) -> str:
    """``name`` with only ASCII letters, digits and underscores, at most 40."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name)[:40].strip("_")


def storage(fmt: IntFormat, is_packed: bool = False) -> str:
    """The runtime's name of the machine integer; unsigned codes of 17 to 31 bits are the same bits as signed ones."""
    if is_packed:
        return f"QN_U{packed_bits(fmt)}"
    bits = fmt.storage_bit_width
    return f"QN_{'S' if fmt.signed or bits == 32 else 'U'}{bits}"


def code_dtype(fmt: IntFormat) -> np.dtype[Any]:
    """The NumPy type of one unpacked code, as in C."""
    return np.dtype(fmt.c_type.removesuffix("_t"))


def stored_tensors(model: CModel) -> dict[str, int]:
    """Bytes of every tensor that the C code writes or reads, in node order, the image first, the mask last."""
    formats, shapes = model.graph.formats(), model.graph.shapes(model.height, model.width)
    return {
        node.name: tensor_bytes(shapes[node.name], formats[node.name], node.name in model.plan.packed)
        for node in model.stored_nodes
    }


def read_tensor(model: CModel, name: str, content: bytes) -> NDArray[np.integer]:
    """The codes (c, h, w) of a tensor as it lies in memory."""
    shape, fmt = model.graph.shapes(model.height, model.width)[name], model.graph.formats()[name]
    channels, height, width = shape
    if name in model.plan.packed:
        codes = unpack(np.frombuffer(content, np.uint8), shape, fmt)
    else:
        codes = np.frombuffer(content, code_dtype(fmt)).reshape(height, width, channels)
    return codes.transpose(2, 0, 1)


def clamped(threshold: int) -> int:
    """Every int32 compares with this as it does with ``threshold``."""
    return max(-(2**31) - 1, min(int(threshold), 2**31))


def c_array(declaration: str, values: Sequence[int]) -> str:
    """``declaration`` with its initialiser, wrapped."""
    texts = list(map(str, values))
    a_line = LINE_COLUMNS // (max(map(len, texts), default=1) + 2)
    lines = (f"    {', '.join(texts[first : first + a_line])}," for first in range(0, len(texts), a_line))
    return "\n".join([f"{declaration} = {{", *lines, "};"])


def check_recorded(model: CModel, inputs: Sequence[NDArray[np.integer]]) -> None:
    """Refuse input codes that are not of the model's (c, h, w).

    Raises:
        UserError: naming the first of another shape.
    """
    expected = (model.graph.input.channels, model.height, model.width)
    for index, codes in enumerate(inputs):
        if codes.shape != expected:
            raise UserError(f"recorded input {index} has the shape {codes.shape}, the exported model takes {expected}")
