"""Which convolutions run by exact integer Winograd F(2x2, 3x3), and the scratch that they take. Pure functions.

The kernel is ``c/runtime/qn_winograd_*.c``. Its results are those of the direct sum: integers, no rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from quantunet.arith import round_up
from quantunet.backends.c.join import Part
from quantunet.formats import IntFormat
from quantunet.ir.graph import Conv2d, Node, WeightNode

POSITIONS = 16
DOUBLED_POSITIONS = 9
"""Of an input whose pixels are repeated 2x2: the others are zero."""
TILE_INPUTS = 4 * 6
DOUBLED_INPUTS = 3 * 4
"""Inputs of two tiles side by side."""


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


@dataclass(frozen=True)
class Fours:
    """Input channels in fours, as the kernel has them: every tensor's are rounded up.

    Args:
        plain, doubled: of tensors read as they are, and of those whose pixels are repeated 2x2.
        gathered: bytes of the inputs of two tiles, of the largest tensor.
    """

    plain: int
    doubled: int
    gathered: int

    @classmethod
    def of(cls, parts: Iterable[Part], channels: Mapping[str, int]) -> Fours:
        """Those of a convolution that reads ``parts``; ``channels`` by name of the tensor."""
        counts = [(-(-channels[part.name] // 4), part.is_doubled) for part in parts]
        gathered = max(4 * count * (DOUBLED_INPUTS if is_doubled else TILE_INPUTS) for count, is_doubled in counts)
        plain = sum(count for count, is_doubled in counts if not is_doubled)
        return cls(plain, sum(count for count, _ in counts) - plain, gathered)

    @property
    def _elements(self) -> int:
        """16-bit numbers of one filter, transformed, or of one tile."""
        return 4 * (POSITIONS * self.plain + DOUBLED_POSITIONS * self.doubled)

    def filter_block(self, node: WeightNode, filter_bytes: int) -> int:
        """Filters whose transformed weights lie in scratch together: as many fours as ``filter_bytes`` hold, or one."""
        filters = filter_bytes // (2 * self._elements) // 4 * 4
        return min(node.weight.shape[0], max(4, filters))

    def filter_elements(self, node: WeightNode, filter_bytes: int) -> int:
        """16-bit numbers of the transformed weights of a block; filters come in pairs."""
        return self._elements * round_up(self.filter_block(node, filter_bytes), 2)

    @property
    def patch_elements(self) -> int:
        """16-bit numbers of the transformed inputs of two tiles, and their inputs as bytes."""
        return 2 * self._elements + self.gathered // 2
