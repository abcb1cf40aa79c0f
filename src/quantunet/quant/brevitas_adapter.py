"""Brevitas behind our interface: the quantizer of QuantU-Net (2503.08719), with an explicit trainable bit width.

Built from Brevitas' core modules, as ``Int8WeightPerTensorFloat`` and ``Uint8ActPerTensorFloat`` with
``BitWidthImplType.PARAMETER`` build them: ``b = 2 + |offset|``, rounded straight-through; a float scale
``threshold / (2^(b-1) - 1)`` with the threshold max|w| for weights and a trained parameter for activations. One width
and one scale a tensor. This is the only file that imports brevitas.
"""

from __future__ import annotations

from typing import Any

import torch
from brevitas.core.bit_width import BitWidthConst, BitWidthParameter
from brevitas.core.function_wrapper import RoundSte, TensorClamp
from brevitas.core.quant import IntQuant, RescalingIntQuant
from brevitas.core.restrict_val import IntRestrictValue
from brevitas.core.scaling import IntScaling, ParameterScaling
from brevitas.core.zero_point import ZeroZeroPoint
from torch import Tensor, nn

from quantunet.quant.quantizers import Quantizer

FLOOR_BITS = 2
"""Brevitas adds the trained offset to this width."""


class _AbsMax(nn.Module):
    """The threshold of a weight: its largest magnitude, recomputed at each step."""

    def forward(self, x: Tensor, threshold: Tensor | None = None) -> Tensor:
        largest = x.abs().max()
        return largest if threshold is None else largest / threshold


class BrevitasQuantizer(Quantizer):
    """One scale and one trainable width for a whole tensor; ``channels`` None makes it one for activations."""

    last_scale: Tensor
    last_bit_width: Tensor
    quant: Any  # RescalingIntQuant, whose parts are typed as nothing more than modules

    def __init__(
        self,
        channels: int | None,
        channel_axis: int,
        signed: bool,
        *,
        bit_width: int = 8,
        min_bit_width: int = FLOOR_BITS,
        max_bit_width: int = 8,
    ) -> None:
        super().__init__(channels, channel_axis, signed)
        self.min_bit_width, self.max_bit_width = max(min_bit_width, FLOOR_BITS), max_bit_width
        is_weight = channels is not None
        self.quant = RescalingIntQuant(
            IntQuant(is_weight, signed, nn.Identity(), RoundSte(), TensorClamp()),
            _AbsMax() if is_weight else ParameterScaling(scaling_init=1.0),
            IntScaling(signed=signed, narrow_range=is_weight),
            ZeroZeroPoint(),
            BitWidthParameter(
                bit_width, min_bit_width=FLOOR_BITS, restrict_bit_width_impl=IntRestrictValue(RoundSte())
            ),
        )
        self.register_buffer("last_scale", torch.ones(()))
        self.register_buffer("last_bit_width", torch.tensor(float(bit_width)))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y, scale, _, bit_width = self.quant(x)
        self.last_scale = scale.detach().reshape(())
        self.last_bit_width = bit_width.detach().reshape(())
        return y

    def codes(self, x: Tensor) -> Tensor:  # noqa: D102
        y = self(x)
        return torch.round(y / self.last_scale)  # y is a multiple of the scale up to float rounding

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set the threshold of activations to the 99.999th percentile; weights follow their maximum by themselves."""
        if self.channels is None:
            magnitudes = x.abs().flatten()
            magnitudes = magnitudes[:: max(1, magnitudes.numel() // 1_000_000)]
            self.quant.scaling_impl.value.copy_(torch.quantile(magnitudes, 0.99999).clamp_min(1e-6))
        self(x)

    def raise_scale_(self, smallest: Tensor) -> None:
        """Nothing to set: the scale follows the largest weight."""

    @property
    def scale(self) -> Tensor:
        """Scale of the tensor quantized last."""
        return self.last_scale

    @property
    def bit_width(self) -> Tensor:
        """Width with which the last tensor was quantized."""
        return self.last_bit_width

    @property
    def soft_bit_width(self) -> Tensor:  # noqa: D102
        implementation = self.quant.msb_clamp_bit_width_impl
        if isinstance(implementation, BitWidthParameter):
            return FLOOR_BITS + implementation.bit_width_offset.abs()
        return self.last_bit_width

    def width_parameters(self) -> list[nn.Parameter]:  # noqa: D102
        implementation = self.quant.msb_clamp_bit_width_impl
        return [implementation.bit_width_offset] if isinstance(implementation, BitWidthParameter) else []

    def scale_parameters(self) -> list[nn.Parameter]:  # noqa: D102
        return [] if self.channels is not None else [self.quant.scaling_impl.value]

    @torch.no_grad()
    def project_(self) -> None:  # noqa: D102
        for offset in self.width_parameters():
            offset.copy_(offset.abs().clamp(self.min_bit_width - FLOOR_BITS, self.max_bit_width - FLOOR_BITS))

    def frozen_bit_width(self, shift: float | Tensor) -> Tensor:  # noqa: D102
        width = torch.floor(self.soft_bit_width.detach() + shift)
        return width.clamp(self.min_bit_width, self.max_bit_width)

    def freeze_bit_width_(self, shift: float | Tensor) -> None:  # noqa: D102
        frozen = self.frozen_bit_width(shift)
        self.quant.msb_clamp_bit_width_impl = BitWidthConst(int(frozen))
        self.last_bit_width = frozen.detach().clone()
        if self.channels is None:
            with torch.no_grad():
                self(torch.zeros_like(self.last_scale))  # the scale that goes with this width
