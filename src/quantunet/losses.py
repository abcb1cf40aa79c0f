"""The loss of QuantU-Net (2503.08719): cross-entropy + soft Dice + bit-width term; each part a pure function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH_PX = 1.0
"""Added to numerator and denominator of soft Dice, so that a batch without foreground has a gradient."""


class LossParts(NamedTuple):
    """The segmentation loss and its two parts, 0-dimensional."""

    total: Tensor
    bce: Tensor
    dice_loss: Tensor


Sum = Callable[[Tensor], Tensor]
"""Sum of a tensor over all processes, with its gradient."""


def segmentation_loss(
    logits: Tensor, target: Tensor, bce_weight: float = 1.0, dice_weight: float = 1.0, sum_over: Sum | None = None
) -> LossParts:
    """``bce_weight * BCE + dice_weight * (1 - soft Dice)``; cross-entropy where there are several classes.

    Args:
        logits: (n, 1, h, w), or (n, classes, h, w) with the background first.
        target: (n, h, w), class indices, int64.
        bce_weight, dice_weight: weights of the parts.
        sum_over: where each of several processes has a part of the batch: Dice is of the whole batch, no mean of parts.
    """
    if logits.shape[1] == 1:
        truth = target.to(logits.dtype).unsqueeze(1)
        bce = F.binary_cross_entropy_with_logits(logits, truth)
        probs = torch.sigmoid(logits)
    else:
        truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)[:, 1:]
        bce = F.cross_entropy(logits, target)
        probs = torch.softmax(logits, dim=1)[:, 1:]
    dice_loss = soft_dice_loss(probs, truth, sum_over)
    return LossParts(bce_weight * bce + dice_weight * dice_loss, bce, dice_loss)


def distillation_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy against the probabilities of the float network (Hinton et al. 2015, 1503.02531, temperature 1).

    Args:
        logits, teacher_logits: (n, 1, h, w), or (n, classes, h, w).
    """
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits, torch.sigmoid(teacher_logits))
    return F.cross_entropy(logits, torch.softmax(teacher_logits, dim=1))


def feature_loss(features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """``mean |m / |m| - m_T / |m_T||^2`` over tensors and images, where a map ``m`` (h, w) is the mean of a tensor's
    squares over its channels: attention transfer (Zagoruyko & Komodakis 2017, 1612.03928, eq. 2), which asks that a
    network looks where its teacher looks, with however many channels.

    Args:
        features, teacher_features: tensors (n, c, h, w); c may differ between the two.
    """
    pairs = zip(features, teacher_features, strict=True)
    return torch.stack([(_map(ours) - _map(theirs)).square().sum(1).mean() for ours, theirs in pairs]).mean()


def _map(features: Tensor) -> Tensor:
    """(n, h * w), each image's of length 1."""
    return F.normalize(_SumOfSquares.apply(features).flatten(1), dim=1)  # pyright: ignore[reportAttributeAccessIssue]


class _SumOfSquares(torch.autograd.Function):
    """Of (n, c, h, w) over channels, (n, h, w) in float32: one pass over memory each way, where autograd takes four."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x * x).sum(1, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return x * (2 * grad).unsqueeze(1).to(x.dtype)


def soft_dice_loss(probs: Tensor, truth: Tensor, sum_over: Sum | None = None) -> Tensor:
    """``1 - mean_c (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)``, sums over the whole batch; both (n, c, h, w)."""
    axes = (0, 2, 3)
    sums = torch.stack(((probs * truth).sum(axes), probs.sum(axes) + truth.sum(axes)))
    overlap, whole = sums if sum_over is None else sum_over(sums)
    dice = (2 * overlap + SMOOTH_PX) / (whole + SMOOTH_PX)
    return 1 - dice.mean()


def mean_bit_width(bit_widths: Sequence[Tensor], shares: Sequence[Tensor]) -> Tensor:
    """``sum_i s_i b_i``: the average width, in bits, with the gradient of each width.

    Args:
        bit_widths: trainable widths, each () or (channels,).
        shares: what each counts, of the same shapes; they add up to 1, or to less where channels have been removed.
    """
    return torch.stack([(width * share).sum() for width, share in zip(bit_widths, shares, strict=True)]).sum()
