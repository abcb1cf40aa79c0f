"""Which convolutions run by exact integer Winograd F(2x2, 3x3), and the scratch that they take. Pure functions.

The kernel is ``c_runtime/qn_winograd_*.c``. Its results are those of the direct sum: integers, no rounding.
"""

from __future__ import annotations

import numpy as np

from quantunet.formats import IntFormat
from quantunet.ir.graph import Conv2d, Node, WeightNode

POSITIONS = 16
TILE_INPUTS = 4 * 6
"""Inputs of two tiles side by side."""
FILTER_BYTES = 32 * 1024
"""Transformed weights of a block of filters take so much at the most, or those of four filters."""


def fits(node: Node, source: IntFormat) -> bool:
    """Whether ``node``, reading codes of ``source``, may run by Winograd: a 3x3 of stride 1 whose sums have room."""
    return (
        isinstance(node, Conv2d)
        and node.weight.shape[2:] == (3, 3)
        and node.stride == 1
        and source.storage_bit_width == 8
        and _largest_sum(node) < 2**29
    )


def _largest_sum(node: Conv2d) -> int:
    """Bound of |sum + bias + rounding term|; four times as much on the way stays below 2^31 if it is below 2^29."""
    sums = 255 * np.abs(node.weight.astype(np.int64)).sum(axis=(1, 2, 3)) + np.abs(node.bias.astype(np.int64))
    if node.requantize is not None and node.requantize.is_shift_only:
        sums += 1 << np.clip(node.requantize.shift.astype(np.int64), 0, 32)
    return int(sums.max())


def filter_block(node: WeightNode, at_most: int) -> int:
    """Filters whose transformed weights lie in scratch together."""
    filters = FILTER_BYTES // (2 * POSITIONS * _channels(node)) // 4 * 4
    return min(node.weight.shape[0], max(4, min(filters, at_most)))


def filter_elements(node: WeightNode, at_most: int) -> int:
    """16-bit numbers of the transformed weights of a block; filters come in pairs."""
    return POSITIONS * _channels(node) * _rounded(filter_block(node, at_most), 2)


def patch_elements(node: WeightNode) -> int:
    """16-bit numbers of the transformed inputs of two tiles, and their inputs as bytes."""
    return _channels(node) * (2 * POSITIONS + TILE_INPUTS // 2)


def _channels(node: WeightNode) -> int:
    return _rounded(node.weight.shape[1], 4)


def _rounded(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
