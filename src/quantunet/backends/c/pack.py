"""Tensors that are kept in fewer bits than a byte a code: four channels of a pixel in 1, 2 or 3 bytes. Pure functions.

Unsigned codes of up to 2, 4 or 6 bits. The kernels of Winograd write and read them (``c/runtime/qn_winograd_*.c``), the
pooling reads them; whatever else reads a tensor keeps it in whole bytes.
"""

from __future__ import annotations

from collections.abc import Container
from math import prod

import numpy as np
from numpy.typing import NDArray

from quantunet.backends.c.join import Joins, parts_of
from quantunet.formats import IntFormat
from quantunet.ir.graph import IntegerGraph, MaxPool2d

FOUR = 4


def packed_bits(fmt: IntFormat) -> int:
    """Bits of a code of ``fmt`` in a packed tensor, 2, 4 or 6; 0 if packing saves nothing or cannot hold it."""
    return 0 if fmt.signed or fmt.bit_width > 6 else fmt.bit_width + fmt.bit_width % 2


def find_packed(graph: IntegerGraph, by_winograd: Container[str], joins: Joins) -> frozenset[str]:
    """The tensors that may be packed: only convolutions of ``by_winograd`` write and read them, and poolings read."""
    formats = graph.formats()
    packed = {
        node.name
        for node in graph.weight_nodes()
        if node.name in by_winograd and node.requantize is not None and packed_bits(formats[node.name])
    }
    for node in graph.nodes:
        if node.name not in by_winograd and node.name not in joins and not isinstance(node, MaxPool2d):
            packed -= {part.name for part in parts_of(node, joins)}
    return frozenset(packed)


def tensor_bytes(shape: tuple[int, int, int], fmt: IntFormat, is_packed: bool = False) -> int:
    """Bytes of a tensor (c, h, w) in memory."""
    if not is_packed:
        return prod(shape) * fmt.storage_bit_width // 8
    channels, height, width = shape
    return height * width * -(-channels * packed_bits(fmt) // 8)


def unpack(content: NDArray[np.uint8], shape: tuple[int, int, int], fmt: IntFormat) -> NDArray[np.uint8]:
    """The codes (h, w, c) of a packed tensor (c, h, w)."""
    channels, height, width = shape
    fours, bits = -(-channels // FOUR), packed_bits(fmt)
    pixels = content.reshape(height, width, -1)
    padded = np.zeros((height, width, fours * bits // 2), np.uint8)
    padded[:, :, : pixels.shape[2]] = pixels
    places = np.unpackbits(padded, axis=2, bitorder="little").reshape(height, width, fours, FOUR * bits)
    if bits == 6:  # c3 lies around c2: see qn_packed.h
        places = places[..., [*range(12), *range(16, 22), 22, 23, *range(12, 16)]]
    codes = places.reshape(height, width, -1, bits) @ (1 << np.arange(bits, dtype=np.uint8))
    return codes[:, :, :channels].astype(np.uint8)
