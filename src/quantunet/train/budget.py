"""Budgets of size, and the controller that steers the weight of the bit-width term so that one is met."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from quantunet.errors import UserError

TOLERANCE = 0.03
"""A budget counts as met when the final model is within this share of it."""


@dataclass(frozen=True)
class Budget:
    """``amount`` of average weight bits over parameters, or of bytes of the model file."""

    kind: Literal["bits", "file_bytes"]
    amount: float

    def __str__(self) -> str:
        return f"{self.amount:g} bit" if self.kind == "bits" else f"{self.amount / 1024:g} KiB"


def parse_budget(text: str) -> Budget:
    """Read '3bit', '2.5 bits', '64KiB', '1MiB', '60000B'.

    Raises:
        UserError: if the text is no budget, or outside what widths of 1 to 8 bits can give.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(bits?|b|kib|kb|mib|mb)\s*", text, re.IGNORECASE)
    if match is None:
        raise UserError(f"budget {text!r} is neither a width such as '3bit' nor a size such as '64KiB'")
    amount, unit = float(match[1]), match[2].lower()
    if unit.startswith("bit"):
        if not 0 < amount <= 8:
            raise UserError(f"budget {text!r}: an average width lies above 0 and is 8 bits at the most")
        return Budget("bits", amount)
    factor = {"b": 1, "kb": 1000, "kib": 1024, "mb": 1000**2, "mib": 1024**2}[unit]
    if amount <= 0:
        raise UserError(f"budget {text!r}: a model cannot have {amount:g} bytes")
    return Budget("file_bytes", amount * factor)


@dataclass
class BudgetController:
    """Dual ascent on the bit term's weight, along a target that falls geometrically from the start to the budget.

    At each step the weight is ``exp(log_weight)``; ``log_weight`` rises in proportion to how far, in octaves, the
    measured size lies above the target of that step, and to how fast it moves away from it.
    """

    start: float
    target: float
    descent_steps: int
    log_weight: float = math.log(0.3)
    previous_error: float = 0.0

    INTEGRAL = 0.05
    """Change of log_weight by step for one octave of error."""
    PROPORTIONAL = 4.0
    LIMITS = (math.log(1e-4), math.log(30.0))

    def planned(self, step: int) -> float:
        """The size aimed at after ``step`` steps."""
        share = min(1.0, (step + 1) / self.descent_steps)
        return self.start * (self.target / self.start) ** share

    def update(self, step: int, measured: float) -> float:
        """Take the size after ``step`` steps; return the weight of the bit term for the next one."""
        error = math.log2(measured / self.planned(step))
        self.log_weight += self.INTEGRAL * error + self.PROPORTIONAL * (error - self.previous_error)
        self.log_weight = min(max(self.log_weight, self.LIMITS[0]), self.LIMITS[1])
        self.previous_error = error
        return math.exp(self.log_weight)


def check_feasible(budget: Budget, smallest: float) -> None:
    """Refuse a budget that even the narrowest widths would exceed; ``smallest`` is the size at those.

    Raises:
        UserError: if the budget is impossible for this network.
    """
    if budget.amount < smallest:
        at_least = Budget(budget.kind, smallest)
        raise UserError(
            f"budget {budget}: this network needs {at_least} at the least: allow more, or train a smaller one"
        )


def rounding_shift(size: Callable[[float], float], target: float) -> float:
    """The ``shift`` for which freezing at ``floor(width + shift)`` comes nearest below ``target``.

    ``size(shift)`` grows with the shift; plain rounding is 0.5, and is kept where it lies within 1 % below the target.
    Bisection to 1e-4 over [-8, 8], so that the budget is met even where the descent fell short or went too far.
    """
    if target * 0.99 <= size(0.5) <= target:
        return 0.5
    low, high = -8.0, 8.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        if size(middle) <= target:
            low = middle
        else:
            high = middle
    return low
