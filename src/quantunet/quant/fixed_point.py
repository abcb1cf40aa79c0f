"""Fixed point Q_{i.f} of "U-Net Fixed-Point Quantization for Medical Image Segmentation" (1908.01073), two readings.

As published, with ``i`` integer and ``f`` fractional bits::

    quantize(x, n)            = round(clamp(x, 0, 2^n - 1) 2^n) / 2^n
    to_fixed_point(v, i, f)   = sign(v) quantize(|v| - floor|v|, f) + sign(v) quantize(floor|v|, i)          dy/dv = 1

So the integer part of Q_{0.f} is dropped and |w| > 1 wraps; Q_{i.0} truncates towards zero, up to 2^i - 1; Q_{0.4} has
33 levels, not 16, and takes codes of 6 bits. Ties of ``round`` go away from zero.

``saturate``, the textbook's Q format beside it::

    y = 2^-f clamp(floor(v 2^f + 1/2), -2^(i+f), 2^(i+f) - 1)   (from 0 where unsigned)      dy/dv = 1 inside, 0 outside
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantunet.formats import smallest_format
from quantunet.quant.bit_width import FixedWidth
from quantunet.quant.fake_quant import round_half_up
from quantunet.quant.surrogate import with_gradients


def quantize(x: Tensor, bits: int) -> Tensor:
    """The paper's ``quantize(x, n)``, for x >= 0."""
    return round_half_up(x.clamp(0, 2**bits - 1) * 2**bits) / 2**bits


def to_fixed_point(value: Tensor, integer_bits: int, fractional_bits: int) -> Tensor:
    """The paper's ``to_fixed_point(v, i, f)``, any shape."""
    magnitude = value.abs()
    whole = torch.floor(magnitude)
    return value.sign() * (quantize(magnitude - whole, fractional_bits) + quantize(whole, integer_bits))


def code_limits(integer_bits: int, fractional_bits: int, signed: bool, saturate: bool) -> tuple[int, int]:
    """Smallest and largest code, in steps of ``2^-f``."""
    top = 2 ** (integer_bits + fractional_bits)
    if saturate:
        return (-top if signed else 0), top - 1
    # the fraction may round up to one whole, beside a whole part of up to 2^i - 1; without fraction it is cut off
    largest = top if fractional_bits else top - 1
    return (-largest if signed else 0), largest


def levels(integer_bits: int, fractional_bits: int, signed: bool, saturate: bool) -> int:
    """How many values Q_{i.f} really has."""
    low, high = code_limits(integer_bits, fractional_bits, signed, saturate)
    return high - low + 1


class FixedPointQuantizer(FixedWidth):
    """Q_{i.f} on a tensor; unsigned ones, after a ReLU, take its place.

    Raises:
        ValueError: if there is neither an integer nor a fractional bit.
    """

    def __init__(
        self,
        channels: int | None,
        channel_axis: int,
        signed: bool,
        *,
        integer_bits: int,
        fractional_bits: int,
        saturate: bool = False,
    ) -> None:
        low, high = code_limits(integer_bits, fractional_bits, signed, saturate)
        if high < 1:
            raise ValueError(f"Q{integer_bits}.{fractional_bits} has no value but zero: give it a bit")
        super().__init__(channels, channel_axis, signed, smallest_format(low, high).bit_width)
        self.integer_bits, self.fractional_bits, self.saturate = integer_bits, fractional_bits, saturate
        self.limits = low, high
        self.narrow_range = signed and low == 1 - 2 ** (int(self.stored_bit_width) - 1)
        self.truncates = not saturate and fractional_bits == 0
        self.is_clamped = saturate or (self.truncates and not signed)
        self.register_buffer("step", torch.tensor(2.0**-fractional_bits))

    step: Tensor

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if self.saturate:
            low, high = (limit * 2.0**-self.fractional_bits for limit in self.limits)
            y = (round_half_up(x.detach() / self.step) * self.step).clamp(low, high)
            return with_gradients(y, (1.0, x.clamp(low, high)))
        if not self.signed:
            x = torch.relu(x)
        return with_gradients(to_fixed_point(x.detach(), self.integer_bits, self.fractional_bits), (1.0, x))

    @property
    def scale(self) -> Tensor:  # noqa: D102
        return self.step

    @property
    def levels(self) -> int:
        """How many values there are."""
        return levels(self.integer_bits, self.fractional_bits, self.signed, self.saturate)
