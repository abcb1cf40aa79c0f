"""Differentiable Quantization (Uhlich et al. 2020, 1905.11452): learn step and range, infer the width (case U3).

::

    y = d floor(x / d + 1/2) for |x| <= q_max,  sign(x) q_max beyond        b = log2(q_max / d + 1) + signed  (rounded)

    dy/dx = 1 inside, 0 outside      dy/dd = (y - x) / d inside, 0 outside      dy/dq_max = 0 inside, sign(x) outside

Both are trained as logarithms, ``d = 2^step`` and ``q_max = 2^range``, which multiplies the gradients by ``ln2 d`` and
``ln2 q_max`` (the paper restricts their gradients to a similar end). ``power_of_two`` rounds ``step`` straight-through,
so that the network lowers exactly; else the scale is a float. Codes end at ``2^(b - signed) - 1``, the largest of the
inferred width (the paper clips at q_max, whether it is a multiple of d or not), and at its negative where signed.
The paper rounds b up; it is rounded here, as all widths are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantunet.quant.bit_width import TrainedWidth
from quantunet.quant.fake_quant import LN2, round_half_up
from quantunet.quant.surrogate import with_gradients


class DifferentiableQuantizer(TrainedWidth):
    """Trained step and range; ``width_source`` is log2 of the range."""

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
        power_of_two: bool = True,
    ) -> None:
        super().__init__(
            channels,
            channel_axis,
            signed,
            min_bit_width=max(min_bit_width, 2) if signed else min_bit_width,  # codes -1, 0, 1 at the least
            max_bit_width=max_bit_width,
            channel_widths=channel_widths,
        )
        self.narrow_range = signed
        self.power_of_two = power_of_two
        self.first_bit_width = bit_width
        self.step = nn.Parameter(torch.zeros_like(self.width_source))
        self.width_source.data.copy_(self._range_of(torch.full_like(self.width_source, bit_width)))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        scale, top = self.along_channels(self.scale), self.along_channels(self._largest_code())
        low = -top if self.signed else torch.zeros_like(top)
        y = torch.minimum(torch.maximum(round_half_up(x.detach() / scale), low), top) * scale
        inside = ((x <= (top + 0.5) * scale) & (x >= (low - 0.5) * scale)).to(x.dtype)
        beyond = (1 - inside) * y.sign()
        return with_gradients(
            y,
            (inside, x),
            (LN2 * (y - x.detach()) * inside, self.along_channels(self.step)),
            (LN2 * scale * top * beyond, self.along_channels(self.width_source)),
        )

    def _largest_code(self) -> Tensor:
        return torch.exp2(self.bit_width - int(self.signed)) - 1

    def _range_of(self, bit_width: Tensor) -> Tensor:
        """log2 of the range that has this width, over the step as it is."""
        return self.step + torch.log2(torch.exp2(bit_width - int(self.signed)) - 1)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:  # noqa: D102
        width = torch.full_like(self.width_source, self.first_bit_width)
        step = torch.log2(self.magnitude(x) / (torch.exp2(width - int(self.signed)) - 1))
        self.step.copy_(torch.ceil(step) if self.power_of_two else step)
        self.width_source.copy_(self._range_of(width))

    @torch.no_grad()
    def raise_scale_(self, smallest: Tensor) -> None:  # noqa: D102
        smallest = torch.log2(smallest.max() if self.channels is None else smallest)
        width = self.bit_width
        self.step.copy_(torch.maximum(self.step, torch.ceil(smallest) if self.power_of_two else smallest))
        self.width_source.copy_(self._range_of(width))

    @property
    def trained_bit_width(self) -> Tensor:  # noqa: D102
        return torch.log2(torch.exp2(self.width_source - self.step) + 1) + int(self.signed)

    @torch.no_grad()
    def project_(self) -> None:
        """Back within the bounds without a drift: beyond the most bits the step gives way, below the least both do.

        If the range followed a step that its own noise makes finer, all that is large would be clipped within some ten
        steps. The bit term pulls range and step together with equal force, so each gives way by half.
        """
        if self.frozen_width is None:
            width = self.trained_bit_width
            bounded = width.clamp(self.min_bit_width, self.max_bit_width)
            finer = torch.where(width == bounded, 0.0, self._range_of(bounded) - self.width_source)  # octaves
            self.step.sub_(torch.where(finer > 0, finer / 2, finer))
            self.width_source.add_(finer.clamp_min(0) / 2)

    def set_bit_width_(self, bit_width: Tensor) -> None:
        """Keep the range where codes get fewer: the step takes what the width gives up, in whole octaves."""
        octaves = self.frozen_bit_width(0.5) - round_half_up(bit_width)
        self.step.data.add_(octaves)
        self.width_source.data.copy_(self._range_of(bit_width))

    @property
    def scale(self) -> Tensor:  # noqa: D102
        step = self.step.detach()
        return torch.exp2(round_half_up(step) if self.power_of_two else step)

    def scale_parameters(self) -> list[nn.Parameter]:  # noqa: D102
        return [self.step]
