"""Exact integer arithmetic: rounding shift, saturation, requantization by multiplier and shift.

One rounding rule holds in training, interpreter, C and FPGA alike: ``half_up``, ties go towards plus infinity,
that is ``floor(x + 1/2)``. On integers it is one addition and one arithmetic shift.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quantunet.formats import IntFormat

MULTIPLIER_BITS = 31
MAX_SHIFT = 62
"""Largest right shift: an int32 accumulator times a 31-bit multiplier plus the rounding term stays below 2^63."""

Int64 = NDArray[np.int64]


def round_up(value: int, multiple: int) -> int:
    """The least multiple of ``multiple`` that is no less than ``value``: memory and vectors come in whole pieces."""
    return -(-value // multiple) * multiple


def shift_round_half_up(value: Int64, shift: NDArray[np.integer] | int) -> Int64:
    """``floor(value / 2^shift + 1/2)`` elementwise, exactly; a negative shift multiplies by ``2^-shift``."""
    shift = np.asarray(shift, np.int64)
    right = np.maximum(shift, 0)
    half = np.where(right > 0, np.left_shift(np.int64(1), np.maximum(right - 1, 0)), 0)
    return np.left_shift(np.right_shift(value + half, right), np.maximum(-shift, 0))


def saturate(value: Int64, output: IntFormat) -> Int64:
    """Clamp to the codes of ``output``."""
    return np.clip(value, output.q_min, output.q_max)


def requantize(
    acc: Int64, multiplier: NDArray[np.integer] | int, shift: NDArray[np.integer] | int, output: IntFormat
) -> Int64:
    """``saturate(floor(acc * multiplier / 2^shift + 1/2))``: from an accumulator to codes of ``output``.

    Exact for every int32 ``acc``, ``0 <= multiplier < 2^31`` and ``-31 <= shift <= 62``, because
    ``|acc * multiplier| + 2^61 < 2^63``. With a negative shift the multiplier is 1.
    """
    return saturate(shift_round_half_up(acc * np.asarray(multiplier, np.int64), shift), output)


def multiplier_and_shift(ratio: float) -> tuple[int, int]:
    """The integers ``(multiplier, shift)`` with ``multiplier / 2^shift`` nearest to ``ratio``.

    A power of two gives multiplier 1 and is exact; other ratios get a multiplier in [2^30, 2^31), a relative error
    below 2^-30. Ratios too small to move any int32 accumulator give ``(0, 0)``.

    Raises:
        ValueError: if the ratio is not positive and finite, or 2^30 or more.
    """
    if not (math.isfinite(ratio) and 0 < ratio < 2**30):
        raise ValueError(f"requantization ratio {ratio} is not in (0, 2^30)")
    mantissa, exponent = math.frexp(ratio)  # ratio = mantissa * 2^exponent, mantissa in [1/2, 1)
    if ratio <= 2**-32:
        return 0, 0
    if mantissa == 0.5:
        return 1, 1 - exponent
    multiplier = round(mantissa * 2**MULTIPLIER_BITS)
    if multiplier == 2**MULTIPLIER_BITS:
        return 1, -exponent
    shift = MULTIPLIER_BITS - exponent
    while shift > MAX_SHIFT:
        multiplier, shift = (multiplier + 1) >> 1, shift - 1
    return multiplier, shift
