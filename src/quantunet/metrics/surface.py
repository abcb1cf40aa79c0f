"""Distances between the surfaces of two masks, in the unit of the spacing.

A surface element is a pixel (voxel) of the mask with a face neighbour outside the mask; outside the image counts as
outside the mask. Distances run between centres. Masks of two or three dimensions.

Empty masks: both empty gives 0; one empty gives the diagonal of the image, its corner-to-corner extent, which no
distance between two pixels reaches. The caller counts such cases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from quantunet.metrics.overlap import Mask


def hd95_mm(prediction: Mask, truth: Mask, spacing_mm: Sequence[float]) -> float:
    """95 % Hausdorff distance: the larger of the two directed 95th percentiles.

    Args:
        prediction: boolean mask, (h, w) or (s, h, w).
        truth: boolean mask of the same shape.
        spacing_mm: distance between neighbours along each axis; ones give a result in pixels.

    Raises:
        ValueError: if shapes or dtypes are wrong, or a spacing is not a positive number.
    """
    return surface_distances_mm(prediction, truth, spacing_mm)[0]


def assd_mm(prediction: Mask, truth: Mask, spacing_mm: Sequence[float]) -> float:
    """Average symmetric surface distance: the mean over the elements of both surfaces, pooled.

    Arguments and errors as in `hd95_mm`.
    """
    return surface_distances_mm(prediction, truth, spacing_mm)[1]


def surface_distances_mm(prediction: Mask, truth: Mask, spacing_mm: Sequence[float]) -> tuple[float, float]:
    """``(hd95, assd)`` of one pair of masks, for the price of one. Arguments and errors as in `hd95_mm`."""
    _check(prediction, truth, spacing_mm)
    if not prediction.any() and not truth.any():
        return 0.0, 0.0
    if not prediction.any() or not truth.any():
        diagonal = diagonal_mm(truth.shape, spacing_mm)
        return diagonal, diagonal
    box = _bounding_box(prediction | truth)  # both surfaces lie in it, so cropping leaves every distance as it is
    prediction_surface, truth_surface = surface(prediction[box]), surface(truth[box])
    to_truth = _distance_to(truth_surface, spacing_mm)[prediction_surface]
    to_prediction = _distance_to(prediction_surface, spacing_mm)[truth_surface]
    hd95 = max(np.percentile(to_truth, 95), np.percentile(to_prediction, 95))
    return float(hd95), float(np.concatenate([to_truth, to_prediction]).mean())


def surface(mask: Mask) -> Mask:
    """The elements of ``mask`` with a face neighbour outside it."""
    return mask & ~binary_erosion(mask, border_value=0)


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Corner-to-corner extent of an image of ``shape`` pixels."""
    return float(np.linalg.norm(np.multiply(shape, spacing_mm)))


def _check(prediction: Mask, truth: Mask, spacing_mm: Sequence[float]) -> None:
    if prediction.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ValueError(f"masks have dtypes {prediction.dtype}, {truth.dtype}: give boolean masks, as labels == 1")
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, truth {truth.shape}: they must agree")
    if len(spacing_mm) != truth.ndim or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        raise ValueError(f"spacing_mm {tuple(spacing_mm)} must hold {truth.ndim} positive numbers, one for each axis")


def _distance_to(elements: Mask, spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Distance of every pixel to the nearest of ``elements``, which are not none."""
    return np.asarray(distance_transform_edt(~elements, sampling=spacing_mm))


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds every pixel of a mask that is not empty."""
    box = []
    for axis in range(mask.ndim):
        (used,) = np.nonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)
