"""Random networks of quantized layers, for the tests that compare training with the integers it is lowered to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from quantunet.nn import layers
from quantunet.nn.prepare import activation_quantizers, assign_quantizers_, calibrate_, weight_quantizers
from quantunet.nn.unet import UNet
from quantunet.quant.quantizers import LearnedPowerOfTwo

UPSAMPLINGS = ("nearest", "bilinear", "transposed")


class RandomLayers(nn.Module):
    """A chain of convolutions 1x1 and 3x3 of any stride and channel count, with one skip over a halved resolution."""

    def __init__(self, rng: np.random.Generator, in_channels: int, out_channels: int) -> None:
        super().__init__()
        c = [int(value) for value in rng.integers(1, 10, 5)]
        kernel = [int(value) for value in rng.choice([1, 3], 5)]
        self.input = layers.InputLayer(in_channels)
        self.first = layers.ConvLayer(in_channels, c[0], kernel=kernel[0], norm=False)
        down = layers.MaxPool() if rng.random() < 0.5 else layers.ConvLayer(c[0], c[0], kernel=3, stride=2, norm=False)
        self.down: nn.Module = down
        self.below = layers.ConvLayer(c[0], c[1], kernel=kernel[1], norm=False)
        kind = rng.choice(UPSAMPLINGS)
        self.up: nn.Module = layers.UpsampleNearest()
        if kind == "bilinear":
            self.up = layers.UpsampleBilinear()
        if kind == "transposed":
            self.up = layers.ConvLayer(c[1], c[2], transposed=True, norm=False)
        self.concat = layers.Concat()
        joined = c[0] + (c[2] if kind == "transposed" else c[1])
        self.last = layers.ConvLayer(joined, c[3], kernel=kernel[2], norm=False)
        self.head = layers.ConvLayer(c[3], out_channels, kernel=kernel[3], norm=False, relu=False)
        self.size_multiple = 2

    def concat_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.first, self.below if isinstance(self.up, layers.UpsampleNearest) else self.up)]

    def forward(self, image: Tensor) -> Tensor:
        return self.logits(image).values

    def logits(self, image: Tensor) -> layers.Activation:
        first = self.first(self.input(image))
        return self.head(self.last(self.concat(first, self.up(self.below(self.down(first))))))


def random_network(seed: int) -> tuple[nn.Module, np.ndarray]:
    """A quantized network with random widths 1 to 8, scales and biases, and images (n, c, h, w) for it.

    The last image reaches twice the input quantizer's range.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    in_channels, classes = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    if rng.random() < 0.5:
        network: nn.Module = RandomLayers(rng, in_channels, classes)
    else:
        base, levels = int(rng.integers(1, 6)), int(rng.integers(2, 4))
        network = UNet(in_channels, classes, base, levels, str(rng.choice(UPSAMPLINGS)))  # pyright: ignore
        for layer in layers.conv_layers(network).values():
            layer.norm = None
    for layer in layers.conv_layers(network).values():
        layer.conv.bias = nn.Parameter(torch.randn(layer.conv.out_channels) * 0.3)
    signed_hidden = bool(rng.random() < 0.2)  # a signed hidden tensor has no ReLU in it
    assign_quantizers_(
        network,  # pyright: ignore[reportArgumentType]
        lambda channels, axis: LearnedPowerOfTwo(channels, axis, True, group_size=_group_size(rng.random())),
        lambda signed: LearnedPowerOfTwo(None, 1, signed or signed_hidden),
    )
    multiple = network.size_multiple
    height, width = (multiple * int(rng.integers(1, 16 // multiple + 1)) for _ in range(2))
    images = rng.normal(0, 1, (3, in_channels, height, width)).astype(np.float32)
    calibrate_(network, [torch.from_numpy(images)])  # pyright: ignore[reportArgumentType]
    _scramble(network, rng)
    limit = 2 * float(network.input.activation_quantizer.scale) * 128
    images[2] = rng.uniform(-limit, limit, images[2].shape)
    return network.eval(), images


def _by_channel(values: np.ndarray, quantizer: LearnedPowerOfTwo) -> np.ndarray:
    """``values`` of the trainable widths, for each channel that has one of them."""
    return values.repeat(quantizer.group_size)[: quantizer.channels] if values.ndim else values


def _group_size(draw: float) -> int | None:
    """How many channels share a width: mostly one, else two, three, or all."""
    return 1 if draw < 0.6 else 2 if draw < 0.7 else 3 if draw < 0.8 else None


@torch.no_grad()
def _scramble(network: nn.Module, rng: np.random.Generator) -> None:
    """Trained-looking ranges: real-valued widths and exponents, away from what calibration chose."""
    for quantizer in (*weight_quantizers(network).values(), *activation_quantizers(network).values()):
        assert isinstance(quantizer, LearnedPowerOfTwo)
        width = rng.uniform(0.5, 8.49, quantizer.width.shape)
        loss = 8 - width  # fewer bits over the same range, or less of it
        moved = rng.uniform(-1.5, 1.5, quantizer.range_exponent.shape)
        quantizer.width.copy_(torch.as_tensor(width))
        quantizer.range_exponent.add_(torch.as_tensor(moved - _by_channel(loss, quantizer) * rng.uniform(0, 1)))
