"""What quantizers share about their width: the published ones either fix it, or train a parameter for it."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from quantunet.quant.fake_quant import round_half_up
from quantunet.quant.quantizers import Quantizer, observed_magnitude


class FixedWidth(Quantizer):
    """A width that is never trained, and a scale that is no parameter of its own.

    Args:
        bit_width: of the codes as they are stored.
    """

    stored_bit_width: Tensor

    def __init__(self, channels: int | None, channel_axis: int, signed: bool, bit_width: int) -> None:
        super().__init__(channels, channel_axis, signed)
        self.register_buffer("stored_bit_width", torch.tensor(float(bit_width)))

    @property
    def bit_width(self) -> Tensor:  # noqa: D102
        return self.stored_bit_width

    @property
    def soft_bit_width(self) -> Tensor:  # noqa: D102
        return self.stored_bit_width

    def calibrate(self, x: Tensor) -> None:
        """Nothing to set: the range is part of the definition, or follows the tensor."""

    def raise_scale_(self, smallest: Tensor) -> None:
        """Nothing to set, for the same reason."""

    def width_parameters(self) -> list[nn.Parameter]:  # noqa: D102
        return []

    def scale_parameters(self) -> list[nn.Parameter]:  # noqa: D102
        return []

    def project_(self) -> None:
        """There is no parameter."""

    def frozen_bit_width(self, shift: float | Tensor) -> Tensor:  # noqa: D102
        return self.stored_bit_width

    def freeze_bit_width_(self, shift: float | Tensor) -> None:
        """It is fixed already."""

    def codes(self, x: Tensor) -> Tensor:  # noqa: D102
        y = self(x)
        return round_half_up(y / self.along_channels(self.scale))  # y is a multiple of the scale


class TrainedWidth(Quantizer):
    """A trainable width, one a channel or one a tensor, that follows from ``width_source`` and is frozen at the end.

    Args:
        min_bit_width, max_bit_width: bounds of the trained width.
        channel_widths: a range and a width for each channel, else one of each for the whole tensor.
    """

    frozen_width: Tensor | None

    def __init__(
        self,
        channels: int | None,
        channel_axis: int,
        signed: bool,
        *,
        min_bit_width: int,
        max_bit_width: int,
        channel_widths: bool,
    ) -> None:
        super().__init__(channels if channel_widths else None, channel_axis, signed)
        self.is_weight = channels is not None
        self.min_bit_width, self.max_bit_width = min_bit_width, max_bit_width
        self.width_source = nn.Parameter(torch.zeros(() if self.channels is None else (self.channels,)))
        self.register_buffer("frozen_width", None)

    @property
    @abc.abstractmethod
    def trained_bit_width(self) -> Tensor:
        """The real-valued width, of the shape of ``width_source`` and with its gradient."""

    @abc.abstractmethod
    def set_bit_width_(self, bit_width: Tensor) -> None:
        """Choose ``width_source`` so that the trained width is ``bit_width``, over the range as it is."""

    def magnitude(self, x: Tensor) -> Tensor:
        """The largest magnitude of a weight, by channel where ranges are; the 99.9th percentile of activations."""
        if self.is_weight and self.channels is None:
            return x.abs().max().clamp_min(2**-20)
        return observed_magnitude(x, self.channels, self.channel_axis)

    @property
    def soft_bit_width(self) -> Tensor:  # noqa: D102
        return self.trained_bit_width if self.frozen_width is None else self.frozen_width

    @property
    def bit_width(self) -> Tensor:  # noqa: D102
        return self.frozen_bit_width(0.5)

    def width_parameters(self) -> list[nn.Parameter]:  # noqa: D102
        return [self.width_source] if self.frozen_width is None else []

    @torch.no_grad()
    def project_(self) -> None:  # noqa: D102
        if self.frozen_width is None:
            width = self.trained_bit_width
            bounded = width.clamp(self.min_bit_width, self.max_bit_width)
            if not torch.equal(width, bounded):  # what lies inside keeps its bits
                self.set_bit_width_(bounded)

    @torch.no_grad()
    def frozen_bit_width(self, shift: float | Tensor) -> Tensor:  # noqa: D102
        if self.frozen_width is not None:
            return self.frozen_width
        # rounded to 2^-10 first: widths that are logarithms lie beside the integer that they mean
        width = torch.round(self.trained_bit_width.detach() * 1024) / 1024
        return torch.floor(width + shift).clamp(self.min_bit_width, self.max_bit_width)

    @torch.no_grad()
    def freeze_bit_width_(self, shift: float | Tensor) -> None:  # noqa: D102
        frozen = self.frozen_bit_width(shift).clone()
        if self.frozen_width is None:
            self.set_bit_width_(frozen)
        self.frozen_width = frozen
        self.width_source.requires_grad_(False)

    def codes(self, x: Tensor) -> Tensor:  # noqa: D102
        return round_half_up(self(x) / self.along_channels(self.scale))
