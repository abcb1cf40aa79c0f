"""High Granularity Quantization (2405.00645): the number of fractional bits learns from the rounding error itself.

With ``f`` fractional bits, rounded straight-through, and the integer bits that the range needs::

    x_q = 2^-f floor(x 2^f + 1/2)       dx_q/dx = 1       dx_q/df = -ln2 (x_q - x)                          (eq. 5 to 7)
    width b = i + f + signed            2^i = the power of two not below the largest magnitude

Nothing is clipped in the paper, which sets ``i`` from the extremes seen. Ours: of weights the current extremes (frozen
with the width), of activations those of calibration, and what exceeds them saturates, with gradients of zero. The paper
has an ``f`` for each weight; here it is one for each channel, or layer. A channel whose codes are all zero still takes
one bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantunet.quant.bit_width import TrainedWidth
from quantunet.quant.fake_quant import LN2, integer_codes, round_half_up
from quantunet.quant.surrogate import with_gradients


class HgqQuantizer(TrainedWidth):
    """Trained fractional bits; ``top`` = i is measured."""

    top: Tensor

    def __init__(
        self,
        channels: int | None,
        channel_axis: int,
        signed: bool,
        *,
        bit_width: float = 8,
        min_bit_width: int = 1,
        max_bit_width: int = 8,
        channel_widths: bool = True,
    ) -> None:
        super().__init__(
            channels,
            channel_axis,
            signed,
            min_bit_width=min_bit_width,
            max_bit_width=max_bit_width,
            channel_widths=channel_widths,
        )
        self.first_bit_width = bit_width
        self.register_buffer("top", torch.zeros_like(self.width_source).detach())
        self.set_bit_width_(torch.full_like(self.width_source, bit_width))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if self.is_weight and self.training and self.frozen_width is None:
            self._measure(x)
            self.project_()
        scale, width = self.along_channels(self.scale), self.along_channels(self.bit_width)
        y = integer_codes(x.detach(), scale, width, self.signed) * scale
        error = y - x.detach()
        inside = (error.abs() <= scale / 2).to(x.dtype)  # rounding moves a value by half a step at the most
        return with_gradients(y, (inside, x), (-LN2 * error * inside, self.along_channels(self.width_source)))

    @torch.no_grad()
    def _measure(self, x: Tensor) -> None:
        self.top = torch.ceil(torch.log2(self.magnitude(x)))

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:  # noqa: D102
        self._measure(x)
        self.set_bit_width_(torch.full_like(self.width_source, self.first_bit_width))

    @torch.no_grad()
    def raise_scale_(self, smallest: Tensor) -> None:  # noqa: D102
        smallest = smallest.max() if self.channels is None else smallest
        self.width_source.clamp_(max=-torch.ceil(torch.log2(smallest.clamp_min(2**-60))))
        self.project_()

    @property
    def trained_bit_width(self) -> Tensor:  # noqa: D102
        return self.top + self.width_source + int(self.signed)

    def set_bit_width_(self, bit_width: Tensor) -> None:  # noqa: D102
        self.width_source.data.copy_(bit_width - self.top - int(self.signed))

    @property
    def scale(self) -> Tensor:  # noqa: D102
        return torch.exp2(round_half_up(self.top - (self.bit_width - int(self.signed))))

    def scale_parameters(self) -> list[nn.Parameter]:  # noqa: D102
        return []
