"""The layers of a U-Net. Each works on an ``Activation`` and is float or quantized by the quantizers it holds.

They are the leaves that ``lower.py`` knows: any network made of them, traced by torch.fx, becomes an IntegerGraph.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantunet.formats import BIAS
from quantunet.quant.fake_quant import round_ste
from quantunet.quant.quantizers import Quantizer


class Activation(NamedTuple):
    """A tensor (n, c, h, w) and, where it is quantized, the step between its codes (0-dimensional)."""

    values: Tensor
    scale: Tensor | None = None


class InputLayer(nn.Module):
    """Where the image enters, with ``channels`` channels: quantized to its codes, or passed on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.activation_quantizer: Quantizer | None = None
        self.pixels = 1
        """Height x width of the last image."""

    def forward(self, x: Tensor) -> Activation:  # noqa: D102
        self.pixels = x.shape[2] * x.shape[3]
        return _activate(x, self.activation_quantizer)


class ConvLayer(nn.Module):
    """Convolution (or transposed convolution 2x2), batch norm, ReLU; quantized: convolution, then codes.

    The unsigned activation quantizer clamps at zero and so takes the place of the ReLU. The bias is rounded to the
    accumulator's own step, scale of the input x scale of the weight, hence is an integer there, unless
    ``integer_bias`` is set to False.

    Args:
        in_channels, out_channels: channels.
        kernel: size of the kernel; "same" zero padding. Ignored where ``transposed``.
        stride: stride of the convolution.
        transposed: kernel 2x2, stride 2, doubles height and width.
        norm: batch norm between convolution and ReLU; the convolution then has no bias of its own.
        norm_after_relu: batch norm after the ReLU instead: it cannot be folded, so such a layer has no integer form.
        relu: False for the last layer, whose output are logits.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        transposed: bool = False,
        norm: bool = True,
        norm_after_relu: bool = False,
        relu: bool = True,
    ) -> None:
        super().__init__()
        bias = not norm or norm_after_relu
        self.conv: nn.Conv2d | nn.ConvTranspose2d = (
            nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=bias)
            if transposed
            else nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=bias)
        )
        self.norm: nn.BatchNorm2d | None = nn.BatchNorm2d(out_channels) if norm else None
        self.norm_after_relu = norm and norm_after_relu
        self.relu = relu
        self.integer_bias = True
        self.weight_quantizer: Quantizer | None = None
        self.activation_quantizer: Quantizer | None = None
        self.output_pixels = 0
        """Height x width of the last output: for counting multiply-accumulates."""
        self.float_weights = self.conv.weight.numel()
        """Number of weights as built, which the removal of channels does not change."""

    @property
    def transposed(self) -> bool:
        """Whether this is a transposed convolution."""
        return isinstance(self.conv, nn.ConvTranspose2d)

    @property
    def out_channel_axis(self) -> int:
        """Axis of the output channels in the weight: 1 for a transposed convolution, else 0."""
        return 1 if self.transposed else 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates by image of the size last seen."""
        return self._macs(self.conv.weight.numel())

    @property
    def float_macs(self) -> int:
        """The same of the layer as built."""
        return self._macs(self.float_weights)

    def _macs(self, weights: int) -> int:
        return weights * self.output_pixels // (4 if self.transposed else 1)

    def resize_(self) -> None:
        """Take the numbers of channels from the weight, after channels were removed from it."""
        shape = self.conv.weight.shape
        self.conv.out_channels, self.conv.in_channels = shape[self.out_channel_axis], shape[1 - self.out_channel_axis]
        if self.weight_quantizer is not None and self.weight_quantizer.channels is not None:
            self.weight_quantizer.channels = self.conv.out_channels

    def forward(self, x: Activation) -> Activation:  # noqa: D102
        weight, bias = self.conv.weight, self.conv.bias
        if self.weight_quantizer is not None:
            weight = self.weight_quantizer(weight)
            if bias is not None and x.scale is not None and self.integer_bias:
                step = x.scale * self.weight_quantizer.scale
                bias = round_ste(bias / step).clamp(BIAS.q_min, BIAS.q_max) * step
            if bias is not None and self.weight_quantizer.can_vanish:
                bias = torch.where(self.weight_quantizer.bit_width > 0, bias, 0.0)
        if self.transposed:
            y = F.conv_transpose2d(x.values, weight, bias, stride=2)
        else:
            y = F.conv2d(x.values, weight, bias, stride=self.conv.stride, padding=self.conv.padding)  # pyright: ignore
        if self.norm is not None:
            y = self.norm(F.relu(y) if self.norm_after_relu else y)
        self.output_pixels = y.shape[2] * y.shape[3]
        if self.relu and self.activation_quantizer is None and not self.norm_after_relu:
            return Activation(F.relu(y, inplace=True))
        return _activate(y, self.activation_quantizer)


class MaxPool(nn.Module):
    """Maximum over 2x2 blocks; codes stay codes."""

    def forward(self, x: Activation) -> Activation:  # noqa: D102
        return Activation(F.max_pool2d(x.values, 2), x.scale)


class UpsampleNearest(nn.Module):
    """Every pixel becomes a 2x2 block; codes stay codes."""

    def forward(self, x: Activation) -> Activation:  # noqa: D102
        return Activation(F.interpolate(x.values, scale_factor=2, mode="nearest"), x.scale)


class UpsampleBilinear(nn.Module):
    """Bilinear x2, half-pixel centres; its sixteenths of a step are rounded to codes again."""

    def __init__(self) -> None:
        super().__init__()
        self.activation_quantizer: Quantizer | None = None

    def forward(self, x: Activation) -> Activation:  # noqa: D102
        y = F.interpolate(x.values, scale_factor=2, mode="bilinear", align_corners=False)
        return _activate(y, self.activation_quantizer)


class Concat(nn.Module):
    """Channels of both inputs, which share one quantizer, so that the codes need no rescaling."""

    def forward(self, a: Activation, b: Activation) -> Activation:  # noqa: D102
        return Activation(torch.cat((a.values, b.values), dim=1), a.scale)


def _activate(y: Tensor, quantizer: Quantizer | None) -> Activation:
    if quantizer is None:
        return Activation(y)
    return Activation(quantizer(y), quantizer.scale)


def conv_layers(network: nn.Module) -> dict[str, ConvLayer]:
    """All layers with weights, by name, in the order of the network."""
    return {name: module for name, module in network.named_modules() if isinstance(module, ConvLayer)}
