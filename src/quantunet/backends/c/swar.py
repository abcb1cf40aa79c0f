"""Which convolutions run with two products in one multiplication, and the scratch that they take. Pure functions.

The kernel is ``c/runtime/qn_swar.c``.
"""

from __future__ import annotations

import numpy as np

from quantunet.arith import round_up
from quantunet.formats import IntFormat
from quantunet.ir.graph import Conv2d, Node, WeightNode

PIXELS = FILTERS = 4
"""Worked on at a time; filters are rounded up."""
SUM_LIMIT = 2**15 - 1
PAIR_BYTES = 4


def fits(node: Node, source: IntFormat) -> bool:
    """Whether ``node`` may: codes of ``source`` are unsigned, and no sum of products leaves 16 bits."""
    if not isinstance(node, Conv2d) or source.signed or source.storage_bit_width != 8:
        return False
    return source.q_max * int(np.abs(node.weight.astype(np.int64)).sum(axis=(1, 2, 3)).max()) <= SUM_LIMIT


def filter_bytes(node: WeightNode, filters: int) -> int:
    """Of the weights of a block of ``filters``, in pairs."""
    return round_up(filters, FILTERS) * _pairs(node) * PAIR_BYTES


def patch_bytes(node: WeightNode) -> int:
    """Of the patches of the pixels worked on, in pairs."""
    return PIXELS * _pairs(node) * PAIR_BYTES


def sums(filters: int) -> int:
    """32-bit sums of the pixels worked on."""
    return PIXELS * round_up(filters, FILTERS)


def _pairs(node: WeightNode) -> int:
    return (node.weight[0].size + 1) // 2
