"""The U-Net (Ronneberger et al. 2015), float or quantized: one file, read from top to bottom.

::

    image ─ enc0 ──────────────── concat ─ dec0 ─ head ─ logits
              └pool─ enc1 ── concat ─ dec1 ─┘up
                       └pool─ enc2 ─┘up                     (levels = 3)

Each ``enc`` and ``dec`` is two convolutions 3x3. ``levels=5, base_channels=64, upsampling="transposed"`` is the classic
network of 23 layers: 18 convolutions 3x3, 4 up-convolutions, one 1x1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from quantunet.nn.layers import Activation, Concat, ConvLayer, InputLayer, MaxPool, UpsampleBilinear, UpsampleNearest

Upsampling = Literal["nearest", "bilinear", "transposed"]
Order = Literal["conv_bn_relu", "conv_relu_bn"]


class DoubleConv(nn.Module):
    """Two convolutions 3x3, each with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm_after_relu: bool = False) -> None:
        super().__init__()
        self.conv1 = ConvLayer(in_channels, out_channels, norm_after_relu=norm_after_relu)
        self.conv2 = ConvLayer(out_channels, out_channels, norm_after_relu=norm_after_relu)

    def forward(self, x: Activation) -> Activation:  # noqa: D102
        return self.conv2(self.conv1(x))


class UNet(nn.Module):
    """Maps an image (n, in_channels, h, w) to logits (n, out_channels, h, w).

    Args:
        in_channels: channels of the image.
        out_channels: 1 for a binary mask, else the number of classes, background included.
        base_channels: channels at full resolution; they double with each level.
        levels: number of resolutions; h and w must be multiples of ``2^(levels - 1)``.
        upsampling: nearest, bilinear, or a transposed convolution that halves the channels, with a ReLU.
        channels: channels of each level, in place of ``base_channels`` and its doubling.
        head_kernel: size of the last convolution's kernel.
        order: where batch norm stands: before the ReLU, or after it, as 1908.01073 has it.

    Raises:
        ValueError: in ``forward``, where h or w is no such multiple.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        base_channels: int = 16,
        levels: int = 4,
        upsampling: Upsampling = "nearest",
        *,
        channels: Sequence[int] | None = None,
        head_kernel: int = 1,
        order: Order = "conv_bn_relu",
    ) -> None:
        super().__init__()
        self.levels = levels
        self.upsampling: Upsampling = upsampling
        self.norm_after_relu = order == "conv_relu_bn"
        widths = list(channels) if channels else [base_channels * 2**level for level in range(levels)]
        self.input = InputLayer(in_channels)
        inputs = [in_channels, *widths[:-1]]
        self.encoders = nn.ModuleList(
            DoubleConv(c_in, c, self.norm_after_relu) for c_in, c in zip(inputs, widths, strict=True)
        )
        self.pool = MaxPool()
        self.concat = Concat()
        self.ups = nn.ModuleList()
        self.decoders = nn.ModuleList()
        for level in range(levels - 1):  # ups[level] goes from level + 1 up to level
            below = widths[level + 1]
            up_channels = widths[level] if upsampling == "transposed" else below
            self.ups.append(build_upsampling(upsampling, below, up_channels, self.norm_after_relu))
            self.decoders.append(DoubleConv(widths[level] + up_channels, widths[level], self.norm_after_relu))
        self.head = ConvLayer(widths[0], out_channels, kernel=head_kernel, norm=False, relu=False)

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        self._check_size(image)
        return self.logits(image).values

    def logits_and_features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and what the deepest block and each decoder compute (n, c, h, w), from coarse to fine.

        Raises:
            ValueError: as ``forward``.
        """
        self._check_size(image)
        features = self._features(image)
        return self.head(features[-1]).values, [each.values for each in features]

    def logits(self, image: Tensor) -> Activation:
        """The logits, as the last layer leaves them."""
        return self.head(self._features(image)[-1])

    def _features(self, image: Tensor) -> list[Activation]:
        x = self.input(image)
        skips = []
        for level, encoder in enumerate(self.encoders):
            x = encoder(x if level == 0 else self.pool(x))
            skips.append(x)
        features = [x]
        for level in reversed(range(self.levels - 1)):
            x = self.decoders[level](self.concat(skips[level], self.ups[level](x)))
            features.append(x)
        return features

    def _check_size(self, image: Tensor) -> None:
        height, width = image.shape[2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(f"image of {height}x{width}: both must be multiples of {self.size_multiple}: pad it first")

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this."""
        return 2 ** (self.levels - 1)

    def first_and_last_layers(self) -> list[ConvLayer]:
        """The two convolutions of the first block, and the last convolution."""
        first = self.encoders[0]
        return [first.conv1, first.conv2, self.head]  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]

    def concat_pairs(self) -> list[tuple[ConvLayer, ConvLayer | UpsampleBilinear]]:
        """For each skip, the two layers whose outputs meet in its concatenation, so must share a quantizer."""
        pairs = []
        for level in range(self.levels - 1):
            block = self.encoders[-1] if level == self.levels - 2 else self.decoders[level + 1]
            up = self.ups[level]
            pairs.append((self.encoders[level].conv2, block.conv2 if isinstance(up, UpsampleNearest) else up))
        return pairs


def build_upsampling(kind: Upsampling, in_channels: int, out_channels: int, norm_after_relu: bool = False) -> nn.Module:
    """The layer that doubles height and width."""
    match kind:
        case "nearest":
            return UpsampleNearest()
        case "bilinear":
            return UpsampleBilinear()
        case "transposed":
            return ConvLayer(in_channels, out_channels, transposed=True, norm_after_relu=norm_after_relu)


def masks_of(logits: Tensor) -> Tensor:
    """Masks (n, h, w) of logits (n, c, h, w): logit > 0 where there is one, else the arg-max over classes."""
    return logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1)
