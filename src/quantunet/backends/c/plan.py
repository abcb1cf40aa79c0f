"""Static memory of the C backend: which tensors live when, and where each lies in one arena. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantunet.arith import round_up
from quantunet.backends.c import bit_serial as c_bit_serial
from quantunet.backends.c import swar as c_swar
from quantunet.backends.c import winograd as c_winograd
from quantunet.backends.c.join import Joins, find_joins, parts_of
from quantunet.backends.c.pack import find_packed, tensor_bytes
from quantunet.backends.c.rows import RowPlan, plan_rows
from quantunet.formats import IntFormat
from quantunet.ir.graph import (
    ArgMax,
    Conv2d,
    ConvTranspose2d,
    GraphError,
    IntegerGraph,
    MaxPool2d,
    Node,
    Rescale,
    Threshold,
    WeightNode,
)

ALIGNMENT_BYTES = 16
BYTE_PATCH_LIMIT = (2**31 - 1) // 255
"""Largest sum of a filter's absolute weights for which 255 times it stays below 2^31 (see qn_conv2d.c)."""


@dataclass(frozen=True)
class Tiling:
    """How much a convolution works on at a time: memory against speed.

    Args:
        pixels: pixels whose patches are gathered together, even.
        filters: filters whose weights are expanded together, a multiple of 4.
        lanes: patches are padded to a multiple of this many codes, the width of the machine's vectors.
        patch_bits: of an activation in a patch and of an expanded weight: 8, u8 x s8, where signed inputs enter 128
            larger; or 16, s16 x s16, without an offset. It belongs to the kernel (see qn_product.h).
        patch_signed: of 8 bits, s8 x s8, where unsigned inputs enter 128 smaller; likewise.
        band_pixels: pixels that a node computes before the next one runs, in whole rows, at least one; None: all.
            A model by rows keeps only the rows that are still to be read, and expands packed weights once a band.
        winograd: 3x3 convolutions run by qn_winograd.h, which belongs to the kernel too.
        winograd_bytes: transformed weights of a block of filters take so much at the most, or those of four filters.
        swar: convolutions of few bits run by qn_swar.h, those of the fewest by qn_bit_serial.h, likewise.
        packed: tensors of up to 6 bits between convolutions by Winograd are stored in 2, 4 or 6 bits a code.

    Raises:
        ValueError: if a number is not as said.
    """

    pixels: int = 4
    filters: int = 8
    lanes: int = 4
    patch_bits: int = 8
    patch_signed: bool = False
    band_pixels: int | None = None
    winograd: bool = False
    winograd_bytes: int = 32 * 1024
    swar: bool = False
    packed: bool = False

    def __post_init__(self) -> None:
        if self.pixels < 4 or self.pixels % 2 or self.filters < 4 or self.filters % 4 or self.lanes < 1:
            raise ValueError(f"{self} needs an even number of pixels >= 4, filters in fours, and a lane")
        if self.patch_bits not in (8, 16):
            raise ValueError(f"{self} needs 8 or 16 bits a code")
        if self.band_pixels is not None and self.band_pixels < 1:
            raise ValueError(f"{self} needs a pixel in a band")


SMALL = Tiling(band_pixels=1)
"""For an exported project: little scratch."""
FAST = Tiling(pixels=8, filters=32, lanes=64)
"""For the engine on the host."""


@dataclass(frozen=True)
class Lifetime:
    """A tensor of ``size_bytes`` from the step that writes it to the last step that reads it, both inclusive."""

    name: str
    size_bytes: int
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both tensors are needed at one step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Scratch:
    """Elements of the arrays that all convolutions share, named as in ``qn_scratch``.

    Args:
        patch_bits: of one element of ``filters`` and ``patches``.
    """

    filters: int = 0
    patches: int = 0
    wide: int = 0
    acc: int = 0
    corrections: int = 0
    patch_bits: int = 8

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays together."""
        return (self.filters + self.patches) * self.patch_bits // 8 + 4 * (self.wide + self.acc + self.corrections)


@dataclass(frozen=True)
class Plan:
    """Where each stored tensor lies in the arena, in bytes; the image and the mask belong to the caller.

    Args:
        tensor_bytes: of what lies there, by name: whole tensors, or rings of their rows.
        peak_activation_bytes: of whole tensors alive at one step, image and mask included.
        by_winograd: convolutions that run by Winograd.
        joins: tensors that are never stored, since Winograd's kernel reads several side by side.
        packed: tensors of less than a byte a code.
        by_rows: the schedule, where the graph runs by rows.
    """

    offsets: Mapping[str, int]
    tensor_bytes: Mapping[str, int]
    arena_bytes: int
    scratch: Scratch
    peak_activation_bytes: int
    by_winograd: frozenset[str]
    joins: Joins
    packed: frozenset[str]
    by_rows: RowPlan | None = None

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the scratch arrays."""
        return self.scratch.size_bytes


def fused_heads(graph: IntegerGraph) -> dict[str, str]:
    """Convolutions whose accumulators are never stored, each with the Threshold or ArgMax that alone reads it."""
    readers = graph.readers()
    return {
        node.name: readers[node.name][0].name
        for node in graph.nodes
        if isinstance(node, Conv2d)
        and len(readers[node.name]) == 1
        and isinstance(readers[node.name][0], Threshold | ArgMax)
    }


def lifetimes(
    graph: IntegerGraph, height: int, width: int, joins: Joins | None = None, packed: Container[str] = ()
) -> tuple[Lifetime, ...]:
    """Every tensor that is stored, image and mask included, in node order; a fused head reads at its mask's step.

    Args:
        joins: tensors that are not stored, since what reads them reads their inputs.
        packed: tensors of less than a byte a code.
    """
    formats, shapes, fused = graph.formats(), graph.shapes(height, width), fused_heads(graph)
    joins = joins or {}
    step = {node.name: index for index, node in enumerate(graph.nodes)}
    last = dict(step)
    for node in graph.nodes:
        if node.name in joins:
            continue
        for part in parts_of(node, joins):
            last[part.name] = max(last[part.name], step[fused.get(node.name, node.name)])
    return tuple(
        Lifetime(
            node.name,
            tensor_bytes(shapes[node.name], formats[node.name], node.name in packed),
            step[node.name],
            last[node.name],
        )
        for node in graph.nodes
        if node.name not in fused and node.name not in joins
    )


def in_place(graph: IntegerGraph, tensors: Sequence[Lifetime], packed: Container[str] = ()) -> dict[str, str]:
    """The tensor in whose memory each one lies, by name: its own, or that of its input where nothing else reads it.

    A pooled pixel and a rescaled code are written no further on than what they are made of, and after it was read.
    Where codes are packed that does not hold.
    """
    formats, alive = graph.formats(), {tensor.name: tensor for tensor in tensors}
    owner = {name: name for name in alive}
    for node in graph.nodes:
        if not isinstance(node, MaxPool2d | Rescale) or node.name not in alive:
            continue
        source = node.inputs[0]
        if (
            source in alive
            and alive[source].last == alive[node.name].first
            and formats[node.name].storage_bit_width <= formats[source].storage_bit_width
            and source not in packed
            and node.name not in packed
        ):
            owner[node.name] = owner[source]
    return owner


def merged(tensors: Sequence[Lifetime], owner: Mapping[str, str]) -> list[Lifetime]:
    """One for each owner: as long as all that lie in it, as large as the largest."""
    shares: dict[str, list[Lifetime]] = {}
    for tensor in tensors:
        shares.setdefault(owner[tensor.name], []).append(tensor)
    return [
        Lifetime(
            name,
            max(tensor.size_bytes for tensor in share),
            min(tensor.first for tensor in share),
            max(tensor.last for tensor in share),
        )
        for name, share in shares.items()
    ]


def place(tensors: Sequence[Lifetime]) -> tuple[dict[str, int], int]:
    """Offsets by name and the bytes of the arena: the best of a few orders, each tensor in the tightest gap.

    The largest first; those that live longest first; as they are written, first or last ones first.
    """
    orders: tuple[Callable[[Lifetime], tuple[int, ...]], ...] = (
        lambda item: (-item.size_bytes, item.first),
        lambda item: (item.first - item.last, -item.size_bytes),
        lambda item: (item.first, -item.size_bytes),
        lambda item: (-item.last, -item.size_bytes),
    )
    return min((_place_in_order(sorted(tensors, key=order)) for order in orders), key=lambda placed: placed[1])


def _place_in_order(tensors: Sequence[Lifetime]) -> tuple[dict[str, int], int]:
    placed: list[tuple[Lifetime, int]] = []
    arena_bytes = 0
    for tensor in tensors:
        taken = sorted((offset, _aligned(other.size_bytes)) for other, offset in placed if other.overlaps(tensor))
        best, best_gap, free = None, None, 0
        for offset, size_bytes in taken:
            gap = offset - free
            if gap >= tensor.size_bytes and (best_gap is None or gap < best_gap):
                best, best_gap = free, gap
            free = max(free, offset + size_bytes)
        offset = free if best is None else best
        placed.append((tensor, offset))
        arena_bytes = max(arena_bytes, offset + _aligned(tensor.size_bytes))
    return {tensor.name: offset for tensor, offset in placed}, arena_bytes


def plan(graph: IntegerGraph, height: int, width: int, tiling: Tiling = SMALL) -> Plan:
    """The memory of ``graph`` for images of ``height`` x ``width`` pixels.

    Raises:
        GraphError: if the size does not fit the graph.
    """
    check_size(graph, height, width)
    by_winograd = winograd_nodes(graph, tiling)
    joins = find_joins(graph, by_winograd)
    packed = find_packed(graph, by_winograd, joins) if tiling.packed else frozenset[str]()
    alive = lifetimes(graph, height, width, joins, packed)
    peak = max(
        sum(tensor.size_bytes for tensor in alive if tensor.first <= step <= tensor.last)
        for step in range(len(graph.nodes))
    )
    outside = {graph.input.name, graph.output.name}
    inside = [tensor for tensor in alive if tensor.name not in outside]
    owner = in_place(graph, inside, packed)
    offsets, arena_bytes = place(merged(inside, owner))
    offsets = {tensor.name: offsets[owner[tensor.name]] for tensor in inside}
    scratch = scratch_of(graph, tiling, by_winograd, joins)
    sizes = {tensor.name: tensor.size_bytes for tensor in inside}
    whole = Plan(offsets, sizes, arena_bytes, scratch, peak, by_winograd, joins, packed)
    if tiling.band_pixels is None:
        return whole
    rows = plan_rows(graph, height, width, tiling.band_pixels, fused_heads(graph), by_winograd, joins)
    shapes = graph.shapes(height, width)
    rings = [
        Lifetime(tensor.name, tensor.size_bytes // shapes[tensor.name][1] * rows.rows[tensor.name], 0, len(graph.nodes))
        for tensor in inside
    ]
    offsets, arena_bytes = place(rings)  # all alive all the time
    if arena_bytes >= whole.arena_bytes:
        return whole
    sizes = {ring.name: ring.size_bytes for ring in rings}
    return replace(whole, offsets=offsets, tensor_bytes=sizes, arena_bytes=arena_bytes, by_rows=rows)


def check_size(graph: IntegerGraph, height: int, width: int) -> None:
    """Raise a GraphError unless images of ``height`` x ``width`` pixels fit the halvings of ``graph``."""
    multiple = graph.size_multiple()
    for axis, size in (("height", height), ("width", width)):
        if size < 1 or size % multiple:
            padded = round_up(max(size, 1), multiple)
            raise GraphError(f"{axis} {size} is not divisible by {multiple}: pad the image to {padded}")


def filter_block(node: WeightNode, is_fused: bool, tiling: Tiling) -> int:
    """Filters that are expanded together: all of them where an arg-max needs every class of a pixel at once."""
    return node.weight.shape[0] if is_fused else min(node.weight.shape[0], tiling.filters)


def bit_serial_nodes(graph: IntegerGraph, tiling: Tiling) -> frozenset[str]:
    """Convolutions that run by bit planes of their weights; a fused head does not."""
    return _nodes_that_fit(graph, c_bit_serial.fits) if tiling.swar else frozenset()


def swar_nodes(graph: IntegerGraph, tiling: Tiling) -> frozenset[str]:
    """Convolutions that run with two products in one multiplication: not by bit planes, and no fused head."""
    if not tiling.swar:
        return frozenset()
    return _nodes_that_fit(graph, c_swar.fits) - bit_serial_nodes(graph, tiling)


def _nodes_that_fit(graph: IntegerGraph, fits: Callable[[Node, IntFormat], bool]) -> frozenset[str]:
    formats, fused = graph.formats(), fused_heads(graph)
    return frozenset(
        node.name for node in graph.weight_nodes() if node.name not in fused and fits(node, formats[node.inputs[0]])
    )


def winograd_nodes(graph: IntegerGraph, tiling: Tiling) -> frozenset[str]:
    """Convolutions that run by Winograd; a fused head does not."""
    return _nodes_that_fit(graph, c_winograd.fits) if tiling.winograd else frozenset()


def needs_wide_patches(node: WeightNode, source: IntFormat) -> bool:
    """Whether the product runs on 32-bit codes: the input is wider than a byte, or its byte sums could overflow."""
    magnitudes = np.abs(node.weight.astype(np.int64))
    sums = magnitudes.sum(axis=1).max() if isinstance(node, ConvTranspose2d) else magnitudes.sum(axis=(1, 2, 3)).max()
    return source.storage_bit_width > 8 or int(sums) > BYTE_PATCH_LIMIT


def scratch_of(
    graph: IntegerGraph, tiling: Tiling, by_winograd: Container[str] = (), joins: Joins | None = None
) -> Scratch:
    """The scratch arrays that the convolutions of ``graph`` need, those of ``by_winograd`` with ``joins``."""
    formats, fused, channels = graph.formats(), fused_heads(graph), graph.channels()
    by_swar, by_bits = swar_nodes(graph, tiling), bit_serial_nodes(graph, tiling)
    needs = [Scratch(patch_bits=tiling.patch_bits)]
    for node in graph.weight_nodes():
        if node.name in by_winograd:
            fours = c_winograd.Fours.of(parts_of(node, joins or {}), channels)
            filters = fours.filter_elements(node, tiling.winograd_bytes)
            needs.append(Scratch(filters, fours.patch_elements, acc=1, corrections=1))
            continue
        if node.name in by_swar | by_bits:  # whose tiling has elements of a byte
            way, filters = c_swar if node.name in by_swar else c_bit_serial, filter_block(node, False, tiling)
            sizes = way.filter_bytes(node, filters), way.patch_bytes(node)
            needs.append(Scratch(*sizes, acc=way.sums(filters), corrections=1))
            continue
        positions, length = (4, node.weight.shape[1]) if isinstance(node, ConvTranspose2d) else (1, node.weight[0].size)
        stride = round_up(length, tiling.lanes)
        rows = round_up(filter_block(node, node.name in fused, tiling), 4)
        patches = tiling.pixels * stride
        wide = patches if needs_wide_patches(node, formats[node.inputs[0]]) else 0
        needs.append(Scratch(positions * rows * stride, patches, wide, tiling.pixels * rows, positions * rows))
    fields = Scratch.__dataclass_fields__
    return Scratch(**{name: max(getattr(need, name) for need in needs) for name in fields})


def _aligned(size_bytes: int) -> int:
    return round_up(size_bytes, ALIGNMENT_BYTES)
