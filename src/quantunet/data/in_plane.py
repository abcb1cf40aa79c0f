"""Slices resampled to one spacing or size, cropped about their centre, and masks brought back to the file's grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantunet.errors import UserError

_SAME = 1e-6  # relative difference of spacings below which nothing is resampled: headers hold float32


@dataclass(frozen=True)
class InPlane:
    """What is done to every slice: first ``resample_mm`` or ``resize_px`` (row, column), then a crop to ``crop_px``."""

    resample_mm: tuple[float, float] | None = None
    crop_px: tuple[int, int] | None = None
    resize_px: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """For manifests and model files; ``from_json`` is its inverse."""
        return {
            "resample_mm": list(self.resample_mm) if self.resample_mm else None,
            "crop_px": list(self.crop_px) if self.crop_px else None,
            "resize_px": list(self.resize_px) if self.resize_px else None,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> InPlane | None:
        """None for None: slices as they are."""
        if content is None:
            return None
        resample_mm, crop_px, resize_px = (content.get(key) for key in ("resample_mm", "crop_px", "resize_px"))
        return cls(
            (float(resample_mm[0]), float(resample_mm[1])) if resample_mm else None,
            (int(crop_px[0]), int(crop_px[1])) if crop_px else None,
            (int(resize_px[0]), int(resize_px[1])) if resize_px else None,
        )


@dataclass(frozen=True)
class Placement:
    """Where the network's picture lies in the file's: both (rows, columns) in pixels.

    ``scale`` is the step of the resampled grid in pixels of the file, by axis; the centres of both grids coincide.
    """

    source_px: tuple[int, int]
    resampled_px: tuple[int, int]
    scale: tuple[float, float]
    start_px: tuple[int, int]
    size_px: tuple[int, int]


def place(
    source_px: tuple[int, int], spacing_mm: tuple[float, ...] | None, in_plane: InPlane, what: object = "the image"
) -> Placement:
    """The placement that ``in_plane`` gives a picture of this size.

    Args:
        source_px: (rows, columns) of the file's picture.
        spacing_mm: its spacing; the last two entries are (row, column).
        in_plane: what is to be done.
        what: named in the error.

    Raises:
        UserError: resampling a picture whose spacing is not known.
    """
    scale, resampled = (1.0, 1.0), source_px
    if in_plane.resample_mm is not None:
        if spacing_mm is None:
            raise UserError(
                f"{what}: its pixel spacing is not recorded: in the place of data.resample_mm give data.resize_px"
            )
        row, column = (target / own for target, own in zip(in_plane.resample_mm, spacing_mm[-2:], strict=True))
        scale = (1.0 if abs(row - 1) < _SAME else row, 1.0 if abs(column - 1) < _SAME else column)
        rows, columns = (max(1, floor(n / step + 0.5)) for n, step in zip(source_px, scale, strict=True))
        resampled = (rows, columns)
    elif in_plane.resize_px is not None:
        resampled = in_plane.resize_px
        scale = (source_px[0] / resampled[0], source_px[1] / resampled[1])
    crop = in_plane.crop_px or resampled
    size = (min(crop[0], resampled[0]), min(crop[1], resampled[1]))
    start = ((resampled[0] - size[0]) // 2, (resampled[1] - size[1]) // 2)
    return Placement(source_px, resampled, scale, start, size)


def placed_spacing_mm(spacing_mm: tuple[float, ...] | None, placement: Placement) -> tuple[float, ...] | None:
    """The spacing of the network's picture: the slice distance stays, row and column follow the resampling."""
    if spacing_mm is None:
        return None
    row, column = spacing_mm[-2] * placement.scale[0], spacing_mm[-1] * placement.scale[1]
    return (*spacing_mm[:-2], row, column)


def place_image(image: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """``image`` (c, h, w) resampled linearly and cropped. Coarser grids are not low-pass filtered first."""
    for axis in (1, 2):
        if placement.scale[axis - 1] != 1.0:
            image = _linear(image, axis, _positions(placement, axis - 1))
    return np.ascontiguousarray(_crop(image, placement))


def place_mask(mask: NDArray, placement: Placement) -> NDArray:
    """``mask`` (h, w) resampled by the nearest pixel and cropped."""
    return np.ascontiguousarray(_crop(resample_mask(mask, placement), placement))


def resample_mask(mask: NDArray, placement: Placement) -> NDArray:
    """``mask`` (h, w) on the resampled grid, before the crop."""
    for axis in (0, 1):
        if placement.scale[axis] != 1.0:
            mask = mask.take(_nearest(_positions(placement, axis), mask.shape[axis]), axis)
    return mask


def restore_mask(mask: NDArray, placement: Placement | None) -> NDArray:
    """The inverse for a predicted mask (h, w): pasted into background, then each pixel of the file takes its nearest.

    Raises:
        ValueError: a mask that is not of the placement's size.
    """
    if placement is None:
        return mask
    if mask.shape != placement.size_px:
        raise ValueError(f"a mask of shape {mask.shape}, expected {placement.size_px}")
    (top, left), (height, width) = placement.start_px, placement.size_px
    whole = np.zeros(placement.resampled_px, mask.dtype)
    whole[top : top + height, left : left + width] = mask
    for axis in (0, 1):
        step, count, own = placement.scale[axis], placement.source_px[axis], placement.resampled_px[axis]
        if step != 1.0:
            positions = (np.arange(count) - (count - 1) / 2) / step + (own - 1) / 2
            whole = whole.take(_nearest(positions, own), axis)
    return np.ascontiguousarray(whole)


def _positions(placement: Placement, axis: int) -> NDArray:
    """Where the pixels of the resampled grid lie, in pixels of the file."""
    count, own = placement.resampled_px[axis], placement.source_px[axis]
    return (np.arange(count) - (count - 1) / 2) * placement.scale[axis] + (own - 1) / 2


def _nearest(positions: NDArray, count: int) -> NDArray[np.int64]:
    """Indices, ties up; beyond the border the border."""
    return np.clip(np.floor(positions + 0.5).astype(np.int64), 0, count - 1)


def _linear(image: NDArray, axis: int, positions: NDArray) -> NDArray[np.float32]:
    count = image.shape[axis]
    inside = np.clip(positions, 0, count - 1)
    low = np.minimum(inside.astype(np.int64), max(count - 2, 0))
    shape = [1] * image.ndim
    shape[axis] = -1
    weight = (inside - low).reshape(shape)
    high = np.minimum(low + 1, count - 1)
    mixed = image.take(low, axis).astype(np.float64) * (1.0 - weight) + image.take(high, axis) * weight
    return mixed.astype(np.float32)


def _crop(array: NDArray, placement: Placement) -> NDArray:
    (top, left), (height, width) = placement.start_px, placement.size_px
    return array[..., top : top + height, left : left + width]
