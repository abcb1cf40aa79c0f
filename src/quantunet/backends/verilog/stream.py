"""Streams between the nodes of a hardware design: who stands where in a pixel, and how deep the queues of skips are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantunet.ir.graph import (
    Concat,
    Conv2d,
    ConvTranspose2d,
    IntegerGraph,
    MaxPool2d,
    Node,
    UpsampleBilinear2d,
    UpsampleNearest2d,
)

EMPTY = -1
"""A place of a layout that holds no channel."""


@dataclass(frozen=True)
class Stream:
    """A tensor on its way: ``layout`` has beats x lanes places, each a channel or ``EMPTY``."""

    name: str
    bits: int
    signed: bool
    height: int
    width: int
    beats: int
    layout: tuple[int, ...]

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.height * self.width

    @property
    def channels(self) -> int:
        """Places that hold a channel."""
        return sum(place != EMPTY for place in self.layout)


def skip_depths(graph: IntegerGraph, streams: Mapping[str, Stream]) -> dict[tuple[str, str], int]:
    """Words that each branch of a tensor read several times must hold, so that a join never waits for itself.

    For the n-th pixel of a join, each node before it needs a certain number of pixels of its inputs
    (``_pixels_needed``), back to the tensors that fork. What a fork has written by then, less what a branch has taken
    before, waits on that branch; the largest over all n and all joins is its depth. Windows are counted with one row
    more than they need, so that they also work at full speed.
    """
    readers: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    for node in graph.nodes:
        for name in set(node.inputs):
            readers[name].append(node.name)
    depths = {(name, reader): 0 for name, several in readers.items() if len(several) > 1 for reader in several}
    for join in graph.nodes:
        if not isinstance(join, Concat):
            continue
        order = np.arange(1, streams[join.name].pixels + 1)
        written = {join.name: order}
        taken: dict[tuple[str, str], NDArray[np.int64]] = {}
        for node in reversed(graph.nodes[: graph.nodes.index(join) + 1]):
            demands = [taken[node.name, reader] for reader in readers[node.name] if (node.name, reader) in taken]
            if demands:
                written[node.name] = np.max(demands, axis=0)
            if node.name in written:
                for name in set(node.inputs):
                    needed = _pixels_needed(node, streams[name], streams[node.name], written[node.name])
                    taken[name, node.name] = needed
        for (name, reader), pixels in taken.items():
            if (name, reader) in depths:
                before = pixels - 1 if reader == join.name else pixels
                waiting = int((written[name] - before).max())
                depth = min(waiting + streams[name].width, streams[name].pixels) if waiting > 1 else 0
                depths[name, reader] = max(depths[name, reader], depth * streams[name].beats)
    return depths


def _pixels_needed(node: Node, source: Stream, out: Stream, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels of ``source`` that must have entered ``node`` before its first ``pixels`` pixels (n,) are out."""
    last = np.maximum(pixels - 1, 0)
    y, x = last // out.width, last % out.width
    match node:
        case Conv2d():
            rows = y * node.stride - node.padding + max(node.weight.shape[2], node.stride) + 1
            rows = np.where(y == out.height - 1, source.height, rows)  # rows that nothing reads are taken too
        case ConvTranspose2d() | UpsampleNearest2d():
            rows = y // 2 + 2
        case UpsampleBilinear2d():
            rows = (y + 1) // 2 + 2
        case MaxPool2d():
            needed = (2 * y + 1) * source.width + 2 * x + 2
            return np.where(pixels > 0, needed, 0)
        case _:
            return pixels
    return np.where(pixels > 0, np.clip(rows, 0, source.height) * source.width, 0)
