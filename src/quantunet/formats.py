"""Integer number formats: the only place where ``q_min`` and ``q_max`` are written down."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BIT_WIDTH = 32


@dataclass(frozen=True, order=True)
class IntFormat:
    """A two's-complement or unsigned integer of ``bit_width`` bits.

    One signed bit holds {-1, 0}, one unsigned bit holds {0, 1}. ``narrow_range`` drops the most negative
    code of a signed format, which makes the range symmetric.

    Raises:
        ValueError: if ``bit_width`` is not in 1..32, or a one-bit or unsigned format asks for a narrow range.
    """

    bit_width: int
    signed: bool
    narrow_range: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bit_width <= MAX_BIT_WIDTH:
            raise ValueError(f"bit_width {self.bit_width} is not in 1..{MAX_BIT_WIDTH}")
        if self.narrow_range and (not self.signed or self.bit_width == 1):
            raise ValueError(f"narrow_range needs a signed format of 2 bits or more, not {self}")

    @property
    def q_min(self) -> int:
        """Smallest code."""
        return -(1 << (self.bit_width - 1)) + int(self.narrow_range) if self.signed else 0

    @property
    def q_max(self) -> int:
        """Largest code."""
        return (1 << (self.bit_width - int(self.signed))) - 1

    @property
    def storage_bit_width(self) -> int:
        """Width of the machine integer that holds one unpacked code: 8, 16 or 32 bits."""
        return next(width for width in (8, 16, 32) if self.bit_width <= width)

    @property
    def c_type(self) -> str:
        """Name of the C99 type that holds one unpacked code."""
        return f"{'int' if self.signed else 'uint'}{self.storage_bit_width}_t"

    def __str__(self) -> str:
        return f"{'s' if self.signed else 'u'}{self.bit_width}{'n' if self.narrow_range else ''}"

    @classmethod
    def parse(cls, text: str) -> IntFormat:
        """Read what ``str`` wrote: ``u4``, ``s8``, ``s8n``.

        Raises:
            ValueError: if the text names no format.
        """
        narrow_range = text.endswith("n")
        digits = text[1:-1] if narrow_range else text[1:]
        if text[:1] not in ("s", "u") or not (digits.isascii() and digits.isdigit()) or len(digits) > 2:
            raise ValueError(f"{text!r} is no integer format such as 'u4' or 's8'")
        return cls(int(digits), text[0] == "s", narrow_range)


INT32 = IntFormat(32, True)
"""The accumulator."""

BIAS = IntFormat(25, True, narrow_range=True)
"""Bias codes in training: every one of them is exact in float32, and they leave room for the products in int32."""


def smallest_format(low: int, high: int) -> IntFormat:
    """The narrowest format that holds every integer in [low, high]; unsigned where ``low >= 0``.

    Raises:
        ValueError: if more than 32 bits are needed.
    """
    signed = low < 0
    for bit_width in range(1, MAX_BIT_WIDTH + 1):
        candidate = IntFormat(bit_width, signed)
        if candidate.q_min <= low and high <= candidate.q_max:
            return candidate
    raise ValueError(f"no format of {MAX_BIT_WIDTH} bits holds [{low}, {high}]")
