"""Codes of any width as a stream of bits, least significant bit first, without gaps.

Code ``k`` of width ``b`` takes the bits ``k*b .. k*b+b-1`` of the stream, its own lowest bit first; bit ``i`` of the
stream is bit ``i % 8`` (of value ``2^(i % 8)``) of byte ``i // 8``. Signed codes are two's complement. The last byte is
filled up with zeros.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantunet.cost import packed_bytes
from quantunet.formats import IntFormat

Bytes = NDArray[np.uint8]


def pack(codes: NDArray[np.integer], stored: IntFormat) -> Bytes:
    """The bytes of ``codes`` (n,), each in ``stored.bit_width`` bits.

    Raises:
        ValueError: if a code lies outside ``stored``.
    """
    return _pack_rows_of_one_width(np.asarray(codes).reshape(1, -1), stored)[0]


def unpack(data: Bytes, stored: IntFormat, count: int) -> NDArray[np.int64]:
    """The ``count`` codes (n,) that ``pack`` wrote into ``data``.

    Raises:
        ValueError: if ``data`` has not exactly the bytes of ``count`` codes.
    """
    return _unpack_rows_of_one_width(np.asarray(data, np.uint8).reshape(1, -1), stored, count)[0]


def row_bytes(codes_per_row: int, bit_width: NDArray[np.integer]) -> NDArray[np.int64]:
    """Bytes of each row (rows,): every row starts on a byte boundary."""
    return packed_bytes(codes_per_row, np.asarray(bit_width, np.int64))


def pack_rows(codes: NDArray[np.integer], bit_width: NDArray[np.integer]) -> Bytes:
    """The bytes of signed ``codes`` (rows, n), row after row, each at its own width ``bit_width`` (rows,).

    Raises:
        ValueError: if a code does not fit its row's width.
    """
    sizes = row_bytes(codes.shape[1], bit_width)
    starts = np.cumsum(sizes) - sizes
    stream = np.zeros(int(sizes.sum()), np.uint8)
    for width in np.unique(bit_width):
        rows = np.flatnonzero(bit_width == width)
        packed = _pack_rows_of_one_width(codes[rows], IntFormat(int(width), True))
        stream[starts[rows, None] + np.arange(packed.shape[1])] = packed
    return stream


def unpack_rows(data: Bytes, bit_width: NDArray[np.integer], codes_per_row: int) -> NDArray[np.int64]:
    """The signed codes (rows, n) that ``pack_rows`` wrote into ``data``.

    Raises:
        ValueError: if ``data`` has not exactly the bytes of these rows.
    """
    sizes = row_bytes(codes_per_row, bit_width)
    if len(data) != sizes.sum():
        raise ValueError(f"{len(data)} bytes are not the {sizes.sum()} bytes of {len(sizes)} packed rows")
    starts = np.cumsum(sizes) - sizes
    codes = np.zeros((len(sizes), codes_per_row), np.int64)
    for width in np.unique(bit_width):
        rows = np.flatnonzero(bit_width == width)
        packed = data[starts[rows, None] + np.arange(int(sizes[rows[0]]))]
        codes[rows] = _unpack_rows_of_one_width(packed, IntFormat(int(width), True), codes_per_row)
    return codes


def _pack_rows_of_one_width(codes: NDArray[np.integer], stored: IntFormat) -> Bytes:
    if codes.size and (codes.min() < stored.q_min or codes.max() > stored.q_max):
        raise ValueError(f"codes {codes.min()}..{codes.max()} do not fit the format {stored}")
    bits = (codes.astype(np.int64)[:, :, None] >> np.arange(stored.bit_width)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(len(codes), -1), axis=1, bitorder="little")


def _unpack_rows_of_one_width(data: Bytes, stored: IntFormat, count: int) -> NDArray[np.int64]:
    if data.shape[1] != packed_bytes(count, stored.bit_width):
        raise ValueError(f"{data.shape[1]} bytes do not hold {count} codes of the format {stored}")
    bits = np.unpackbits(data, axis=1, count=count * stored.bit_width, bitorder="little")
    place = np.left_shift(np.int64(1), np.arange(stored.bit_width))
    if stored.signed:
        place[-1] = -place[-1]  # two's complement: the highest bit counts negative
    return bits.reshape(len(data), count, stored.bit_width).astype(np.int64) @ place
