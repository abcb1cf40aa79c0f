"""The float U-Net that every peer quantizes with its own tools: plain torch, for environments without quantunet."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TwoConvs(nn.Sequential):
    """Two 3x3 convolutions, each with a ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
            nn.ReLU(),
        )


class ClassicUNet(nn.Module):
    """Channels double at each of ``levels - 1`` halvings; up by transposed convolutions, or by repetition."""

    def __init__(self, base_channels: int, levels: int, upsampling: str) -> None:
        super().__init__()
        channels = [base_channels << level for level in range(levels)]
        self.encoders = nn.ModuleList(
            TwoConvs(before, after) for before, after in zip([1, *channels[:-1]], channels, strict=True)
        )
        pairs = list(zip(channels[1:], channels[:-1], strict=True))[::-1]
        is_transposed = upsampling == "transposed"
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(low, high, 2, stride=2) if is_transposed else nn.Upsample(scale_factor=2, mode="nearest")
            for low, high in pairs
        )
        self.decoders = nn.ModuleList(TwoConvs(high + (high if is_transposed else low), high) for low, high in pairs)
        self.head = nn.Conv2d(base_channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 1, h, w) of images (n, 1, h, w)."""
        skips = []
        for index, encoder in enumerate(self.encoders):
            x = encoder(x)
            if index < len(self.encoders) - 1:
                skips.append(x)
                x = nn.functional.max_pool2d(x, 2)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


def build(base_channels: int, levels: int, upsampling: str) -> ClassicUNet:
    """The network with fixed random weights, in evaluation mode."""
    torch.manual_seed(0)
    return ClassicUNet(base_channels, levels, upsampling).eval()


def calibration_images(size: int) -> list[Tensor]:
    """Four images (1, 1, size, size) of noise between 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(1, 1, size, size, generator=generator) for _ in range(4)]
