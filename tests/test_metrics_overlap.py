"""Overlap metrics: a truth table made by hand, and MONAI on real masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quantunet.metrics.overlap import dice_score, iou_score, pixel_accuracy, sensitivity, specificity


def _mask(text: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in text.split("/")])


# prediction, truth, dice, iou, sensitivity, specificity, pixel accuracy
TRUTH_TABLE = [
    ("##../....", "##../....", 1, 1, 1, 1, 1),
    ("##../....", "#.../....", 2 / 3, 1 / 2, 1, 6 / 7, 7 / 8),
    ("#.../....", "##../....", 2 / 3, 1 / 2, 1 / 2, 1, 7 / 8),
    ("##../....", "..##/....", 0, 0, 0, 4 / 6, 4 / 8),
    ("##../##..", ".##./.##.", 1 / 2, 1 / 3, 1 / 2, 1 / 2, 1 / 2),
    ("..../....", "..../....", 1, 1, 1, 1, 1),  # both empty: the named argument
    ("..../....", "#.../....", 0, 0, 0, 1, 7 / 8),  # prediction empty
    ("#.../....", "..../....", 0, 0, 0, 7 / 8, 7 / 8),  # truth empty, prediction not
    ("####/####", "####/####", 1, 1, 1, 1, 1),  # both full: specificity's named argument
    ("####/###.", "####/####", 14 / 15, 7 / 8, 7 / 8, 0, 7 / 8),  # no background, yet some predicted
]


@pytest.mark.parametrize("row", TRUTH_TABLE, ids=lambda row: f"{row[0]} vs {row[1]}")
def test_truth_table(row):
    prediction, truth = _mask(row[0]), _mask(row[1])
    scores = [f(prediction, truth) for f in (dice_score, iou_score, sensitivity, specificity, pixel_accuracy)]
    assert scores == list(row[2:])


def test_both_empty_is_the_callers_choice():
    nothing = np.zeros((2, 3), bool)
    for metric in (dice_score, iou_score, sensitivity):
        assert metric(nothing, nothing, both_empty=0.25) == 0.25
    assert specificity(~nothing, ~nothing, both_full=0.25) == 0.25


@given(arrays(bool, (2, 3, 4)), arrays(bool, (2, 3, 4)))
@settings(max_examples=100, deadline=None)
def test_identities(a, b):
    dice, iou = dice_score(a, b), iou_score(a, b)
    assert dice == dice_score(b, a)
    assert math.isclose(dice, 2 * iou / (1 + iou), abs_tol=1e-15)  # two ways of rounding one fraction
    assert specificity(a, b) == sensitivity(~a, ~b)
    assert pixel_accuracy(a, b) == pixel_accuracy(~a, ~b)


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_equal_to_monai_where_both_masks_have_pixels(seed):
    torch = pytest.importorskip("torch")
    monai_metrics = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 16, 17)) < rng.uniform(0.1, 0.9)
    a[0, 0] = b[0, 1] = True
    x, y = (torch.from_numpy(m[None, None].astype(np.float32)) for m in (a, b))
    # MONAI computes in float32: 24 bits of mantissa, a few roundings.
    assert math.isclose(monai_metrics.compute_dice(x, y).item(), dice_score(a, b), rel_tol=1e-6)
    assert math.isclose(monai_metrics.compute_iou(x, y).item(), iou_score(a, b), rel_tol=1e-6)
    confusion = monai_metrics.get_confusion_matrix(x, y)
    for name, ours in (("sensitivity", sensitivity), ("specificity", specificity), ("accuracy", pixel_accuracy)):
        theirs = monai_metrics.compute_confusion_matrix_metric(name, confusion).item()
        assert math.isclose(theirs, ours(a, b), rel_tol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="dtype uint8: give a boolean mask"):
        dice_score(np.zeros((2, 2), np.uint8), np.zeros((2, 2), bool))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"shape \(2, 2\), truth \(4,\)"):
        iou_score(np.zeros((2, 2), bool), np.zeros(4, bool))
    with pytest.raises(ValueError, match="hold no pixel"):
        pixel_accuracy(np.zeros((0, 2), bool), np.zeros((0, 2), bool))
