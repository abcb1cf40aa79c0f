"""The interface that all quantizers share, and our learned one: a power-of-two scale, exponent and width trainable.

A quantizer belongs to one tensor (or to the two halves of a concatenation, which then share scale and width). It owns
its range; what it does to values is a pure function of ``fake_quant``.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from quantunet.quant.fake_quant import fake_quantize, integer_codes, round_half_up, round_ste


class Quantizer(nn.Module, abc.ABC):
    """Maps a tensor to multiples of a scale, clamped to ``bit_width`` bits.

    Args:
        channels: number of channels with a range of their own, or None for one range.
        channel_axis: axis of the channels in the tensors to come.
        signed: two's complement codes, else unsigned.

    How codes come from values, for ``lower``; what a quantizer does not state is rounding to the full range.

    Attributes:
        can_vanish: a channel's width may become 0: its codes are all 0 then, and its bias goes with it.
        narrow_range: the most negative code of a signed format is not used.
        truncates: codes are ``floor(x / scale)``, not ``floor(x / scale + 1/2)``.
        is_sign: codes are the sign of ``x``, whatever the scale.
        importance: (channels,), how much the loss minds a channel's loss, kept where channels can vanish; else None.
        is_clamped: activation codes are rounded or truncated, then clamped to their format; else they have no integer
            form (fractions that wrap, for one).
    """

    can_vanish = False
    narrow_range = False
    truncates = False
    is_sign = False
    is_clamped = True

    importance: Tensor | None

    def __init__(self, channels: int | None, channel_axis: int, signed: bool) -> None:
        super().__init__()
        self.register_buffer("importance", None)
        self.channels = channels
        self.channel_axis = channel_axis
        self.signed = signed

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantized ``x``, of the same shape."""

    @abc.abstractmethod
    def calibrate(self, x: Tensor) -> None:
        """Set the range from observed values."""

    @abc.abstractmethod
    def raise_scale_(self, smallest: Tensor) -> None:
        """Make every scale at least ``smallest``, () or (channels,), where the scale is free to be set."""

    @property
    @abc.abstractmethod
    def scale(self) -> Tensor:
        """Step between codes, for the tensor quantized last: () or (channels,). No gradient."""

    @property
    @abc.abstractmethod
    def bit_width(self) -> Tensor:
        """Integer width in use, () or (channels,). No gradient."""

    @property
    @abc.abstractmethod
    def soft_bit_width(self) -> Tensor:
        """The trainable width, for the bit-width loss: () or (channels,), with gradient where it is trainable."""

    @abc.abstractmethod
    def width_parameters(self) -> list[nn.Parameter]:
        """Trainable widths: their own parameter group, no weight decay."""

    @abc.abstractmethod
    def scale_parameters(self) -> list[nn.Parameter]:
        """Trainable scales: their own parameter group, no weight decay."""

    @abc.abstractmethod
    def project_(self) -> None:
        """Bring the trainable widths back into their bounds, after an optimizer step."""

    @abc.abstractmethod
    def frozen_bit_width(self, shift: float | Tensor) -> Tensor:
        """``floor(width + shift)`` within the bounds, () or (channels,): what ``freeze_bit_width_`` would fix.

        ``shift`` is a number, or one for each trainable width.
        """

    @abc.abstractmethod
    def freeze_bit_width_(self, shift: float | Tensor) -> None:
        """Fix the width for good; ``shift`` 0.5 is rounding, other shifts meet a budget."""

    def keep_all_channels_(self) -> None:
        """Hold every width at one bit or more: for a layer whose channels cannot be removed."""

    def silence_(self, channel: int) -> None:
        """Set the width of ``channel``, and of those that share it, to 0, unless it is the last one above."""
        raise NotImplementedError("only where channels can vanish")

    def by_width(self, values: Tensor) -> Tensor:
        """Of ``values`` by channel, alike where channels share a width: one for each trainable width."""
        return values

    def averaged(self, values: Tensor) -> Tensor:
        """(channels,): the mean of ``values`` over the channels that share a width with this one."""
        return values

    def set_progress_(self, share: float) -> None:
        """Called before every step of training with the share of the steps done, 0 to 1: for values under a schedule.

        Most quantizers have none.
        """

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of ``x``, in x's own floating type."""
        return integer_codes(x, self.along_channels(self.scale), self.along_channels(self.bit_width), self.signed)

    def along_channels(self, values: Tensor) -> Tensor:
        """Reshape (channels,) so that it broadcasts along the channel axis of a 4-dimensional tensor."""
        if values.dim() == 0:
            return values
        shape = [1, 1, 1, 1]
        shape[self.channel_axis] = -1
        return values.view(shape)


FULL_WIDTH = 8
MOST_HALVINGS = 4
"""Of a range, tried where a fixed width is narrow."""


def observed_magnitude(x: Tensor, channels: int | None, channel_axis: int) -> Tensor:
    """The range to cover, > 0: the largest magnitude of each channel (channels,), or the 99.9th percentile ()."""
    if channels is None:
        magnitudes = x.abs().flatten()
        stride = max(1, magnitudes.numel() // 1_000_000)  # torch.quantile takes 16 million values at the most
        top = torch.quantile(magnitudes[::stride], 0.999)
    else:
        top = x.abs().transpose(0, channel_axis).flatten(1).amax(1)
    return top.clamp_min(2**-20)


class LearnedPowerOfTwo(Quantizer):
    """Our quantizer: a power-of-two scale and a width, both trained through the clamp bounds (2301.13142, eq. 1).

    The parameters are the width ``b`` and the exponent ``t`` of the range: signed codes reach ``2^(t - 1)``, unsigned
    ones ``2^t``, and the scale is ``2^(t - b)``. So a narrower width coarsens the step and leaves the range (as in DQ,
    1905.11452), where with exponent and width as parameters it would halve the range. Forward always uses both rounded,
    so the network in training is at every step one that can be lowered as it is.

    Args:
        bit_width: width at the start.
        min_bit_width, max_bit_width: bounds of the trainable width; with 0, a channel may vanish, all but one of them.
        trainable: whether the width is trained; a fixed one makes the ``uniform`` baseline.
        group_size: so many channels in order share a width, the last group may be smaller; None: all of them do. The
            exponents are by channel in all cases. A group vanishes as one.
    """

    width: Tensor
    range_exponent: nn.Parameter

    def __init__(
        self,
        channels: int | None,
        channel_axis: int,
        signed: bool,
        *,
        bit_width: float = 8,
        min_bit_width: int = 1,
        max_bit_width: int = 8,
        trainable: bool = True,
        group_size: int | None = 1,
    ) -> None:
        super().__init__(channels, channel_axis, signed)
        self.can_vanish = min_bit_width == 0 and channels is not None and group_size is not None
        self.group_size = group_size or channels or 1
        self.min_bit_width, self.max_bit_width = (
            min_bit_width if self.can_vanish else max(min_bit_width, 1),
            max_bit_width,
        )
        shape = () if channels is None else (channels,)
        if self.can_vanish:
            self.register_buffer("importance", torch.zeros(shape))
        self.range_exponent = nn.Parameter(torch.zeros(shape))
        groups = () if channels is None or group_size is None else (-(-channels // group_size),)
        width = torch.full(groups, float(bit_width))
        if trainable:
            self.width = nn.Parameter(width)
        else:
            self.register_buffer("width", width)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        width = self._full(self.width)
        exponent = round_ste(self.range_exponent) - round_ste(width)
        return fake_quantize(x, self.along_channels(exponent), self.along_channels(width), self.signed)

    def _full(self, width: Tensor) -> Tensor:
        if width.dim() == 0 or len(width) == len(self.range_exponent):
            return width.expand(self.range_exponent.shape)
        return width.repeat_interleave(self.group_size)[: len(self.range_exponent)]

    def by_width(self, values: Tensor) -> Tensor:  # noqa: D102
        return values if values.dim() == 0 else values[:: self.group_size]

    def averaged(self, values: Tensor) -> Tensor:  # noqa: D102
        groups = torch.arange(len(values), device=values.device) // self.group_size
        sums = values.new_zeros(int(groups[-1]) + 1).index_add(0, groups, values)
        return (sums / groups.bincount())[groups]

    @property
    def exponent(self) -> Tensor:
        """log2 of the scale in use, () or (channels,). No gradient."""
        return round_half_up(self.range_exponent.detach()) - self.bit_width

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Cover the largest magnitude of each channel (weights), or the 99.9th percentile (activations).

        A width that is fixed below 8 bits takes of this range and its halvings the one of least squared error:
        two or three bits over the whole range would leave most values zero, and a network that learns nothing.
        """
        magnitude = observed_magnitude(x, self.channels, self.channel_axis)
        covering = torch.ceil(torch.log2(magnitude)) + int(self.signed)
        self.range_exponent.copy_(covering)
        if self.width_parameters() or float(self.width.max()) >= FULL_WIDTH:
            return
        best, least = covering, self._squared_error(x)
        for octaves in range(1, MOST_HALVINGS + 1):
            self.range_exponent.copy_(covering - octaves)
            error = self._squared_error(x)
            best, least = torch.where(error < least, covering - octaves, best), torch.minimum(error, least)
        self.range_exponent.copy_(best)

    def _squared_error(self, x: Tensor) -> Tensor:
        """By range: () or (channels,)."""
        squares = (self(x) - x).square()
        return squares.sum() if self.channels is None else squares.transpose(0, self.channel_axis).flatten(1).sum(1)

    @torch.no_grad()
    def raise_scale_(self, smallest: Tensor) -> None:  # noqa: D102
        self.set_exponent_(torch.maximum(self.exponent, torch.ceil(torch.log2(smallest))))

    @torch.no_grad()
    def set_exponent_(self, exponent: Tensor | float) -> None:
        """Set log2 of the scale at the width in use."""
        self.range_exponent.copy_(exponent + self.bit_width)

    def keep_all_channels_(self) -> None:  # noqa: D102
        self.can_vanish, self.min_bit_width, self.importance = False, max(self.min_bit_width, 1), None

    @torch.no_grad()
    def silence_(self, channel: int) -> None:  # noqa: D102
        self.width[channel // self.group_size] = 0.0
        self.project_()

    @property
    def scale(self) -> Tensor:  # noqa: D102
        return torch.exp2(self.exponent)

    @property
    def bit_width(self) -> Tensor:  # noqa: D102
        return round_half_up(self._full(self.width.detach()))

    @property
    def soft_bit_width(self) -> Tensor:  # noqa: D102
        return self._full(self.width)

    def width_parameters(self) -> list[nn.Parameter]:  # noqa: D102
        return [self.width] if isinstance(self.width, nn.Parameter) else []

    def scale_parameters(self) -> list[nn.Parameter]:  # noqa: D102
        return [self.range_exponent]

    @torch.no_grad()
    def project_(self) -> None:  # noqa: D102
        self.width.clamp_(self.min_bit_width, self.max_bit_width)
        if self.can_vanish and not bool((self.width >= 0.5).any()):
            self.width[self.width.argmax()] = 0.5

    def frozen_bit_width(self, shift: float | Tensor) -> Tensor:  # noqa: D102
        frozen = torch.floor(self.width.detach() + shift) if self.width_parameters() else self.width
        frozen = frozen.clamp(self.min_bit_width, self.max_bit_width)
        if self.can_vanish and not bool(frozen.any()):
            frozen[self.width.argmax()] = 1
        return self._full(frozen)

    @torch.no_grad()
    def freeze_bit_width_(self, shift: float | Tensor) -> None:  # noqa: D102
        frozen = self.frozen_bit_width(shift).clone()
        self.group_size = 1
        del self.width
        self.register_buffer("width", frozen)
