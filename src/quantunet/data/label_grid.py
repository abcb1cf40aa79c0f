"""NIfTI labels on the grid of a DICOM series: which axis runs which way, and whether the result is plausible."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantunet.data.dicom_file import Series
from quantunet.data.image_file import to_integers
from quantunet.data.nifti_file import Volume
from quantunet.errors import UserError

_MAX_SHIFT = 0.25  # of a voxel at the worst corner
_TISSUE_HU = (-200.0, 300.0)
_MISFIT = 0.1  # a mirrored reading that has so much more of the labels on tissue is worth a line
_AXES = {"slices": 0, "rows": 1, "columns": 2}


def labels_on_series(
    volume: Volume, series: Series, path: Path, flip: Sequence[str] | None
) -> tuple[NDArray, str | None]:
    """Labels (s, h, w) for the slices of ``series``, and a line when their affine could not be used.

    With ``flip`` None, a volume whose affine fits the series is mirrored as the affine says. Otherwise the affine is
    passed over: array axes are (column, row, slice) as stored, slices in the order of InstanceNumber, and the axes in
    ``flip`` reversed. NIH's Pancreas-CT labels are such: their affine denies the order they are stored in.

    Raises:
        UserError: another size than the series.
    """
    count, _, height, width = series.pixels.shape
    if volume.data.shape != (width, height, count, 1):
        shape = "x".join(map(str, volume.data.shape[:3]))
        raise UserError(f"{path}: {shape} voxels, but the series {series.paths[0].parent} has {width}x{height}x{count}")
    stored = to_integers(volume.data[..., 0].transpose(2, 1, 0), path)
    if flip is None:
        axes = _mirrored_axes(volume, series, stored.shape)
        if axes is not None:
            return np.ascontiguousarray(np.flip(stored, axes)), None
    order = np.argsort(np.argsort(series.numbers, kind="stable"), kind="stable")  # the rank of each slice's number
    labels = np.flip(stored, tuple(_AXES[name] for name in flip or ()))[order]
    line = None
    if flip is None:
        line = (
            f"{path.name}: its affine does not fit the series: labels taken as stored, slices by InstanceNumber; "
            "look at the picture, and mend with label_flip"
        )
    return np.ascontiguousarray(labels), line


def _mirrored_axes(volume: Volume, series: Series, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes of (s, h, w) to reverse so that every corner of both grids is at the same place; None when none fit."""
    if series.affine is None:
        return None
    corners = np.array([[*corner, 1] for corner in product((0, 1), repeat=3)])  # column, row, slice
    last = np.array([shape[2] - 1, shape[1] - 1, shape[0] - 1, 1])
    target = corners * last @ series.affine.T
    limit = _MAX_SHIFT * float(np.linalg.norm(series.affine[:3, :3], axis=0).min())
    for reverse in product((0, 1), repeat=3):
        mirrored = np.where(np.array([*reverse, 0]) == 1, 1 - corners, corners)
        if np.abs(mirrored * last @ volume.affine.T - target).max() <= limit:
            return tuple(2 - axis for axis in range(3) if reverse[axis])
    return None


def misfit_line(labels: NDArray, series: Series, name: str) -> str | None:
    """A line when CT labels lie on tissue much more often after mirroring rows or slices than as they are."""
    foreground = labels != 0
    if series.modality != "CT" or not foreground.any():
        return None
    low, high = _TISSUE_HU
    tissue = (series.pixels[:, 0] >= low) & (series.pixels[:, 0] <= high)
    share = float(tissue[foreground].mean())
    better = {
        axes: float(tissue[np.flip(foreground, tuple(_AXES[axis] for axis in axes))].mean())
        for axes in (("rows",), ("slices",), ("rows", "slices"), ("columns",))
    }
    best = max(better, key=lambda axes: better[axes])
    if better[best] < share + _MISFIT:
        return None
    return (
        f"{name}: {share:.0%} of its labels lie on soft tissue, {better[best]:.0%} with {' and '.join(best)} reversed: "
        "look at the picture, and set label_flip"
    )
