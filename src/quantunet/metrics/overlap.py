"""Overlap of two masks. Every rule for empty masks is stated here, and is a row in a test.

With ``tp, fp, fn, tn`` the counted pixels:

========================  ====================  =====================================
case                      Dice, IoU             sensitivity
========================  ====================  =====================================
both masks empty          ``both_empty``        ``both_empty``
prediction empty          0                     0
truth empty, other not    0                     0
========================  ====================  =====================================

Specificity is the sensitivity of the complements, so the same table holds with "full" in place of "empty".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def dice_score(prediction: Mask, truth: Mask, both_empty: float = 1.0) -> float:
    """Dice coefficient, 2 tp / (2 tp + fp + fn), of two boolean arrays of one shape.

    Args:
        prediction: boolean array of any shape.
        truth: boolean array of the same shape.
        both_empty: the score where neither mask has a pixel.

    Raises:
        ValueError: if the arrays are not boolean, or their shapes differ.
    """
    tp, fp, fn = _count(prediction, truth)
    return _ratio(2 * tp, 2 * tp + fp + fn, both_empty)


def iou_score(prediction: Mask, truth: Mask, both_empty: float = 1.0) -> float:
    """Intersection over union (Jaccard index), tp / (tp + fp + fn). Arguments and errors as in `dice_score`."""
    tp, fp, fn = _count(prediction, truth)
    return _ratio(tp, tp + fp + fn, both_empty)


def sensitivity(prediction: Mask, truth: Mask, both_empty: float = 1.0) -> float:
    """Share of the truth that was found (recall), tp / (tp + fn). Arguments and errors as in `dice_score`."""
    tp, fp, fn = _count(prediction, truth)
    if tp + fn == 0 and fp > 0:
        return 0.0  # nothing to find, yet something was "found": a mistake here too, as in Dice
    return _ratio(tp, tp + fn, both_empty)


def specificity(prediction: Mask, truth: Mask, both_full: float = 1.0) -> float:
    """Share of the background that was left alone, tn / (tn + fp): the sensitivity of the complements.

    Args:
        prediction: boolean array of any shape.
        truth: boolean array of the same shape.
        both_full: the score where neither mask leaves any background.

    Raises:
        ValueError: if the arrays are not boolean, or their shapes differ.
    """
    _check(prediction, truth)
    return sensitivity(~prediction, ~truth, both_empty=both_full)


def pixel_accuracy(prediction: NDArray[np.generic], truth: NDArray[np.generic]) -> float:
    """Share of the pixels whose labels agree; boolean masks or integer labels of one shape.

    Raises:
        ValueError: if the shapes differ, or the arrays hold no pixel.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, truth {truth.shape}: they must agree")
    if truth.size == 0:
        raise ValueError("the masks hold no pixel: give arrays of at least one")
    return float(np.count_nonzero(prediction == truth) / truth.size)


def _count(prediction: Mask, truth: Mask) -> tuple[int, int, int]:
    """Pixels that are true positive, false positive and false negative."""
    _check(prediction, truth)
    tp = int(np.count_nonzero(prediction & truth))
    return tp, int(np.count_nonzero(prediction)) - tp, int(np.count_nonzero(truth)) - tp


def _check(prediction: Mask, truth: Mask) -> None:
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if mask.dtype != np.bool_:
            raise ValueError(f"{name} has dtype {mask.dtype}: give a boolean mask, as labels == 1")
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, truth {truth.shape}: they must agree")


def _ratio(numerator: int, denominator: int, both_empty: float) -> float:
    return numerator / denominator if denominator else both_empty
