"""Pictures and multi-page TIFFs: pixels as they are stored, or one clear line why not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from quantunet.errors import UserError

TIFF = frozenset({".tif", ".tiff"})
JPEG = frozenset({".jpg", ".jpeg"})
PICTURES = frozenset({".png", ".bmp"}) | JPEG | TIFF

_MICROMETRE_NAMES = {"micron", "um", "µm", "\\u00B5m", "micrometer", "micrometre"}


@dataclass(frozen=True, eq=False)
class Pages:
    """``pixels`` (s, c, h, w), the file's dtype; ``file_channels`` before a grey RGB was reduced to one channel."""

    pixels: NDArray
    file_channels: int
    spacing_mm: tuple[float, ...] | None


def read_pages(path: Path) -> Pages:
    """All pages of a picture file; alpha is dropped, three equal channels become one.

    Raises:
        UserError: file missing, damaged, empty, of an unknown kind, or with NaN or infinite pixels.
    """
    stored, spacing_mm = _read_tiff(path) if path.suffix.lower() in TIFF else (_read_picture(path), None)
    if stored.dtype == bool:
        stored = stored.astype(np.uint8)
    if stored.dtype.kind not in "uif" or stored.size == 0:
        raise UserError(
            f"{path}: pixels of type {stored.dtype}, shape {stored.shape}: save it as 8 or 16 bit grey or RGB"
        )
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise UserError(f"{path}: has NaN or infinite pixels: repair or remove the image")
    channels = stored.shape[1]
    stored = stored[:, : {2: 1, 4: 3}.get(channels, channels)]  # alpha says nothing about tissue
    file_channels = stored.shape[1]
    if file_channels == 3 and np.array_equal(stored[:, 0], stored[:, 1]) and np.array_equal(stored[:, 0], stored[:, 2]):
        stored = stored[:, :1]
    return Pages(np.ascontiguousarray(stored), file_channels, spacing_mm)


def read_label_pages(path: Path) -> tuple[NDArray, str | None]:
    """Mask values (s, h, w), integers, and a note when they had to be interpreted.

    Palette pictures give their indices. JPEG masks are thresholded at 127: their compression blurs the edges.

    Raises:
        UserError: as ``read_pages``, and for colour masks, fractions, and JPEGs that are not nearly two-valued.
    """
    if path.suffix.lower() in TIFF:
        stored, _ = _read_tiff(path)
    else:
        stored = _read_picture(path, palette_as_index=True)
    channels = stored[:, :3] if stored.shape[1] in (3, 4) else stored[:, :1]
    labels = channels[:, 0]
    if not all(np.array_equal(labels, channels[:, k]) for k in range(1, channels.shape[1])):
        raise UserError(f"{path}: a colour mask (RGB): save it as one channel of class indices, or as a palette PNG")
    labels, note = to_integers(labels, path), None
    if path.suffix.lower() in JPEG and labels.max(initial=0) > 1:
        between = float(np.mean((labels > 63) & (labels < 192)))
        if between > 0.02:
            raise UserError(
                f"{path}: a JPEG mask with {between:.0%} of its pixels between black and white: JPEG cannot hold class "
                "indices, save masks as PNG"
            )
        note = "JPEG masks were thresholded at 127 (JPEG blurs their edges; PNG would not)"
        labels = np.where(labels > 127, 255, 0).astype(np.uint8)
    return labels, note


def to_integers(labels: NDArray, path: Path) -> NDArray:
    """``labels`` in an integer dtype, unchanged in value.

    Raises:
        UserError: for NaN, fractions or another dtype, naming ``path``.
    """
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    if labels.dtype.kind in "ui":
        return labels
    if labels.dtype.kind != "f" or not np.isfinite(labels).all():
        raise UserError(f"{path}: a mask of type {labels.dtype} with NaN or no numbers: masks hold whole class values")
    rounded = np.rint(labels)
    # 1e-4: scaled headers store 0.99999997 for 1; a fraction of interpolation is far larger
    if np.abs(labels - rounded).max(initial=0.0) > 1e-4:
        worst = labels.flat[int(np.argmax(np.abs(labels - rounded)))]
        raise UserError(
            f"{path}: the mask has fractions ({worst:g}): resample masks with nearest neighbour, not linear"
        )
    return rounded.astype(np.int64)


def _read_picture(path: Path, palette_as_index: bool = False) -> NDArray:
    """(1, c, h, w) by Pillow."""
    try:
        with Image.open(path) as picture:
            picture.verify()  # the CRC of every PNG chunk, which load() skips
        with Image.open(path) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                raise UserError(
                    f"{path}: an animation of {getattr(picture, 'n_frames', 0)} frames: save single pictures"
                )
            is_palette_image = picture.mode == "P" and not palette_as_index
            if is_palette_image or picture.mode in ("CMYK", "YCbCr", "LAB", "HSV", "PA"):
                picture = picture.convert("RGB")
            array = np.array(picture)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UserError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, by format
        raise UserError(f"{path}: damaged or no picture ({_short(error)}): replace the file") from error
    return array[None, None] if array.ndim == 2 else array.transpose(2, 0, 1)[None]


def _read_tiff(path: Path) -> tuple[NDArray, tuple[float, ...] | None]:
    """(s, c, h, w) by tifffile, and the spacing where ImageJ recorded one."""
    try:
        with _tifffile_errors() as errors, tifffile.TiffFile(path) as tiff:
            length_bytes = path.stat().st_size
            for page in tiff.pages:
                # tifffile fills what lies beyond the end of a truncated file with zeros
                ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
                if max(ends, default=0) > length_bytes:
                    raise ValueError(f"truncated: {length_bytes} of {max(ends)} bytes")
            series = tiff.series[0]
            if len(tiff.series) > 1 and len({(one.shape, one.dtype) for one in tiff.series}) > 1:
                raise UserError(f"{path}: pages of different sizes or types: split it into one file per size")
            if len(tiff.series) > 1:
                array, axes = np.stack([one.asarray() for one in tiff.series]), "I" + series.axes
            else:
                array, axes = series.asarray(), series.axes
            spacing_mm = _imagej_spacing_mm(tiff)
            if errors:  # a broken chain of pages is only logged, and the pages beyond it are missing
                raise ValueError(errors[0])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UserError:
        raise
    except Exception as error:  # tifffile and imagecodecs raise a dozen kinds on damaged files
        raise UserError(f"{path}: damaged or no TIFF ({_short(error)}): replace the file") from error
    return _pages_first(array, axes, path), spacing_mm


@contextmanager
def _tifffile_errors() -> Iterator[list[str]]:
    """What tifffile logs as errors while it reads, kept off the user's screen."""
    errors: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(record.getMessage())

    logger, handler = logging.getLogger("tifffile"), Collect(level=logging.ERROR)
    propagated = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield errors
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def _pages_first(array: NDArray, axes: str, path: Path) -> NDArray:
    """(s, c, h, w) from an array whose ``axes`` are named as tifffile does (S, C: channels; Y, X: picture)."""
    if "Y" not in axes or "X" not in axes or array.ndim != len(axes) or array.size == 0:
        raise UserError(f"{path}: axes {axes} of shape {array.shape} are no stack of pictures")
    channel = [k for k, axis in enumerate(axes) if axis in "SC"]
    pages = [k for k, axis in enumerate(axes) if axis not in "SCYX"]
    array = array.transpose([*pages, *channel, axes.index("Y"), axes.index("X")])
    height, width = array.shape[-2:]
    channels = int(np.prod([array.shape[k] for k in range(len(pages), len(pages) + len(channel))]))
    return array.reshape(-1, channels, height, width)


def _imagej_spacing_mm(tiff: tifffile.TiffFile) -> tuple[float, ...] | None:
    """(row, column), or (slice, row, column) when ImageJ wrote a slice distance; other TIFFs rarely mean their tags."""
    metadata = tiff.imagej_metadata
    if not metadata:
        return None
    unit = str(metadata.get("unit", "")).lower()
    mm = 1.0 if unit == "mm" else 1e-3 if unit in _MICROMETRE_NAMES else 10.0 if unit == "cm" else None
    tags = tiff.pages.first.tags
    if mm is None or "XResolution" not in tags or "YResolution" not in tags:
        return None
    (x_px, x_units), (y_px, y_units) = tags["XResolution"].value, tags["YResolution"].value
    if not (x_px and y_px and x_units and y_units):
        return None
    in_plane = (mm * y_units / y_px, mm * x_units / x_px)
    distance = float(metadata.get("spacing", 0.0))
    return (mm * distance, *in_plane) if distance > 0 and len(tiff.pages) > 1 else in_plane


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
