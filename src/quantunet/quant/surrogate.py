"""Values whose gradient is stated beside them: how the published quantizers are written down."""

from __future__ import annotations

import torch
from torch import Tensor


def with_gradients(value: Tensor, *slopes: tuple[Tensor | float, Tensor]) -> Tensor:
    """``value``, whose gradient towards each variable is its slope, whatever operations made it.

    Args:
        value: any shape.
        slopes: pairs (slope, variable), both broadcasting against value; gradients are summed over what broadcasts.
    """
    result = value.detach()
    for slope, variable in slopes:
        if not variable.requires_grad:
            continue
        held = slope.detach() if isinstance(slope, Tensor) else slope
        result = result + held * (variable - variable.detach())  # adds zeros, forward
    return result


def filter_means(x: Tensor, channel_axis: int, mask: Tensor | None = None) -> Tensor:
    """Mean magnitude of each filter (channels,), over the entries where ``mask`` holds; at least 2^-20."""
    rows = x.abs().transpose(0, channel_axis).flatten(1)
    if mask is None:
        means = rows.mean(1)
    else:
        chosen = mask.transpose(0, channel_axis).flatten(1).to(x.dtype)
        means = (rows * chosen).sum(1) / chosen.sum(1).clamp_min(1)
    return torch.clamp_min(means, 2**-20)
