"""Budgets of size and cost, and the controller that steers the weight of a loss term so that one is met."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from quantunet.errors import UserError

TOLERANCE = 0.03
"""A budget counts as met when the final model is within this share of it."""

Kind = Literal["bits", "file", "flash", "ram", "macs", "bops", "lut", "latency"]
"""Average width over the float network's weights; bytes of the model file; bytes of the C code with its constants;
bytes of the C code's static memory; multiply-accumulates of an image; those times weight bits times activation bits;
look-up tables of the Verilog design, by formula; milliseconds of the host engine, by formula."""
CHANNEL_KINDS = ("ram", "macs", "latency")
"""What only the removal of channels makes smaller."""
PRODUCT_POWERS: Mapping[Kind, float] = {"bops": 1.0, "lut": 0.75}
"""What falls with a power of bit operations, a product of operations and both widths: what a design has beside its
products does not shrink with widths."""
COUNTED_KINDS = ("macs", "bops", "lut")
"""What is counted, not measured in bits or bytes."""

_BYTES = {"b": 1, "kb": 1000, "kib": 1024, "mb": 1000**2, "mib": 1024**2}
_TIMES_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_COUNTS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_TOKEN = re.compile(r"\s*(?:(?P<kind>[a-z]+)\s*=\s*)?(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>[a-z]*)\s*(?:[,\s]|$)")


@dataclass(frozen=True)
class Budget:
    """``amount`` of what ``kind`` counts: bits, bytes, operations, tables, or milliseconds."""

    kind: Kind
    amount: float

    @property
    def slug(self) -> str:
        """As part of a file's name: '2.5bit', 'flash64KiB'."""
        return str(self).replace(" ", "")

    def __str__(self) -> str:
        if self.kind == "bits":
            return f"{self.amount:.4g} bit"
        if self.kind in COUNTED_KINDS:
            unit = next((unit for unit in "TGMk" if self.amount >= _COUNTS[unit.lower()]), "")
            return f"{self.kind} {self.amount / _COUNTS[unit.lower()]:.4g}{unit}"
        if self.kind == "latency":
            return f"latency {self.amount:.4g} ms"
        size = f"{self.amount / 1024:.4g} KiB"
        return size if self.kind == "file" else f"{self.kind} {size}"


def parse_budgets(text: str) -> tuple[Budget, ...]:
    """Read '3bit', '64KiB', 'flash=64KiB ram=128KiB', 'macs=50M, 1.5bit'; a size without a name is the file's.

    Raises:
        UserError: if the text is no budget, names one twice, or lies outside what widths up to 8 bits can give.
    """
    budgets: dict[str, Budget] = {}
    position, lower = 0, text.lower()
    while position < len(lower) or not budgets:
        match = _TOKEN.match(lower, position)
        if match is None:
            raise UserError(
                f"budget {text!r} is neither a width such as '3bit' nor a size such as '64KiB', nor several such as "
                "'flash=64KiB ram=128KiB macs=50M', 'lut=20k' or 'latency=5ms'"
            )
        budget = _budget(match["kind"], float(match["amount"]), match["unit"], text)
        if budget.kind in budgets:
            raise UserError(f"budget {text!r} names {budget.kind} twice: leave one")
        budgets[budget.kind] = budget
        position = match.end()
    return tuple(budgets.values())


def _budget(kind: str | None, amount: float, unit: str, text: str) -> Budget:
    if unit in ("bit", "bits") and kind in (None, "bits"):
        if not 0 < amount <= 8:
            raise UserError(f"budget {text!r}: an average width lies above 0 and is 8 bits at the most")
        return Budget("bits", amount)
    if kind is not None and kind not in get_args(Kind):
        raise UserError(f"budget {text!r}: {kind!r} is unknown: name one of {', '.join(get_args(Kind))}")
    factors = _COUNTS if kind in COUNTED_KINDS else _TIMES_MS if kind == "latency" else _BYTES
    if unit not in factors or kind == "bits":
        wanted = {"macs": "macs=50M", "bops": "bops=2G", "lut": "lut=20k", "latency": "latency=5ms"}.get(
            kind or "", "64KiB"
        )
        raise UserError(f"budget {text!r} is neither a width such as '3bit' nor a size such as {wanted!r}")
    if amount <= 0:
        raise UserError(f"budget {text!r}: no model has a size of {amount:g}")
    return Budget(kind or "file", amount * factors[unit])  # pyright: ignore[reportArgumentType]


@dataclass
class BudgetController:
    """Dual ascent on a term's weight, along a target that falls geometrically from the start to the budget.

    ``log_weight`` rises in proportion to how far, in octaves, the measured size lies above the target of that step, and
    to how fast it moves away from it. The weight is its exponential, and fades to nothing as the size falls below the
    target by a fifth of an octave: bits that are lost below the target, and channels, are hard to win back.
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
    FADING = 0.2
    """Octaves below the target at which the term is off."""

    def planned(self, step: int) -> float:
        """The size aimed at after ``step`` steps."""
        share = min(1.0, (step + 1) / self.descent_steps)
        return self.start * (self.target / self.start) ** share

    def error(self, step: int, measured: float, fixed: float = 0.0) -> float:
        """Octaves by which the size lies above the target; ``fixed`` is the part of both that widths do not change."""
        smallest = 0.01 * self.target
        return math.log2(max(measured - fixed, smallest) / max(self.planned(step) - fixed, smallest))

    def update(self, step: int, measured: float, fixed: float = 0.0) -> float:
        """Take the size after ``step`` steps; return the weight of the term for the next one."""
        error = self.error(step, measured, fixed)
        self.log_weight += self.INTEGRAL * error + self.PROPORTIONAL * (error - self.previous_error)
        self.log_weight = min(max(self.log_weight, self.LIMITS[0]), self.LIMITS[1])
        self.previous_error = error
        return math.exp(self.log_weight) * min(max(1 + error / self.FADING, 0.0), 1.0)


def check_feasible(budget: Budget, smallest: float) -> None:
    """Refuse a budget that even the narrowest widths would exceed; ``smallest`` is the size at those.

    Raises:
        UserError: if the budget is impossible for this network.
    """
    if budget.amount < smallest:
        at_least = Budget(budget.kind, smallest)
        raise UserError(
            f"budget {budget}: this network needs {at_least} at the least: allow more, train a smaller one, or let "
            "channels vanish (quantizer.weight.min_bit_width: 0)"
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
