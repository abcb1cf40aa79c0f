"""Evaluation: cases solved by hand, conventions and counts, real volumes."""

from __future__ import annotations

import json
import math

import nibabel
import numpy as np
import pytest
from real_data import real_data

from quantunet.errors import UserError
from quantunet.evaluate import CASE_METRICS, CLASS_METRICS, differing_pixels, evaluate_cases, trivial_evaluation
from quantunet.metrics.overlap import dice_score

BINARY = ("background", "lesion")


def _maps(**pixels: list[tuple[int, int, int]]) -> dict[str, np.ndarray]:
    """Cases of 2 slices of 6 x 8 with the given pixels set to 1."""
    maps = {}
    for case_id, points in pixels.items():
        maps[case_id] = np.zeros((2, 6, 8), np.uint8)
        for point in points:
            maps[case_id][point] = 1
    return maps


def test_two_cases_by_hand():
    truths = _maps(a=[(0, 1, 1), (1, 1, 1)], b=[(0, 2, 2)])
    predictions = _maps(a=[(0, 1, 1), (1, 4, 5)], b=[(0, 2, 2)])
    evaluation = evaluate_cases(predictions, truths, BINARY, {"a": (1, 1), "b": (1, 1)})
    a, b = (case.classes["lesion"] for case in evaluation.cases)
    assert (a.dice, a.iou, a.sensitivity) == (0.5, 1 / 3, 0.5)  # pooled over both slices
    assert a.specificity == 93 / 94
    assert (a.hd95, a.assd, a.distances, a.diagonals) == (2.5, 2.5, 2, 0)  # by slice: 0 and 5
    assert (b.dice, b.hd95, b.distances) == (1, 0, 1)  # the slice without any foreground is not averaged
    assert evaluation.dice == 0.75
    assert evaluation.mean["dice"].ci95 == (0.5, 1.0)
    assert evaluation.mean["hd95"].mean == 1.25
    assert evaluation.mean["pixel_accuracy"].mean == (94 / 96 + 1) / 2
    assert evaluation.cases[0].background_dice == 2 * 93 / (2 * 93 + 2)
    assert (evaluation.pixels, evaluation.distance_unit) == (192, "mm")
    assert differing_pixels(predictions, truths) == 2


def test_volumes_are_measured_in_three_dimensions():
    truths, predictions = _maps(a=[(0, 1, 1)]), _maps(a=[(1, 1, 1)])
    in_3d = evaluate_cases(predictions, truths, BINARY, {"a": (4.0, 1.0, 1.0)}).cases[0].classes["lesion"]
    assert (in_3d.hd95, in_3d.distances, in_3d.diagonals) == (4, 1, 0)
    by_slice = evaluate_cases(predictions, truths, BINARY, {"a": (1.0, 1.0)}).cases[0].classes["lesion"]
    assert (by_slice.hd95, by_slice.distances, by_slice.diagonals) == (10, 2, 2)  # the diagonal of 6 x 8, twice


def test_a_single_slice_is_measured_in_plane_even_with_three_spacings():
    truth, prediction = np.zeros((2, 1, 9, 9), np.uint8)
    truth[0, 1:8, 1:8] = 1
    prediction[0, 1:8, 1:8] = 1
    prediction[0, 4, 4] = 0
    scores = evaluate_cases({"a": prediction}, {"a": truth}, BINARY, {"a": (5, 2, 2)}).cases[0].classes["lesion"]
    assert scores.hd95 > 0  # as a volume of one slice, the filled truth would be its own surface


def test_one_unit_for_all_cases():
    truths, predictions = _maps(a=[(0, 1, 1)], b=[(0, 1, 1)]), _maps(a=[(0, 1, 3)], b=[(0, 1, 3)])
    assert evaluate_cases(predictions, truths, BINARY, {"a": (2, 2), "b": (2, 2)}).mean["hd95"].mean == 4
    mixed = evaluate_cases(predictions, truths, BINARY, {"a": (2, 2), "b": None})
    assert (mixed.mean["hd95"].mean, mixed.distance_unit) == (2, "px")


def test_empty_masks_are_scored_and_counted():
    truths = _maps(both=[], truth_only=[(0, 1, 1)], prediction_only=[], fine=[(0, 1, 1)])
    predictions = _maps(both=[], truth_only=[], prediction_only=[(0, 1, 1)], fine=[(0, 1, 1)])
    evaluation = evaluate_cases(predictions, truths, BINARY, {}, both_empty=0.5)
    counts = (evaluation.both_empty, evaluation.prediction_empty, evaluation.truth_empty, evaluation.one_empty)
    assert counts == (1, 1, 1, 2)
    scores = {case.case_id: case.classes["lesion"] for case in evaluation.cases}
    assert {case_id: s.dice for case_id, s in scores.items()} == {
        "both": 0.5,
        "truth_only": 0,
        "prediction_only": 0,
        "fine": 1,
    }
    assert {case_id: s.hd95 for case_id, s in scores.items()} == {
        "both": 0,
        "truth_only": 10,
        "prediction_only": 10,
        "fine": 0,
    }
    assert (evaluation.distances, evaluation.diagonals) == (3, 2)


def test_classes_are_averaged_in_each_case():
    truth = np.zeros((1, 4, 4), np.uint8)
    truth[0, 0], truth[0, 2] = 1, 2
    prediction = truth.copy()
    prediction[0, 2, :2] = 0
    evaluation = evaluate_cases({"a": prediction}, {"a": truth}, ("background", "cup", "disc"), {"a": None})
    assert evaluation.classes["cup"]["dice"].mean == 1
    assert evaluation.classes["disc"]["dice"].mean == 2 / 3
    assert evaluation.dice == pytest.approx(5 / 6, abs=1e-15)
    assert evaluation.mean["dice"].ci95 is None  # one case has no spread


def test_json_holds_every_field():
    truths = _maps(a=[(0, 1, 1)], b=[(0, 2, 2)])
    evaluation = evaluate_cases(truths, truths, BINARY, {"a": None, "b": None})
    written = json.loads(json.dumps(evaluation.to_json()))
    assert set(written["mean"]) == {*CLASS_METRICS, *CASE_METRICS}
    assert written["cases"][0]["classes"]["lesion"]["dice"] == 1.0
    assert written["dice"] == 1.0
    assert {"dice", "dice_ci95", "iou", "hd95", "pixel_accuracy"} <= set(evaluation.summary())


def test_trivial_predictor():
    truths = _maps(a=[(0, 1, 1)], b=[])
    evaluation = trivial_evaluation(truths, BINARY, {})
    assert (evaluation.prediction_empty, evaluation.both_empty, evaluation.dice) == (1, 1, 0.5)
    assert evaluation.mean["pixel_accuracy"].mean == (95 / 96 + 1) / 2


def test_real_volumes_with_their_own_spacing():
    folder = real_data("hippocampus_msd/labelsTr")
    truths, predictions, spacing = {}, {}, {}
    for path in sorted(folder.glob("*.nii.gz"))[:4]:
        image = nibabel.load(path)
        labels = np.asarray(image.dataobj, np.uint8).transpose(2, 0, 1)  # pyright: ignore[reportAttributeAccessIssue]
        zooms = image.header.get_zooms()  # pyright: ignore[reportAttributeAccessIssue]
        truths[path.name], spacing[path.name] = labels, tuple(float(zooms[i]) for i in (2, 0, 1))
        predictions[path.name] = np.roll(labels, 1, axis=1)
    evaluation = evaluate_cases(predictions, truths, ("background", "anterior", "posterior"), spacing)
    assert evaluation.distance_unit == "mm"
    assert evaluation.mean["hd95"].mean == pytest.approx(1.0, abs=0.1)  # all voxels moved by one of 1 mm
    by_hand = [dice_score(predictions[c] == k, truths[c] == k) for c in truths for k in (1, 2)]
    assert math.isclose(evaluation.dice, np.mean(by_hand), rel_tol=1e-12)  # another order of summation


def test_mistakes_are_named():
    truths = _maps(a=[(0, 1, 1)])
    with pytest.raises(UserError, match="no case to evaluate"):
        evaluate_cases({}, {}, BINARY, {})
    with pytest.raises(ValueError, match=r"different cases \(in one only: a, b\)"):
        evaluate_cases(_maps(b=[]), truths, BINARY, {})
    with pytest.raises(ValueError, match="case a: shapes"):
        evaluate_cases({"a": truths["a"][:1]}, truths, BINARY, {})
    with pytest.raises(UserError, match="case a: its mask holds label 2, the classes are 0 background, 1 lesion"):
        evaluate_cases(truths, {"a": truths["a"] * 2}, BINARY, {})
    with pytest.raises(ValueError, match="predicted label 2"):
        evaluate_cases({"a": truths["a"] * 2}, truths, BINARY, {})
    with pytest.raises(ValueError, match="all different"):
        evaluate_cases(truths, truths, ("background",), {})
    with pytest.raises(ValueError, match="expected \\(slices, height, width\\)"):
        evaluate_cases({"a": truths["a"][0]}, {"a": truths["a"][0]}, BINARY, {})
