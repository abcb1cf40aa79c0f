"""Parameter groups and learning rates: weights decay; widths and scales have groups of their own and never decay."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from quantunet.nn.prepare import all_quantizers

WARM_UP = 0.05
"""Share of the steps in which a phase's learning rate rises to its peak."""
SCALE_DECAY = 0.2
"""Widths and exponents keep their learning rate until this last share of the steps, then it falls to a tenth."""


def build_optimizer(
    network: nn.Module, learning_rate: float, weight_decay: float, width_learning_rate: float | None
) -> torch.optim.AdamW:
    """AdamW over three groups: ``weights`` (decay), ``no_decay`` (biases, batch norm), ``ranges`` (widths and scales).

    ``width_learning_rate`` None leaves the ranges as they are.
    """
    quantizers = all_quantizers(network)
    ranges = [p for q in quantizers for p in (*q.width_parameters(), *q.scale_parameters())]
    held = {id(parameter) for parameter in ranges}
    others = [parameter for parameter in network.parameters() if id(parameter) not in held]
    groups: list[dict[str, Any]] = [
        {
            "name": "weights",
            "params": [p for p in others if p.dim() > 1],
            "weight_decay": weight_decay,
            "peak": learning_rate,
        },
        {"name": "no_decay", "params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0, "peak": learning_rate},
    ]
    for parameter in ranges:
        parameter.requires_grad_(width_learning_rate is not None)
    if ranges and width_learning_rate is not None:
        groups.append({"name": "ranges", "params": ranges, "weight_decay": 0.0, "peak": width_learning_rate})
    return torch.optim.AdamW(groups, lr=learning_rate)


def width_learning_rate(descent_steps: int) -> float:
    """Adam moves a width by about its learning rate a step: enough to cross all widths in a quarter of the descent."""
    return min(0.1, max(0.01, 4 * 7 / descent_steps))


def set_learning_rates(optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    """A pure function of the step: linear warm-up, then a cosine to zero; ranges stay up until the end is near."""
    done = step / max(steps, 1)
    rise = min(1.0, (step + 1) / max(WARM_UP * steps, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    late = min(1.0, (1 - done) / SCALE_DECAY)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * (max(0.1, late) if group["name"] == "ranges" else rise * max(cosine, 0.01))
