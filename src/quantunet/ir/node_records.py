"""One node as a short JSON list plus packed bytes, and back. The model file is made of these.

A record is ``[op, name, [positions of the inputs], fields of the op ...]``; each array of integers is a *field*: a
number where all its values are equal (nothing is stored), else the name of the format in which it is packed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from quantunet.cost import packed_bytes
from quantunet.formats import INT32, IntFormat, smallest_format
from quantunet.ir.bit_packing import pack, pack_rows, row_bytes, unpack, unpack_rows
from quantunet.ir.graph import (
    ArgMax,
    Concat,
    Conv2d,
    ConvTranspose2d,
    Input,
    IntArray,
    MaxPool2d,
    Node,
    Requantize,
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
)
from quantunet.ir.validate import MAX_CHANNELS, MAX_CODE_BIT_WIDTH, MAX_KERNEL

PLAIN = {"pool": MaxPool2d, "nearest": UpsampleNearest2d, "concat": Concat, "argmax": ArgMax}
"""Nodes that have nothing but inputs."""

RESCALING = {"bilinear": UpsampleBilinear2d, "rescale": Rescale}
"""Nodes that have nothing but a requantization."""

_NAMES = {kind: op for op, kind in (PLAIN | RESCALING).items()}


class RecordError(ValueError):
    """A record that describes no node."""


def node_to_record(node: Node, position: Mapping[str, int]) -> tuple[list[Any], bytes]:
    """The record of a valid node, and the bytes of its arrays (empty where it has none to store)."""
    parts: list[bytes] = []
    inputs = [position[name] for name in node.inputs]
    match node:
        case Input():
            return ["input", node.name, inputs, int(node.channels), str(node.output), float(node.scale)], b""
        case Threshold():
            return ["threshold", node.name, inputs, int(node.threshold)], b""
        case Conv2d() | ConvTranspose2d():
            out, _, kernel_height, kernel_width = node.weight.shape
            if isinstance(node, Conv2d):
                shape = [out, kernel_height, kernel_width, node.stride, node.padding]
                record = ["conv", node.name, inputs, *map(int, shape)]
            else:
                record = ["conv_transpose", node.name, inputs, out]
            record.append(_write_field(node.weight_bit_width, parts))
            record.append(_write_field(node.bias, parts))
            record.append(_write_requantize(node.requantize, parts))
            rows = node.weight.transpose(0, 2, 3, 1).reshape(out, -1)  # (kh, kw, in), in fastest
            parts.append(pack_rows(rows, node.weight_bit_width).tobytes())
            return record, b"".join(parts)
        case UpsampleBilinear2d() | Rescale():
            record = [_NAMES[type(node)], node.name, inputs, _write_requantize(node.requantize, parts)]
            return record, b"".join(parts)
        case _:
            return [_NAMES[type(node)], node.name, inputs], b""


def record_to_node(record: Any, nodes: list[Node], channels: dict[str, int], tensor: Callable[[str], bytes]) -> Node:
    """The node of ``record``; ``nodes`` and ``channels`` are what went before, and ``channels`` gains this node's.

    Every length is checked against the bytes that are there before memory is taken for it.

    Raises:
        RecordError: if the record describes no node, or its tensor is not of the length and hash it names.
    """
    fields = _Fields(record)
    op, name, positions = fields.text(), fields.text(), fields.list()
    if name in channels:
        raise RecordError("its name stands twice")
    if not all(type(index) is int and 0 <= index < len(nodes) for index in positions):
        raise RecordError("an input is no earlier node")
    inputs = tuple(nodes[index].name for index in positions)
    in_channels = sum(channels[each] for each in inputs)
    fits = {"input": not inputs, "concat": bool(inputs)}.get(op, len(inputs) == 1)
    if in_channels > MAX_CHANNELS or not fits:
        raise RecordError(f"{op[:20]!r} cannot read {len(inputs)} inputs of {in_channels} channels")
    node: Node
    stored = _Stored(b"")
    if op == "input":
        node = Input(name, inputs, fields.integer(1, MAX_CHANNELS), fields.format(), fields.positive_float())
        in_channels = node.channels
    elif op == "threshold":
        node = Threshold(name, inputs, fields.integer(INT32.q_min, INT32.q_max))
    elif op in ("conv", "conv_transpose"):
        stored = _Stored(tensor(name))
        node = _read_weights(fields, stored, op, name, inputs, in_channels)
        in_channels = node.weight.shape[0]
    elif op in RESCALING:
        spec = fields.next()
        if isinstance(spec, list) and any(isinstance(field, str) for field in spec[1:]):
            stored = _Stored(tensor(name))
        requantize = _read_requantize(spec, in_channels, stored)
        if requantize is None:
            raise RecordError("it has no requantization")
        node = RESCALING[op](name, inputs, requantize)
    elif op in PLAIN:
        node = PLAIN[op](name, inputs)
    else:
        raise RecordError(f"operation {op[:20]!r} is unknown")
    stored.end()
    if stored.data and fields.text() != base64.b64encode(hashlib.sha256(stored.data).digest()).decode("ascii"):
        raise RecordError(f"the SHA-256 of tensor {name[:100]!r} is wrong: the file is damaged, copy it again")
    fields.end()
    channels[name] = 1 if isinstance(node, Threshold | ArgMax) else in_channels
    return node


def _read_weights(
    fields: _Fields, stored: _Stored, op: str, name: str, inputs: tuple[str, ...], in_channels: int
) -> Conv2d | ConvTranspose2d:
    out = fields.integer(1, MAX_CHANNELS)
    kernel, strides = (2, 2), (1, 1)
    if op == "conv":
        kernel = fields.integer(1, MAX_KERNEL), fields.integer(1, MAX_KERNEL)
        strides = fields.integer(1, MAX_KERNEL), fields.integer(0, MAX_KERNEL)
    bit_width = _read_field(fields.next(), out, stored)
    if bit_width.min() < 1 or bit_width.max() > MAX_CODE_BIT_WIDTH:
        raise RecordError(f"a weight width is not in 1..{MAX_CODE_BIT_WIDTH}")
    bias = _read_field(fields.next(), out, stored)
    requantize = _read_requantize(fields.next(), out, stored)
    per_row = kernel[0] * kernel[1] * in_channels
    rows = unpack_rows(stored.take(int(row_bytes(per_row, bit_width).sum())), bit_width, per_row)
    weight = np.ascontiguousarray(rows.reshape(out, *kernel, in_channels).transpose(0, 3, 1, 2), np.int32)
    if op == "conv":
        return Conv2d(name, inputs, weight, bit_width, bias, requantize, *strides)
    return ConvTranspose2d(name, inputs, weight, bit_width, bias, requantize)


def _write_field(values: IntArray, parts: list[bytes]) -> int | str:
    low, high = int(values.min()), int(values.max())
    if low == high:
        return low
    stored = smallest_format(low, high)
    parts.append(pack(values, stored).tobytes())
    return str(stored)


def _read_field(field: Any, count: int, stored: _Stored) -> IntArray:
    if type(field) is int and INT32.q_min <= field <= INT32.q_max:
        return np.full(count, field, np.int32)
    values = unpack(stored.take_codes(count, _read_format(field)), _read_format(field), count)
    if values.max() > INT32.q_max:
        raise RecordError("a value is outside int32")
    return values.astype(np.int32)


def _write_requantize(stage: Requantize | None, parts: list[bytes]) -> list[Any] | None:
    if stage is None:
        return None
    return [str(stage.output), _write_field(stage.multiplier, parts), _write_field(stage.shift, parts)]


def _read_requantize(spec: Any, channels: int, stored: _Stored) -> Requantize | None:
    if spec is None:
        return None
    if not isinstance(spec, list) or len(spec) != 3:
        raise RecordError("its requantization is no list of format, multiplier and shift")
    output = _read_format(spec[0])
    return Requantize(_read_field(spec[1], channels, stored), _read_field(spec[2], channels, stored), output)


def _read_format(text: Any) -> IntFormat:
    if not isinstance(text, str):
        raise RecordError(f"{_show(text)} is no integer format")
    try:
        return IntFormat.parse(text[:10])
    except ValueError as error:
        raise RecordError(str(error)) from None


def _show(value: Any) -> str:
    # a list may be nested too deeply to print
    return repr(value)[:22] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


class _Stored:
    """The bytes of one node's arrays, taken from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.taken = 0

    def take(self, count: int) -> np.ndarray:
        if count > len(self.data) - self.taken:
            raise RecordError(f"its tensor has {len(self.data)} bytes, too few: the file is truncated or damaged")
        self.taken += count
        return np.frombuffer(self.data, np.uint8, count, self.taken - count)

    def take_codes(self, count: int, stored: IntFormat) -> np.ndarray:
        return self.take(packed_bytes(count, stored.bit_width))

    def end(self) -> None:
        if self.taken != len(self.data):
            raise RecordError(f"its tensor has {len(self.data)} bytes, not the {self.taken} that its fields take")


class _Fields:
    """The fields of a record from JSON, read one after the other, each of the kind it must be."""

    def __init__(self, record: Any) -> None:
        if not isinstance(record, list):
            raise RecordError("it is no list")
        self.rest = list(reversed(record))

    def next(self) -> Any:
        if not self.rest:
            raise RecordError("it ends too early")
        return self.rest.pop()

    def text(self) -> str:
        value = self.next()
        if not isinstance(value, str):
            raise RecordError(f"{_show(value)} is no text")
        return value

    def list(self) -> list[Any]:
        value = self.next()
        if not isinstance(value, list):
            raise RecordError(f"{_show(value)} is no list")
        return value

    def integer(self, low: int, high: int) -> int:
        value = self.next()
        if type(value) is not int or not low <= value <= high:
            raise RecordError(f"{_show(value)} is no integer in {low}..{high}")
        return value

    def positive_float(self) -> float:
        value = self.next()
        if type(value) is not float or value <= 0:
            raise RecordError(f"{_show(value)} is no positive decimal number")
        return value

    def format(self) -> IntFormat:
        return _read_format(self.next())

    def end(self) -> None:
        if self.rest:
            raise RecordError(f"it has {len(self.rest)} fields too many")
