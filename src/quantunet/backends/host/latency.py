"""Milliseconds that the host engine takes for an image, by formula, and what channels that go would save. Pure.

The formula counts, as the kernels do (``qn_host_layer.c``, ``qn_host_winograd.c``), products of whole vectors: 16 sums
of 4 products. A layer of 17 channels takes as long as one of 20, and one of 13 as one of 16, so time falls in steps,
which multiply-accumulates do not show. What runs in the portable kernels (wide codes, left shifts) is not counted.

``MS`` was fitted by ``benchmarks/host_latency.py`` to one thread of a core with AVX-512 VNNI that adds up 234 * 10^9
products of bytes a second; others take other times, but much the same shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from quantunet.arith import round_up
from quantunet.backends.host.plan import Step, steps
from quantunet.ir.graph import Conv2d, ConvTranspose2d, IntegerGraph

LANES = 16
MAX_SPLIT = 4
MOST_LEFT = LANES // 2 + LANES // 4
"""Channels up to which a vector's rest may be cheaper as a half and a quarter vector."""
LARGEST_CODE = 63
"""Of inputs that exact Winograd takes."""
TILE_TRANSFORM = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])
PHASES = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
"""Of an even and an odd output row: which rows of the kernel meet the two rows of an up-sampled source."""
POSITIONS, SHORT_POSITIONS = 16, 9
"""Products of a Winograd tile, and those that are left where the input is up-sampled."""


@dataclass(frozen=True)
class Counts:
    """What an image takes, or in ``MS`` what a million of each takes.

    Args:
        products: instructions of a vector of direct products.
        parted: pixels whose codes do not fill a store, and so are written one pixel at a time.
        tile_products, tile_sums, tile_parted: likewise of Winograd, sums by tile of 2 x 2 pixels.
        tile_inputs: vectors of transformed inputs.
        image: values of the image: what goes with the pixels, whatever the channels.
    """

    products: float = 0.0
    parted: float = 0.0
    tile_products: float = 0.0
    tile_sums: float = 0.0
    tile_parted: float = 0.0
    tile_inputs: float = 0.0
    image: float = 0.0

    def dot(self, other: Counts) -> float:
        """Sum of the products of both."""
        return sum(getattr(self, each.name) * getattr(other, each.name) for each in fields(self))

    def plus(self, other: Counts) -> Counts:
        """Sum, one by one."""
        return Counts(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


LEAST_SAVING = 1e-3
"""Share of an image's time that is worth naming."""
MS = Counts(
    products=0.2945,
    parted=1.895,
    tile_products=0.3113,
    tile_sums=16.38,
    tile_parted=16.19,
    tile_inputs=0.6975,
    image=15.56,
)


class HostLatency:
    """The engine's steps for one graph and image size, whose channels may be thought fewer."""

    def __init__(self, graph: IntegerGraph, height: int, width: int) -> None:
        self._graph, self._shapes, self._formats = graph, graph.shapes(height, width), graph.formats()
        self._steps = steps(graph)
        convolutions = [(step, step.node) for step in self._steps if step.is_prepared and isinstance(step.node, Conv2d)]
        self._tiles = {node.name for _, node in convolutions if self._suits_winograd(node)}
        self._phased = {node.name for step, node in convolutions if self._is_phased(step, node)}

    def counts(self, channels: Mapping[str, int] | None = None) -> Counts:
        """Sum over the steps; ``channels`` says of which layers there are fewer."""
        total = Counts(image=float(np.prod(self._shapes[self._graph.input.name])))
        for counts in self.by_node(channels).values():
            total = total.plus(counts)
        return total

    def by_node(self, channels: Mapping[str, int] | None = None) -> dict[str, Counts]:
        """What each step takes, by name of its node."""
        left = self._graph.channels(channels)
        return {step.node.name: self._of(step, left) for step in self._steps}

    def ms(self, channels: Mapping[str, int] | None = None) -> float:
        """Milliseconds of an image, one thread."""
        return self.counts(channels).dot(MS) / 1e6

    def savings(self) -> dict[str, list[tuple[int, float]]]:
        """By layer: numbers of channels, up to a vector of them, whose loss makes an image faster, and by how many ms.

        One channel stays everywhere; the layer that the mask is made of keeps all.
        """
        left, now = self._graph.channels(), self.ms()
        *hidden, _ = self._graph.weight_nodes()
        found = {}
        for node in hidden:
            saved = (
                (n, now - self.ms({node.name: left[node.name] - n})) for n in range(1, min(LANES + 1, left[node.name]))
            )
            found[node.name] = [(n, ms) for n, ms in saved if ms > LEAST_SAVING * now]
        return found

    def _of(self, step: Step, channels: Mapping[str, int]) -> Counts:
        node = step.node
        _, height, width = self._shapes[node.name]
        if not step.is_prepared or not isinstance(node, Conv2d | ConvTranspose2d):
            return Counts()
        sources = [(channels[part.name], part.is_doubled) for part in step.sources]
        out = channels[node.name]
        if isinstance(node, ConvTranspose2d):
            return _passes(2 * out, [(1, sources[0][0])], height * width / 2)
        if node.name in self._tiles and _tiles_pay(sources, out):
            return _tile_counts(sources, out, -(-height // 2) * -(-width // 2))
        kernel = node.weight.shape[2]
        sizes = [2 if doubled and node.name in self._phased else kernel for _, doubled in sources]
        rows = [(size, size * count) for size, (count, _) in zip(sizes, sources, strict=True)]
        return _passes(out, rows, height * width)

    def _suits_winograd(self, node: Conv2d) -> bool:
        """Whether a kernel of Winograd may run it: ``qn_host_winograd_fits``."""
        source, stage = self._formats[node.inputs[0]], node.requantize
        if node.weight.shape[2:] != (3, 3) or (node.stride, node.padding) != (1, 1) or stage is None:
            return False
        if source.signed or source.q_max > LARGEST_CODE or not stage.is_shift_only:
            return False
        return _is_byte(np.einsum("ik,jl,ockl->ocij", TILE_TRANSFORM, TILE_TRANSFORM, node.weight))

    def _is_phased(self, step: Step, node: Conv2d) -> bool:
        """Whether an up-sampled source is read as it is, by kernels of 2x2: ``phased_fits`` of ``qn_host_layer.c``."""
        if node.weight.shape[2:] != (3, 3) or (node.stride, node.padding) != (1, 1):
            return False
        channels, first, found = self._graph.channels(), 0, []
        for part in step.sources:
            if part.is_doubled:
                found.append(node.weight[:, first : first + channels[part.name]])
            first += channels[part.name]
        sums = [np.einsum("ik,jl,ockl->ocij", rows, cols, of) for of in found for rows in PHASES for cols in PHASES]
        return bool(sums) and all(map(_is_byte, sums))


def _is_byte(values: NDArray[np.integer]) -> bool:
    return bool(values.min(initial=0) >= -128 and values.max(initial=0) <= 127)


def _passes(out: int, rows: Sequence[tuple[int, int]], pixels: float) -> Counts:
    """Of direct products: ``passes_plan`` of ``qn_host_layer.c``, ``codes_store`` of ``qn_host_vnni512.c``.

    Args:
        out: output channels.
        rows: of each source, rows of the kernel and bytes of a row of it.
        pixels: of the output.
    """

    def chunks(split: int) -> int:
        return sum(count * -(-row_bytes // (4 * split)) for count, row_bytes in rows)

    vectors, left = divmod(out, LANES)
    splits = []
    while left > 0:
        split = 1
        while 2 * split <= MAX_SPLIT and left <= LANES // (2 * split):
            split *= 2
        if split == 1 and left <= MOST_LEFT and chunks(2) + chunks(4) + 4 < chunks(1):
            split = 2
        splits.append(split)
        left -= LANES // split
    if splits and splits[0] == 1:
        vectors, splits = vectors + 1, []
    products = vectors * chunks(1) + sum(chunks(split) for split in splits)
    parted = (out < vectors * LANES) + sum(split > 1 and not _is_whole(out, split) for split in splits)
    return Counts(pixels * products, pixels * parted)


def _is_whole(out: int, split: int) -> bool:
    """Whether a pass of a part of a vector writes several pixels at once."""
    return out % (LANES // split) == 0 and (split == 2 or out == LANES // split)


def _padded(sources: Sequence[tuple[int, bool]], doubled: bool) -> int:
    return sum(round_up(count, 4) for count, is_doubled in sources if is_doubled == doubled)


def _tiles_pay(sources: Sequence[tuple[int, bool]], out: int) -> bool:
    """``qn_host_winograd_pays``."""
    plain, doubled = _padded(sources, False), _padded(sources, True)
    vectors, left = -(-out // LANES), out % LANES
    quarters = out // LANES * 4 + -(-left // (LANES // 4))
    direct = (9 * plain + 4 * doubled) // 2 + 16
    gathered = POSITIONS * -(-plain // 64) + SHORT_POSITIONS * -(-doubled // 64)
    return 4 * (vectors * ((POSITIONS * plain + SHORT_POSITIONS * doubled) // 8 + 80) + gathered) < quarters * direct


def _tile_counts(sources: Sequence[tuple[int, bool]], out: int, tiles: int) -> Counts:
    plain, doubled = _padded(sources, False), _padded(sources, True)
    vectors = -(-out // LANES)
    return Counts(
        tile_products=tiles * vectors * (POSITIONS * plain + SHORT_POSITIONS * doubled) / 4,
        tile_sums=tiles * vectors,
        tile_parted=tiles * (out % LANES > 0),
        tile_inputs=tiles * (POSITIONS * -(-plain // 64) + SHORT_POSITIONS * -(-doubled // 64)),
    )
