"""DICOM series: slices in the order of their positions, in Hounsfield units for CT, or one clear line why not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.utils import pixel_array

from quantunet.errors import UserError

_NO_IMAGE = frozenset({"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG"})
_SHARED = {"SeriesInstanceUID": "series", "Modality": "modality", "PatientID": "patient"}  # one value in a series
_MAX_RESCALE = 1e9  # float32 stays finite
_SAME_MM = 1e-3  # positions closer than this are one position
_SAME_COSINE = 1e-4
_MAX_STEP = 0.25  # of the median step: scanners round positions to 0.1 mm, a missing slice doubles the step
_MAX_TILT_DEGREES = 0.5


@dataclass(frozen=True, eq=False)
class Series:
    """One series.

    Attributes:
        pixels: float32 (s, c, h, w), rows and columns as stored, slices along their normal (feet to head when axial).
        spacing_mm: (slice, row, column) from the positions; (row, column) of a single slice; None when not recorded.
        affine: (column, row, slice) to NIfTI's millimetres (right, anterior, superior); None without positions.
        paths: of the slices, in their order.
        numbers: InstanceNumber of each slice.
        modality: as the files say, "CT".
        patient_id: as the files say.
    """

    pixels: NDArray[np.float32]
    spacing_mm: tuple[float, ...] | None
    affine: NDArray[np.float64] | None
    paths: tuple[Path, ...]
    numbers: tuple[int, ...]
    modality: str
    patient_id: str


@dataclass(frozen=True, eq=False)
class _Header:
    """What a file says of itself, read out at once: pydicom decodes each entry only when asked, and may fail then."""

    path: Path
    dataset: Any
    texts: dict[str, str]
    number: int
    tilt_degrees: float


@dataclass(frozen=True, eq=False)
class _Slice:
    header: _Header
    pixels: NDArray[np.float32]  # (c, h, w)
    position: NDArray[np.float64] | None
    directions: NDArray[np.float64] | None  # (2, 3): along a row, along a column
    spacing: tuple[float, float] | None  # (row, column)

    @property
    def path(self) -> Path:
        return self.header.path


def read_series(paths: Sequence[Path]) -> Series | None:
    """The files of one folder as one series; None when they are no images (segmentations, reports).

    Raises:
        UserError: damaged or multi-frame files, CT without rescale values, and mixed series, other sizes, spacings or
            directions, two slices at one position, a missing slice, gantry tilt.
    """
    images = [header for header in map(_read, paths) if header.texts["Modality"] not in _NO_IMAGE]
    if not images:
        return None
    first = images[0]
    for header in images[1:]:
        for key, what in _SHARED.items():
            if header.texts[key] != first.texts[key]:
                raise UserError(
                    f"{header.path}: another {what} than {first.path.name} ({_plain(header.texts[key])}, "
                    f"{_plain(first.texts[key])}): keep one series in a folder"
                )
    slices = [_slice(header) for header in images]
    for one in slices[1:]:
        _check_alike(one, slices[0])
    slices, step_mm = _sorted(slices)
    spacing = slices[0].spacing
    return Series(
        pixels=np.stack([one.pixels for one in slices]),
        spacing_mm=spacing if spacing is None or step_mm is None else (step_mm, *spacing),
        affine=_affine(slices[0], step_mm),
        paths=tuple(one.path for one in slices),
        numbers=tuple(one.header.number for one in slices),
        modality=first.texts["Modality"],
        patient_id=first.texts["PatientID"],
    )


def _read(path: Path) -> _Header:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of harmless deviations from the standard
            dataset = pydicom.dcmread(path)
            texts = {key: str(dataset.get(key) or "") for key in _SHARED}
            number, tilt = int(dataset.get("InstanceNumber") or 0), float(dataset.get("GantryDetectorTilt") or 0.0)
            return _Header(path, dataset, texts, number, tilt)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # InvalidDicomError, EOFError, ValueError, NotImplementedError ... by what is damaged
        raise UserError(f"{path}: not readable as DICOM ({_short(error)}): replace the file") from error


def _slice(header: _Header) -> _Slice:
    path, dataset = header.path, header.dataset
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames = int(dataset.get("NumberOfFrames") or 1)
            if frames != 1:
                raise UserError(f"{path}: {frames} frames in one file: save the series as one file per slice")
            pixels = pixel_array(dataset).astype(np.float32)
            position = _floats(dataset, "ImagePositionPatient", 3)
            directions = _floats(dataset, "ImageOrientationPatient", 6)
            spacing = _floats(dataset, "PixelSpacing", 2)
            stated = [dataset.get(key) for key in ("RescaleSlope", "RescaleIntercept")]
            rescale = None if None in stated else (float(stated[0]), float(stated[1]))
            if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
                pixels = np.float32(2 ** int(dataset.BitsStored) - 1) - pixels  # stored with white as 0
    except UserError:
        raise
    except Exception as error:  # no PixelData, an unknown compression, truncated pixels, text for numbers ...
        raise UserError(f"{path}: not readable as DICOM ({_short(error)}): replace or convert the file") from error
    if header.texts["Modality"] == "CT" and rescale is None:
        raise UserError(f"{path}: a CT slice without rescale slope and intercept: its Hounsfield units are not known")
    if rescale is not None:
        slope, intercept = rescale
        if slope == 0 or not np.isfinite(rescale).all() or max(map(abs, rescale)) > _MAX_RESCALE:
            raise UserError(f"{path}: rescale slope {slope:g} and intercept {intercept:g}: damaged")
        pixels = pixels * np.float32(slope) + np.float32(intercept)
    return _Slice(
        header,
        pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1),
        position,
        None if directions is None else directions.reshape(2, 3),
        None if spacing is None or not (spacing > 0).all() else (float(spacing[0]), float(spacing[1])),
    )


def _check_alike(one: _Slice, first: _Slice) -> None:
    what = None
    if one.pixels.shape != first.pixels.shape:
        what = f"{one.pixels.shape[1]}x{one.pixels.shape[2]} pixels, {first.pixels.shape[1]}x{first.pixels.shape[2]}"
    elif one.spacing != first.spacing:
        what = f"pixel spacing {one.spacing}, {first.spacing}"
    elif one.directions is None or first.directions is None or one.position is None or first.position is None:
        raise UserError(f"{one.path}: no position or orientation in its header: a series cannot be sorted without")
    elif np.abs(one.directions - first.directions).max() > _SAME_COSINE:
        what = f"orientation {_plain(one.directions.ravel())}, {_plain(first.directions.ravel())}"
    if what:
        raise UserError(f"{one.path}: mixed series: {what} in {first.path.name}: keep one series in a folder")


def _sorted(slices: list[_Slice]) -> tuple[list[_Slice], float | None]:
    """The slices along their normal, and the step between them."""
    if len(slices) == 1:
        return slices, None
    first = slices[0]
    assert first.directions is not None
    normal = np.cross(first.directions[0], first.directions[1])
    along = np.array([float(np.dot(one.position, normal)) for one in slices if one.position is not None])
    order = np.argsort(along, kind="stable")
    slices, along = [slices[k] for k in order], along[order]
    steps = np.diff(along)
    k = int(np.argmin(steps))
    if steps[k] < _SAME_MM:
        raise UserError(f"{slices[k + 1].path}: at the same position as {slices[k].path.name}: remove one of the two")
    last, begin = slices[-1].position, slices[0].position
    assert last is not None
    assert begin is not None
    tilt = float(np.degrees(np.arccos(min(1.0, (along[-1] - along[0]) / float(np.linalg.norm(last - begin))))))
    stated = abs(first.header.tilt_degrees)
    if max(tilt, stated) > _MAX_TILT_DEGREES:
        raise UserError(
            f"{slices[0].path}: gantry tilt of {max(tilt, stated):.1f} degrees: the slices are sheared, resample the "
            "series to a straight grid first"
        )
    step_mm = float(np.median(steps))
    k = int(np.argmax(np.abs(steps - step_mm)))
    if abs(steps[k] - step_mm) > _MAX_STEP * step_mm:
        raise UserError(
            f"{slices[k + 1].path}: {steps[k]:.3g} mm after {slices[k].path.name}, elsewhere {step_mm:.3g} mm: a slice "
            "is missing or the spacing is uneven"
        )
    return slices, float((along[-1] - along[0]) / (len(slices) - 1))


def _affine(first: _Slice, step_mm: float | None) -> NDArray[np.float64] | None:
    if first.position is None or first.directions is None or first.spacing is None:
        return None
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.spacing[1]
    affine[:3, 1] = first.directions[1] * first.spacing[0]
    affine[:3, 2] = np.cross(first.directions[0], first.directions[1]) * (step_mm or 1.0)
    affine[:3, 3] = first.position
    affine[:2] *= -1  # left, posterior -> right, anterior
    return affine


def _floats(header: Any, key: str, count: int) -> NDArray[np.float64] | None:
    value = header.get(key)
    if value is None or len(value) != count:
        return None
    numbers = np.array([float(number) for number in value])
    return numbers if np.isfinite(numbers).all() else None


def _plain(value: object) -> str:
    if isinstance(value, np.ndarray):
        return "(" + ", ".join(f"{number:.3g}" for number in value) + ")"
    text = str(value)
    return text if len(text) <= 24 else f"...{text[-20:]}"


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
