"""Cases to per-case metrics to one row of a table, for any predictor: it is given label maps, never a network.

A case is all slices with one ``case_id``, an array (s, h, w) of labels; 0 is the background. Overlap metrics pool all
pixels of the case. Surface distances are measured in 3-D where the case has several slices and its spacing three
entries (slice, row, column); else in 2-D by slice, and averaged over the slices in which truth or prediction has a
pixel. One table has one unit: if a case lacks its spacing, all distances are in pixels, by slice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantunet.errors import UserError
from quantunet.metrics.intervals import bootstrap_ci95
from quantunet.metrics.overlap import dice_score, iou_score, pixel_accuracy, sensitivity, specificity
from quantunet.metrics.surface import surface_distances_mm

Labels = NDArray[np.uint8]
Spacing = tuple[float, ...] | None

CLASS_METRICS = ("dice", "iou", "sensitivity", "specificity", "hd95", "assd")
CASE_METRICS = ("pixel_accuracy", "background_dice")


@dataclass(frozen=True)
class ClassScores:
    """Scores of one foreground class in one case; ``hd95`` and ``assd`` in the evaluation's ``distance_unit``.

    ``distances`` is the number of distances averaged (1 for a volume, else the slices with foreground), of which
    ``diagonals`` had one mask empty and count as the image's diagonal.
    """

    dice: float
    iou: float
    sensitivity: float
    specificity: float
    hd95: float
    assd: float
    distances: int
    diagonals: int
    truth_px: int
    prediction_px: int


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case; ``classes`` has one entry for each foreground class, by name."""

    case_id: str
    shape: tuple[int, ...]
    pixel_accuracy: float
    background_dice: float
    classes: Mapping[str, ClassScores]

    def mean(self, metric: str) -> float:
        """A metric of the case: that of the case itself, or the mean over its foreground classes."""
        if metric in CASE_METRICS:
            return getattr(self, metric)
        return float(np.mean([getattr(scores, metric) for scores in self.classes.values()]))


@dataclass(frozen=True)
class Estimate:
    """Mean over the cases with its 95 % bootstrap interval; no interval (None) for a single case."""

    mean: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Evaluation:
    """All scores of one predictor. ``mean`` averages the foreground classes in each case, then the cases.

    ``both_empty`` counts pairs (case, foreground class) where neither mask has a pixel, which score
    ``both_empty_score`` in overlap and 0 in distance; ``prediction_empty`` and ``truth_empty`` count those where only
    that one is empty, which score 0 in overlap and the image's diagonal in distance. ``diagonals`` of the ``distances``
    measured (slices, or volumes in 3-D) had one mask empty: a few of them dominate a mean distance.
    """

    class_names: tuple[str, ...]
    cases: tuple[CaseScores, ...]
    mean: Mapping[str, Estimate]
    classes: Mapping[str, Mapping[str, Estimate]]
    distance_unit: str
    both_empty_score: float
    both_empty: int
    prediction_empty: int
    truth_empty: int
    distances: int
    diagonals: int
    pixels: int

    @property
    def dice(self) -> float:
        """Mean over the foreground classes of the mean over the cases."""
        return self.mean["dice"].mean

    @property
    def one_empty(self) -> int:
        """Pairs (case, foreground class) where exactly one of the masks is empty."""
        return self.prediction_empty + self.truth_empty

    def summary(self) -> dict[str, Any]:
        """The fields of this predictor in ``summary.json``."""
        row: dict[str, Any] = {metric: estimate.mean for metric, estimate in self.mean.items()}
        return row | {"dice_ci95": self.mean["dice"].ci95, "distance_unit": self.distance_unit}

    def to_json(self) -> dict[str, Any]:
        """Everything as plain dicts, lists and numbers, for ``evaluation.json``."""
        return asdict(self) | {"dice": self.dice, "one_empty": self.one_empty}


def evaluate_cases(
    predictions: Mapping[str, Labels],
    truths: Mapping[str, Labels],
    class_names: Sequence[str],
    spacing_mm: Mapping[str, Spacing],
    both_empty: float = 1.0,
) -> Evaluation:
    """Score predicted label maps against the truth.

    Args:
        predictions: label map (s, h, w) by case_id, for every case of ``truths``.
        truths: label map (s, h, w) by case_id.
        class_names: the name of each label; the first is the background's.
        spacing_mm: by case_id, (row, column) or (slice, row, column) in mm, or None where unknown.
        both_empty: overlap score of a class that neither mask shows.

    Raises:
        UserError: if there is no case, or a truth holds a label without a name.
        ValueError: if predictions and truths differ in cases or shapes, or a prediction holds a label without a name.
    """
    _check(predictions, truths, class_names)
    is_mm = all(spacing_mm.get(case_id) is not None for case_id in truths)
    cases = tuple(
        _score_case(
            case_id, predictions[case_id], truth, class_names, spacing_mm[case_id] if is_mm else None, both_empty
        )
        for case_id, truth in truths.items()
    )
    pairs = [scores for case in cases for scores in case.classes.values()]
    return Evaluation(
        class_names=tuple(class_names),
        cases=cases,
        mean={metric: _estimate(cases, lambda case, m=metric: case.mean(m)) for metric in CLASS_METRICS + CASE_METRICS},
        classes={
            name: {m: _estimate(cases, lambda case, n=name, m=m: getattr(case.classes[n], m)) for m in CLASS_METRICS}
            for name in class_names[1:]
        },
        distance_unit="mm" if is_mm else "px",
        both_empty_score=both_empty,
        both_empty=sum(s.truth_px == 0 and s.prediction_px == 0 for s in pairs),
        prediction_empty=sum(s.truth_px > 0 and s.prediction_px == 0 for s in pairs),
        truth_empty=sum(s.truth_px == 0 and s.prediction_px > 0 for s in pairs),
        distances=sum(s.distances for s in pairs),
        diagonals=sum(s.diagonals for s in pairs),
        pixels=sum(truth.size for truth in truths.values()),
    )


def trivial_evaluation(
    truths: Mapping[str, Labels],
    class_names: Sequence[str],
    spacing_mm: Mapping[str, Spacing],
    both_empty: float = 1.0,
) -> Evaluation:
    """The scores of predicting background everywhere. Arguments and errors as in `evaluate_cases`."""
    nothing = {case_id: np.zeros_like(truth) for case_id, truth in truths.items()}
    return evaluate_cases(nothing, truths, class_names, spacing_mm, both_empty)


def differing_pixels(a: Mapping[str, Labels], b: Mapping[str, Labels]) -> int:
    """How many pixels two predictors label differently, over all cases.

    Raises:
        ValueError: if the cases or their shapes differ.
    """
    _check_same_cases(a, b)
    return sum(int(np.count_nonzero(a[case_id] != b[case_id])) for case_id in a)


def _score_case(
    case_id: str, prediction: Labels, truth: Labels, class_names: Sequence[str], spacing: Spacing, both_empty: float
) -> CaseScores:
    return CaseScores(
        case_id=case_id,
        shape=truth.shape,
        pixel_accuracy=pixel_accuracy(prediction, truth),
        background_dice=dice_score(prediction == 0, truth == 0, both_empty),
        classes={
            name: _score_class(prediction == label, truth == label, spacing, both_empty)
            for label, name in enumerate(class_names)
            if label > 0
        },
    )


def _score_class(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: Spacing, both_empty: float
) -> ClassScores:
    # A single slice as a volume would have no inside: all its voxels would be surface.
    is_volume = spacing is not None and len(spacing) == 3 and truth.shape[0] > 1
    in_plane = (1.0, 1.0) if spacing is None else tuple(spacing[-2:])
    pairs = [(prediction, truth)] if is_volume else list(zip(prediction, truth, strict=True))
    shown = [(p, t) for p, t in pairs if p.any() or t.any()]
    distances = [surface_distances_mm(p, t, spacing if is_volume and spacing else in_plane) for p, t in shown]
    hd95, assd = np.mean(distances, axis=0) if distances else (0.0, 0.0)
    return ClassScores(
        dice=dice_score(prediction, truth, both_empty),
        iou=iou_score(prediction, truth, both_empty),
        sensitivity=sensitivity(prediction, truth, both_empty),
        specificity=specificity(prediction, truth),
        hd95=float(hd95),
        assd=float(assd),
        distances=len(shown),
        diagonals=sum(not (p.any() and t.any()) for p, t in shown),
        truth_px=int(np.count_nonzero(truth)),
        prediction_px=int(np.count_nonzero(prediction)),
    )


def _estimate(cases: Sequence[CaseScores], score: Callable[[CaseScores], float]) -> Estimate:
    values = [score(case) for case in cases]
    return Estimate(float(np.mean(values)), bootstrap_ci95(values))


def _check(predictions: Mapping[str, Labels], truths: Mapping[str, Labels], class_names: Sequence[str]) -> None:
    if not truths:
        raise UserError("there is no case to evaluate: give at least one image with its mask")
    if len(class_names) < 2 or len(set(class_names)) != len(class_names):
        raise ValueError(f"class_names {tuple(class_names)}: give the background's name and one more, all different")
    _check_same_cases(predictions, truths)
    for case_id, truth in truths.items():
        if truth.ndim != 3:
            raise ValueError(f"case {case_id}: label map of shape {truth.shape}, expected (slices, height, width)")
        if truth.size and truth.max() >= len(class_names):
            known = ", ".join(f"{label} {name}" for label, name in enumerate(class_names))
            raise UserError(
                f"case {case_id}: its mask holds label {truth.max()}, the classes are {known}: map its labels"
            )
        if predictions[case_id].size and predictions[case_id].max() >= len(class_names):
            raise ValueError(f"case {case_id}: predicted label {predictions[case_id].max()} has no name in class_names")


def _check_same_cases(a: Mapping[str, Labels], b: Mapping[str, Labels]) -> None:
    if a.keys() != b.keys():
        odd = ", ".join(sorted(a.keys() ^ b.keys())[:3])
        raise ValueError(f"the two sides hold different cases (in one only: {odd})")
    for case_id in a:
        if a[case_id].shape != b[case_id].shape:
            raise ValueError(f"case {case_id}: shapes {a[case_id].shape} and {b[case_id].shape} differ")
