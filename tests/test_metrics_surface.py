"""Surface distances: cases solved by hand, brute force over all pairs, and MONAI on real volumes."""

from __future__ import annotations

import math

import nibabel
import numpy as np
import pytest
from real_data import real_data
from scipy.ndimage import shift

from quantunet.metrics.surface import assd_mm, diagonal_mm, hd95_mm, surface, surface_distances_mm


def test_surface_is_the_pixels_with_a_face_neighbour_outside():
    square = np.zeros((5, 5), bool)
    square[1:4, 1:4] = True
    ring = square.copy()
    ring[2, 2] = False
    assert np.array_equal(surface(square), ring)
    full = np.ones((3, 3), bool)  # the image's border counts as outside
    assert surface(full).sum() == 8


def test_points_solved_by_hand():
    a, b = np.zeros((2, 8, 8), bool)
    a[2, 1] = b[5, 5] = True
    assert surface_distances_mm(a, b, (1, 1)) == (5, 5)  # 3-4-5
    assert surface_distances_mm(a, b, (2, 0.5)) == (math.hypot(6, 2),) * 2  # spacing by axis
    b[2, 1] = True  # a is found; b has one more point 5 away: directed percentiles 0 and 95 % of 5
    assert hd95_mm(a, b, (1, 1)) == pytest.approx(4.75, abs=1e-12)  # the larger; np.percentile interpolates
    assert assd_mm(a, b, (1, 1)) == 5 / 3  # (0 + 0 + 5) / 3


def test_line_moved_by_two_rows():
    a, b = np.zeros((2, 9, 9), bool)
    a[2], b[4] = True, True
    assert surface_distances_mm(a, b, (0.7, 3)) == pytest.approx((1.4, 1.4), abs=1e-12)


def test_empty_masks():
    nothing, something = np.zeros((3, 4), bool), np.zeros((3, 4), bool)
    something[1, 1] = True
    assert surface_distances_mm(nothing, nothing, (1, 1)) == (0, 0)
    assert surface_distances_mm(nothing, something, (1, 1)) == (5, 5)  # diagonal of 3 x 4
    assert surface_distances_mm(something, nothing, (2, 2)) == (10, 10)
    assert diagonal_mm((2, 3, 6), (1, 1, 1)) == 7


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(12, 9), (5, 8, 7)])
def test_equal_to_all_pairs(seed, shape):
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, *shape)) < 0.3
    spacing = rng.uniform(0.3, 3, len(shape))
    points = [np.argwhere(surface(m)) * spacing for m in (a, b)]
    all_pairs = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    forth, back = all_pairs.min(axis=1), all_pairs.min(axis=0)
    hd95, assd = surface_distances_mm(a, b, spacing)
    # float64 sums of a few squares, in another order
    assert math.isclose(hd95, max(np.percentile(forth, 95), np.percentile(back, 95)), rel_tol=1e-12)
    assert math.isclose(assd, np.concatenate([forth, back]).mean(), rel_tol=1e-12)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call to itself
@pytest.mark.parametrize("name", ["hippocampus_001", "hippocampus_019", "hippocampus_041"])
def test_equal_to_monai_on_real_volumes(name):
    torch = pytest.importorskip("torch")
    monai_metrics = pytest.importorskip("monai.metrics")
    path = real_data("hippocampus_msd/labelsTr") / f"{name}.nii.gz"
    truth = np.asarray(nibabel.load(path).dataobj) > 0  # pyright: ignore[reportAttributeAccessIssue]
    prediction = shift(truth, (2, -1, 1), order=0)
    prediction[:, ::3] = truth[:, ::3]  # ragged, so that both directions differ
    spacing = (0.8, 1.0, 2.5)
    x, y = (torch.from_numpy(m[None, None].astype(np.float32)) for m in (prediction, truth))
    options = {"include_background": True, "spacing": spacing}
    hd95 = monai_metrics.compute_hausdorff_distance(x, y, percentile=95, **options).item()
    assd = monai_metrics.compute_average_surface_distance(x, y, symmetric=True, **options).item()
    # The same surface (erosion by a face neighbour) and the same percentile; MONAI keeps distances in float32.
    assert math.isclose(hd95_mm(prediction, truth, spacing), hd95, rel_tol=1e-5)
    assert math.isclose(assd_mm(prediction, truth, spacing), assd, rel_tol=1e-5)
    assert hd95 > 0


def test_mistakes_are_named():
    mask = np.zeros((3, 3), bool)
    with pytest.raises(ValueError, match="2 positive numbers"):
        hd95_mm(mask, mask, (1, 0))
    with pytest.raises(ValueError, match="2 positive numbers"):
        hd95_mm(mask, mask, (1, 1, 1))
    with pytest.raises(ValueError, match="must agree"):
        hd95_mm(mask, mask[:2], (1, 1))
    with pytest.raises(ValueError, match="boolean masks"):
        hd95_mm(mask.astype(np.uint8), mask, (1, 1))
