"""Binary weights and activations: the BNN baseline of 1908.01073, after Courbariaux et al. (1602.02830).

::

    y = sign(x)       dy/dx = [|x| <= 1]

``sign(0) = 0``, as torch has it: a code is one of -1, 0, 1 and takes two bits as stored; a weight is never exactly 0,
so one bit would hold it. ``by_filter`` scales the signs of a filter by alpha = mean|w| (XNOR-Net, 1603.05279): where
batch norm has been folded into the weights, its gain lives in their magnitudes, and the bias is in units of it. The
signs that leave the layer do not depend on alpha, so it is rounded to a power of two: sums are then exact, zero too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantunet.quant.bit_width import FixedWidth
from quantunet.quant.fake_quant import round_half_up
from quantunet.quant.surrogate import filter_means, with_gradients

STORED_BITS = 2


def masked_sign(x: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """``scale * sign(x)`` with the gradient ``[|x| <= 1]``, any shape."""
    return with_gradients(x.sign() * scale, ((x.abs() <= 1).to(x.dtype), x))


class BinaryWeight(FixedWidth):
    """Signs, times the power of two nearest to mean|w| of the filter where ``by_filter``."""

    narrow_range = True
    last_alpha: Tensor

    def __init__(self, channels: int, channel_axis: int, *, by_filter: bool = True) -> None:
        super().__init__(channels, channel_axis, True, STORED_BITS)
        self.by_filter = by_filter
        self.register_buffer("last_alpha", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if self.by_filter:
            self.last_alpha = torch.exp2(round_half_up(torch.log2(filter_means(x.detach(), self.channel_axis))))
        return masked_sign(x, self.along_channels(self.last_alpha))

    @property
    def scale(self) -> Tensor:
        """Alpha of the weight quantized last, or ones."""
        return self.last_alpha


class BinaryActivation(FixedWidth):
    """The sign, instead of a ReLU."""

    narrow_range = True
    is_sign = True
    one: Tensor

    def __init__(self) -> None:
        super().__init__(None, 1, True, STORED_BITS)
        self.register_buffer("one", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return masked_sign(x)

    @property
    def scale(self) -> Tensor:  # noqa: D102
        return self.one
