"""How deep the FIFOs of a streaming dataflow must be, so that skip connections cannot block it.

Pixels flow row by row, one token a pixel. A node reads some of its input before it can write its first token, so where
two ways meet again the shorter one has to hold what the longer one has not caught up with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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

Counts = NDArray[np.int64]


def skip_depths(graph: IntegerGraph, height: int, width: int) -> dict[tuple[str, str], int]:
    """Tokens that the FIFO from a tensor into a ``Concat`` must hold, by (tensor, concat).

    Counted in tokens of the tensor where the ways part: when the join waits for its pixel i, everything that the
    shorter way writes in the meantime finds room. The longest way, whose pixels are waited for, needs room for one
    token, as do all other FIFOs.
    """
    shapes = graph.shapes(height, width)
    depths = {}
    for position, node in enumerate(graph.nodes):
        if not isinstance(node, Concat):
            continue
        needed = _tokens_needed(graph.nodes[:position], node.inputs, shapes)
        latest = np.max([needed[name] for name in node.inputs], axis=0)
        index = np.arange(len(latest))
        for name in node.inputs:
            own = needed[name]
            others = [needed[other] for other in node.inputs if other != name]
            if np.array_equal(own, latest) and all(np.array_equal(other, index + 1) for other in others):
                depths[name, node.name] = 1
            else:
                written = np.searchsorted(own, latest, side="right")
                depths[name, node.name] = int((written - index).max())
    return depths


def _tokens_needed(
    earlier: Sequence[Node], tensors: Sequence[str], shapes: Mapping[str, tuple[int, int, int]]
) -> dict[str, Counts]:
    """For each pixel of ``tensors``, how many tokens must have been written of the tensor where their ways part.

    That is the last one that every way from the image to them passes.
    """
    for first in reversed(range(len(earlier))):
        reached = {earlier[first].name}
        for node in earlier[first + 1 :]:
            if node.inputs and reached.issuperset(node.inputs):
                reached.add(node.name)
        if reached.issuperset(tensors):
            break
    _, height, width = shapes[earlier[first].name]
    needed: dict[str, Counts] = {earlier[first].name: np.arange(1, height * width + 1)}
    for node in earlier[first + 1 :]:
        if node.name in reached:
            own = input_pixels_needed(node, shapes)
            joined = np.max([needed[name] for name in node.inputs], axis=0)
            needed[node.name] = np.where(own > 0, joined[np.maximum(own, 1) - 1], 0)
    return needed


def input_pixels_needed(node: Node, shapes: Mapping[str, tuple[int, int, int]]) -> Counts:
    """For every pixel that ``node`` writes, how many of each of its inputs it has read by then; never falls."""
    _, height, width = shapes[node.inputs[0]]
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    index = rows * width + columns + 1
    match node:
        case Conv2d():
            return _window(height, width, node.weight.shape[2], node.weight.shape[3], node.stride, node.padding)
        case MaxPool2d():
            return _window(height, width, 2, 2, 2, 0)
        case UpsampleNearest2d() | ConvTranspose2d():
            # the first of two rows as pixels come, the second from memory
            pair = np.stack([index.repeat(2, axis=1), np.broadcast_to((rows + 1) * width, (height, 2 * width))], axis=1)
            return pair.reshape(-1)
        case UpsampleBilinear2d():
            # rows 2r - 1 and 2r after row r, the last one with the row before it
            last_row = np.minimum((np.arange(2 * height) + 1) // 2, height - 1)
            return ((last_row + 1) * width).repeat(2 * width)
        case _:
            return index.reshape(-1)


def _window(height: int, width: int, kernel_height: int, kernel_width: int, stride: int, padding: int) -> Counts:
    """A window is complete with the last pixel it covers; padding is written between the pixels of the image."""
    inside = np.pad(np.ones((height, width), np.int64), padding)
    read = np.cumsum(inside.reshape(-1)).reshape(inside.shape)
    return read[kernel_height - 1 :: stride, kernel_width - 1 :: stride].reshape(-1)
