"""Interpolation between neighbouring widths: BitPruning (2002.03090, eq. 3) and FracBits (2007.02017, eq. 4).

With ``n`` the integer below the real-valued width ``b``, and ``a = b - n``::

    y = (1 - a) Q(x, n) + a Q(x, n + 1)          dy/db = Q(x, n + 1) - Q(x, n)

The papers take min and max of the tensor (BitPruning) or a learned clip (FracBits) as the range. Ours is a trained
power of two ``2^top``: ``Q(x, n)`` has the step ``2^(top - n + signed)`` and two's complement or unsigned codes, so
that the frozen network lowers exactly. While ``b`` is no integer, y lies on no single grid; freezing makes it one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantunet.quant.bit_width import TrainedWidth
from quantunet.quant.fake_quant import fake_quantize, round_half_up


class InterpolatedQuantizer(TrainedWidth):
    """A mixture of the two widths beside the trained one, over one power-of-two range."""

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
        self.set_bit_width_(torch.full_like(self.width_source, bit_width))
        self.top = nn.Parameter(torch.zeros_like(self.width_source))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if self.frozen_width is not None or self.min_bit_width == self.max_bit_width:
            return self._quantize(x, self.bit_width)
        upper = self._upper_width()
        above = self.along_channels(self.trained_bit_width - (upper - 1))  # in (0, 1]
        return (1 - above) * self._quantize(x, upper - 1) + above * self._quantize(x, upper)

    def _upper_width(self) -> Tensor:
        """The smallest integer not below the width: the integers beside it are this one and the one before."""
        return torch.ceil(self.width_source.detach()).clamp(self.min_bit_width + 1, self.max_bit_width)

    def _quantize(self, x: Tensor, width: Tensor) -> Tensor:
        exponent = self.top - (width - int(self.signed))
        return fake_quantize(x, self.along_channels(exponent), self.along_channels(width), self.signed)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:  # noqa: D102
        self.top.copy_(torch.ceil(torch.log2(self.magnitude(x))))

    @torch.no_grad()
    def raise_scale_(self, smallest: Tensor) -> None:  # noqa: D102
        smallest = smallest.max() if self.channels is None else smallest
        least = torch.ceil(torch.log2(smallest)) + self.bit_width - int(self.signed)
        self.top.copy_(torch.maximum(self.top, least))

    @property
    def trained_bit_width(self) -> Tensor:  # noqa: D102
        return self.width_source

    def set_bit_width_(self, bit_width: Tensor) -> None:  # noqa: D102
        self.width_source.data.copy_(bit_width)

    @property
    def scale(self) -> Tensor:
        """Step of the finer of the two grids."""
        is_single = self.frozen_width is not None or self.min_bit_width == self.max_bit_width
        width = self.bit_width if is_single else self._upper_width()
        return torch.exp2(round_half_up(self.top.detach() - (width - int(self.signed))))

    def scale_parameters(self) -> list[nn.Parameter]:  # noqa: D102
        return [self.top]
