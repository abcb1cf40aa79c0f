"""Requantization as thresholds: a code is the number of integers that the accumulator has reached."""

from __future__ import annotations

import numpy as np

from quantunet.arith import Int64
from quantunet.ir.graph import Requantize
from quantunet.ir.ranges import Interval


def integer_thresholds(stage: Requantize, acc: Interval) -> Int64:
    """``(c, q_max - q_min)``, ascending by row: ``code = q_min + number of thresholds <= acc``, exactly.

    The threshold of code q is the smallest ``acc`` with ``floor(acc * multiplier / 2^shift + 1/2) >= q``. Any
    multiplier and any shift is exact. Thresholds that no accumulator tells apart are drawn to its bounds.

    Args:
        acc: bounds of the accumulator by channel, both inclusive.
    """
    codes = range(stage.output.q_min + 1, stage.output.q_max + 1)
    rows = [
        [min(max(_smallest(code, int(multiplier), int(shift), int(low), int(high)), int(low)), int(high) + 1)
         for code in codes]
        for multiplier, shift, low, high in zip(stage.multiplier, stage.shift, acc.low, acc.high, strict=True)
    ]  # fmt: skip
    return np.array(rows, np.int64).reshape(len(stage.shift), len(codes))


def _smallest(code: int, multiplier: int, shift: int, low: int, high: int) -> int:
    """The smallest accumulator whose code is ``code`` or more; Python's integers, which do not overflow."""
    if multiplier == 0:
        return low if code <= 0 else high + 1
    if shift <= 0:
        return -((-code) >> -shift)
    return -((-((code << shift) - (1 << (shift - 1)))) // multiplier)
