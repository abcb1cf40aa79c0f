"""Ternary weights and activations of TernaryNet (Heinrich et al. 2018, 1801.09449).

Weights, by filter, as Ternary Weight Networks (1605.04711) have them::

    delta = 0.7 mean|W|     alpha = mean(|W| where |W| > delta)     W~ = alpha sign(W) [|W| > delta]      dW~/dW = 1

Activations, the ternary hyperbolic tangent, whose slope rises from beta = 3 to 8 over the training::

    y = 1/2 tanh(2 beta x - beta) - 1/2 tanh(-2 beta x - beta)                    in training, with its own gradient
    y = sign(x) [|x| > 0.5]                                                       at inference

At x = +0.5 exactly the hard form gives 1, as ``arith`` rounds ties.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantunet.quant.bit_width import FixedWidth
from quantunet.quant.fake_quant import round_half_up
from quantunet.quant.surrogate import filter_means, with_gradients

DELTA = 0.7
FIRST_BETA, LAST_BETA = 3.0, 8.0
STORED_BITS = 2


def ternary_tanh(x: Tensor, beta: float) -> Tensor:
    """The smooth staircase through -1, 0 and 1, any shape."""
    return 0.5 * torch.tanh(2 * beta * x - beta) - 0.5 * torch.tanh(-2 * beta * x - beta)


def ternary_signs(weight: Tensor, channel_axis: int) -> tuple[Tensor, Tensor]:
    """Signs {-1, 0, 1} of the weight's shape, and alpha (channels,)."""
    shape = [1] * weight.dim()
    shape[channel_axis] = -1
    large = weight.abs() > DELTA * filter_means(weight, channel_axis).view(shape)
    return weight.sign() * large, filter_means(weight, channel_axis, large)


class TernaryWeight(FixedWidth):
    """Codes {-1, 0, 1} in two bits, and a float scale by filter that follows the weights."""

    narrow_range = True
    last_alpha: Tensor

    def __init__(self, channels: int, channel_axis: int) -> None:
        super().__init__(channels, channel_axis, True, STORED_BITS)
        self.register_buffer("last_alpha", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        signs, self.last_alpha = ternary_signs(x.detach(), self.channel_axis)
        return with_gradients(signs * self.along_channels(self.last_alpha), (1.0, x))

    @property
    def scale(self) -> Tensor:
        """Alpha of the weight quantized last."""
        return self.last_alpha


class TernaryActivation(FixedWidth):
    """Ternary tanh in training, its hard form in evaluation: signed codes {-1, 0, 1} of step 1."""

    narrow_range = True
    one: Tensor

    def __init__(self) -> None:
        super().__init__(None, 1, True, STORED_BITS)
        self.beta = FIRST_BETA
        self.register_buffer("one", torch.ones(()))

    def set_progress_(self, share: float) -> None:  # noqa: D102
        self.beta = FIRST_BETA + (LAST_BETA - FIRST_BETA) * share

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return ternary_tanh(x, self.beta) if self.training else round_half_up(x).clamp(-1, 1)

    @property
    def scale(self) -> Tensor:  # noqa: D102
        return self.one
