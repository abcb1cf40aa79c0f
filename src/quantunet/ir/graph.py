"""The IntegerGraph: the deployed model, as frozen values. Its specification is ``docs/integer_ir.md``.

Every node writes one tensor, which carries the node's name. Tensors are integer codes of shape (n, c, h, w); spatial
sizes are not part of the graph, so one graph serves images of every size that its strides divide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantunet.errors import UserError
from quantunet.formats import INT32, IntFormat

IntArray = NDArray[np.int32]


class GraphError(UserError):
    """A graph that is not well formed; the message names the node."""


@dataclass(frozen=True, eq=False)
class Requantize:
    """``saturate(floor(acc * multiplier / 2^shift + 1/2))`` by channel: from accumulators to codes of ``output``.

    Args:
        multiplier: (c,), 1 where the scale ratio is a power of two, else in [2^30, 2^31).
        shift: (c,), right shift; a negative one shifts left and needs multiplier 1.
        output: format of the codes written. An unsigned one is the ReLU.
    """

    multiplier: IntArray
    shift: IntArray
    output: IntFormat

    @property
    def is_shift_only(self) -> bool:
        """Whether every channel's ratio is a power of two."""
        return bool(np.all(self.multiplier == 1))


@dataclass(frozen=True, eq=False)
class Node:
    """What all nodes have: a name, which is also its output tensor's name, and the names of the tensors it reads."""

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Input(Node):
    """The quantized image: code = saturate(floor(value / scale + 1/2))."""

    channels: int
    output: IntFormat
    scale: float


@dataclass(frozen=True, eq=False)
class Conv2d(Node):
    """Convolution with zero padding: int32 accumulators, requantized where ``requantize`` is given.

    Args:
        weight: codes, (out, in, kh, kw).
        weight_bit_width: (out,), the signed width in which each output channel's codes are stored, 1 to 8.
        bias: (out,), in units of the accumulator.
        stride, padding: the same in both directions.
        requantize: None leaves int32 accumulators.
    """

    weight: IntArray
    weight_bit_width: IntArray
    bias: IntArray
    requantize: Requantize | None
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True, eq=False)
class ConvTranspose2d(Node):
    """Transposed convolution 2x2, stride 2: each input pixel becomes a 2x2 block. ``weight`` is (out, in, 2, 2)."""

    weight: IntArray
    weight_bit_width: IntArray
    bias: IntArray
    requantize: Requantize | None


@dataclass(frozen=True, eq=False)
class MaxPool2d(Node):
    """Maximum over 2x2 blocks, stride 2."""


@dataclass(frozen=True, eq=False)
class UpsampleNearest2d(Node):
    """Each pixel becomes a 2x2 block."""


@dataclass(frozen=True, eq=False)
class UpsampleBilinear2d(Node):
    """Bilinear x2, half-pixel centres, edges repeated: an accumulator of 16 x the value, then requantized.

    By axis: ``out[2i] = x[i-1] + 3 x[i]`` and ``out[2i+1] = 3 x[i] + x[i+1]``, indices clamped to the edge.
    """

    requantize: Requantize


@dataclass(frozen=True, eq=False)
class Rescale(Node):
    """Requantization of codes on its own, where two tensors of different scale meet."""

    requantize: Requantize


@dataclass(frozen=True, eq=False)
class Concat(Node):
    """Channels of all inputs, in order; all have the same scale. The format holds every input's codes."""


@dataclass(frozen=True, eq=False)
class Threshold(Node):
    """Binary mask of one channel: 1 where the value is greater than ``threshold``."""

    threshold: int


@dataclass(frozen=True, eq=False)
class ArgMax(Node):
    """Class index by pixel; the lowest index wins a tie."""


WeightNode = Conv2d | ConvTranspose2d


@dataclass(frozen=True, eq=False)
class IntegerGraph:
    """Nodes in execution order, from one ``Input`` to one mask; ``metadata`` is JSON (preprocessing, classes)."""

    nodes: tuple[Node, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def input(self) -> Input:
        """The first node."""
        node = self.nodes[0]
        if not isinstance(node, Input):
            raise GraphError(f"node {node.name!r} stands first and is no input")
        return node

    @property
    def output(self) -> Node:
        """The last node, whose tensor is the mask."""
        return self.nodes[-1]

    def node(self, name: str) -> Node:
        """The node that writes tensor ``name``."""
        return next(node for node in self.nodes if node.name == name)

    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read each tensor, by its name; a node that reads it twice stands there twice."""
        readers: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                readers[name].append(node)
        return readers

    def weight_nodes(self) -> tuple[WeightNode, ...]:
        """The nodes that hold weights, in order."""
        return tuple(node for node in self.nodes if isinstance(node, Conv2d | ConvTranspose2d))

    def formats(self) -> dict[str, IntFormat]:
        """Format of every tensor, by name."""
        formats: dict[str, IntFormat] = {}
        for node in self.nodes:
            formats[node.name] = output_format(node, [formats[name] for name in node.inputs], self.channels())
        return formats

    def channels(self, filters: Mapping[str, int] | None = None) -> dict[str, int]:
        """Number of channels of every tensor, by name, with so many ``filters`` in the layers that it names."""
        changed = filters or {}
        channels: dict[str, int] = {}
        for node in self.nodes:
            match node:
                case Input():
                    channels[node.name] = node.channels
                case Conv2d() | ConvTranspose2d():
                    channels[node.name] = changed[node.name] if node.name in changed else node.weight.shape[0]
                case Concat():
                    channels[node.name] = sum(channels[name] for name in node.inputs)
                case Threshold() | ArgMax():
                    channels[node.name] = 1
                case _:
                    channels[node.name] = channels[node.inputs[0]]
        return channels

    def shapes(self, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """(c, h, w) of every tensor for an image of ``height`` x ``width`` pixels.

        Raises:
            GraphError: if a pooling or a concatenation does not fit these sizes.
        """
        shapes: dict[str, tuple[int, int, int]] = {}
        channels = self.channels()
        for node in self.nodes:
            sizes = {shapes[name][1:] for name in node.inputs} or {(height, width)}
            if len(sizes) > 1:
                raise GraphError(f"node {node.name!r} joins tensors of sizes {sorted(sizes)}")
            shapes[node.name] = (channels[node.name], *_output_size(node, *sizes.pop()))
        return shapes

    def size_multiple(self) -> int:
        """Height and width of an image must be multiples of this number of pixels."""
        factor, largest = {}, 1
        for node in self.nodes:
            scale = factor[node.inputs[0]] if node.inputs else 1
            match node:
                case MaxPool2d():
                    scale *= 2
                case Conv2d():
                    scale *= node.stride
                case UpsampleNearest2d() | UpsampleBilinear2d() | ConvTranspose2d():
                    scale = max(scale // 2, 1)
            factor[node.name] = scale
            largest = max(largest, scale)
        return largest


def _output_size(node: Node, height: int, width: int) -> tuple[int, int]:
    match node:
        case MaxPool2d():
            if height % 2 or width % 2:
                raise GraphError(f"node {node.name!r} halves {height}x{width}: pad the image first")
            return height // 2, width // 2
        case UpsampleNearest2d() | UpsampleBilinear2d() | ConvTranspose2d():
            return 2 * height, 2 * width
        case Conv2d():
            kernel_height, kernel_width = node.weight.shape[2:]
            out_height = (height + 2 * node.padding - kernel_height) // node.stride + 1
            out_width = (width + 2 * node.padding - kernel_width) // node.stride + 1
            if min(out_height, out_width) < 1:
                raise GraphError(f"node {node.name!r}: kernel {kernel_height}x{kernel_width} exceeds {height}x{width}")
            return out_height, out_width
        case _:
            return height, width


def output_format(node: Node, inputs: list[IntFormat], channels: Mapping[str, int]) -> IntFormat:
    """Format of the tensor that ``node`` writes, from those it reads and the channels of every tensor."""
    match node:
        case Input():
            return node.output
        case Conv2d() | ConvTranspose2d():
            return node.requantize.output if node.requantize else INT32
        case UpsampleBilinear2d() | Rescale():
            return node.requantize.output
        case Concat():
            signed = any(fmt.signed for fmt in inputs)
            return IntFormat(max(fmt.bit_width + int(signed and not fmt.signed) for fmt in inputs), signed)
        case Threshold():
            return IntFormat(1, False)
        case ArgMax():
            return IntFormat(max((channels[node.inputs[0]] - 1).bit_length(), 1), False)
        case _:
            return inputs[0]
