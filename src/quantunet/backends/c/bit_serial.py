"""Which convolutions run by bit planes of their weights, and the scratch that they take. Pure functions.

The kernel is ``c/runtime/qn_bit_serial.c``.
"""

from __future__ import annotations

from quantunet.arith import round_up
from quantunet.backends.c import swar as c_swar
from quantunet.formats import IntFormat
from quantunet.ir.graph import Conv2d, Node, WeightNode

PRODUCT_LIMIT = 4
"""Of the bit widths of a weight and an activation."""
PIXELS = CODES = UNROLL = 4
"""Worked on at a time, of a group, and groups at a time: a patch is rounded up to 16 codes."""
ENTRY_BYTES = PLACE_BYTES = 4
TABLE_ENTRIES = 2**CODES
BYTE_MAX = 255
"""Sums of so many groups are kept in bytes."""


def fits(node: Node, source: IntFormat) -> bool:
    """Whether ``node`` is to: few bits, unsigned codes of ``source``, sums of products within 16 bits, and it pays."""
    return (
        isinstance(node, Conv2d)
        and c_swar.fits(node, source)
        and UNROLL * CODES * source.q_max <= BYTE_MAX
        and int(node.weight_bit_width.max()) * source.bit_width <= PRODUCT_LIMIT
        and is_faster(node)
    )


def is_faster(node: Conv2d) -> bool:
    """Whether tables pay, by the instructions of four pixels on RV32IM, without those that products in pairs take too.

    They do not where a patch of a few codes is rounded up to 16, or few filters share a table.
    """
    filters, length = node.weight.shape[0], node.weight[0].size
    groups, planes = _groups(node), int(node.weight_bit_width.sum())
    by_tables = 250 + 50 * groups + (5 * groups + 15) * planes + 15 * filters
    return by_tables < round_up(filters, c_swar.FILTERS) * 6 * length + 10 * length


def filter_bytes(node: WeightNode, filters: int) -> int:
    """Of the places of table entries of a block of ``filters``, one for each group of each plane."""
    widths = node.weight_bit_width.tolist()
    planes = max(sum(widths[first : first + filters]) for first in range(0, len(widths), filters))
    return planes * _groups(node) * PLACE_BYTES


def patch_bytes(node: WeightNode) -> int:
    """Of the tables, and of the patches of the pixels worked on."""
    return _groups(node) * (TABLE_ENTRIES * ENTRY_BYTES + PIXELS * CODES)


def sums(filters: int) -> int:
    """32-bit sums of the pixels worked on."""
    return PIXELS * filters


def _groups(node: WeightNode) -> int:
    return round_up(node.weight[0].size, CODES * UNROLL) // CODES
