"""Fake quantization as pure functions: integer codes times a scale, with gradients for value, exponent and width.

Forward, with ``e`` and ``b`` rounded to integers::

    scale = 2^e,  q = clamp(floor(x / scale + 1/2), q_min(b), q_max(b)),  y = scale * q

Backward, straight through both roundings, so that the clamp bounds carry the gradient of the width (Self-Compressing
Neural Networks, 2301.13142, eq. 1; the exponent's gradient is that of LSQ in log2 form)::

    dy/dx = 1 inside the bounds, 0 outside
    dy/de = ln2 * (y - x) inside, ln2 * y outside
    dy/db = 0 inside, +ln2 * scale * 2^(b - signed) above, -ln2 * scale * 2^(b - 1) below (signed only)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from quantunet.formats import IntFormat

LN2 = math.log(2)


def round_half_up(x: Tensor) -> Tensor:
    """``floor(x + 1/2)``, the rounding rule of ``arith``. No gradient."""
    return torch.floor(x + 0.5)


class _RoundSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return round_half_up(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad


def round_ste(x: Tensor) -> Tensor:
    """``round_half_up`` with the identity as its gradient."""
    return _RoundSTE.apply(x)  # pyright: ignore[reportReturnType]


def integer_bounds(bit_width: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """(q_min, q_max) of two's complement or unsigned codes of ``bit_width`` bits, as ``formats.IntFormat`` has them.

    A width of 0 bits leaves the code 0.
    """
    magnitude = torch.exp2(bit_width - int(signed)).floor_()
    return (-magnitude if signed else torch.zeros_like(magnitude)), (magnitude - 1).clamp_min_(0)


def integer_codes(x: Tensor, scale: Tensor, bit_width: Tensor, signed: bool) -> Tensor:
    """Codes of ``x``, as integers in x's own floating type; ``scale`` and ``bit_width`` broadcast against x."""
    q_min, q_max = integer_bounds(bit_width, signed)
    return round_half_up(x / scale).clamp(q_min, q_max)


class _FakeQuantizeByChannel(torch.autograd.Function):
    """Ranges of any shape that broadcasts against x: for weights, which are small."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, exponent: Tensor, bit_width: Tensor, signed: bool) -> Tensor:
        scale = torch.exp2(round_half_up(exponent))
        width = round_half_up(bit_width)
        y = integer_codes(x, scale, width, signed) * scale
        ctx.save_for_backward(x, y, scale, width)
        ctx.signed = signed
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, y, scale, width = ctx.saved_tensors
        error = y - x
        grad_x = grad * (
            error.abs() <= scale / 2
        )  # rounding moves a value by half a step at the most; clamping by more
        clipped = grad - grad_x
        grad_exponent = LN2 * (grad_x * error + clipped * y).sum_to_size(scale.shape)
        direction = -error.sign() if ctx.signed else (y > 0).to(y.dtype)
        grad_width = LN2 * scale * torch.exp2(width - int(ctx.signed)) * (clipped * direction).sum_to_size(scale.shape)
        return grad_x, grad_exponent, grad_width, None


class _FakeQuantizePerTensor(torch.autograd.Function):
    """One range: for activations, in few passes over memory, bounds as numbers (as tensors they are far slower)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, exponent: Tensor, bit_width: Tensor, signed: bool) -> Tensor:
        scale = 2.0 ** math.floor(float(exponent) + 0.5)
        width = math.floor(float(bit_width) + 0.5)
        limits = IntFormat(width, signed)
        q_min, q_max = limits.q_min, limits.q_max
        half = torch.full((), 0.5, dtype=x.dtype, device=x.device)
        y = torch.add(half, x, alpha=1 / scale).floor_().clamp_(q_min, q_max).mul_(scale)
        ctx.save_for_backward(x, y)
        ctx.range = scale, q_min, q_max, signed
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, y = ctx.saved_tensors
        scale, q_min, q_max, signed = ctx.range
        low, high = (q_min - 0.5) * scale, (q_max + 0.5) * scale
        layout = torch.channels_last if _has_channels_last(x) else torch.contiguous_format
        grad_x = torch.empty_like(x, memory_format=layout)
        parts = list(zip(*(_parts(each, layout) for each in (grad, x, y, grad_x)), strict=True))
        spare = torch.empty_like(parts[0][0])
        sums = []
        for grad_part, x_part, y_part, out in parts:
            other = spare[: len(out)]
            # the gradient inside the bounds, 0 outside
            torch.ops.aten.hardtanh_backward.grad_input(grad_part, x_part, low, high, grad_input=out)
            at_rounding = _dot(out, torch.sub(y_part, x_part, out=other))
            clipped = torch.sub(grad_part, out, out=other)
            at_bound = _dot(clipped, y_part)
            sums.append(torch.stack((at_rounding, at_bound, _dot(clipped, x_part.sign()) if signed else at_bound)))
        at_rounding, at_bound, at_width = torch.stack(sums).sum(0)
        grad_exponent = LN2 * (at_rounding + at_bound)
        # unsigned: whatever is clipped below lies at zero
        grad_width = LN2 * at_width * (scale * 2 ** q_max.bit_length() if signed else (q_max + 1) / q_max)
        return grad_x, grad_exponent, grad_width, None


PART = 2**18
"""Numbers that a processor takes at a time through all passes over memory: as many as a cache holds."""


def _has_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _parts(x: Tensor, layout: torch.memory_format) -> tuple[Tensor, ...]:
    """The elements as they lie in memory of that layout, in one dimension, in parts."""
    x = x.contiguous(memory_format=layout)
    flat = (x.permute(0, 2, 3, 1) if layout == torch.channels_last else x).reshape(-1)
    return flat.split(PART if x.device.type == "cpu" else max(1, len(flat)))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of ``a * b`` over all elements, of one dimension, in float32 at the least."""
    if a.dtype in (torch.bfloat16, torch.float16):  # their own dot product is 7 times slower, and adds in few bits
        return (a * b).sum(dtype=torch.float32)
    return torch.dot(a, b)


def fake_quantize(x: Tensor, exponent: Tensor, bit_width: Tensor, signed: bool) -> Tensor:
    """``x`` on the grid of step ``2^round(exponent)`` with ``round(bit_width)`` bits; gradients as in the module text.

    Args:
        x: any shape.
        exponent, bit_width: 0-dimensional, or of one shape that broadcasts against x, such as (c, 1, 1, 1).
        signed: two's complement codes; unsigned ones clamp at zero, which is the ReLU.
    """
    function = _FakeQuantizePerTensor if exponent.dim() == 0 else _FakeQuantizeByChannel
    return function.apply(x, exponent, bit_width, signed)  # pyright: ignore[reportReturnType]
