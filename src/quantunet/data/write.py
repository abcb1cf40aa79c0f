"""Predicted masks in the input's own format and geometry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from quantunet.atomic_file import partial_file
from quantunet.data.dicom_file import read_series
from quantunet.data.dicom_names import dicom_files, is_dicom
from quantunet.data.image_file import JPEG, PICTURES, TIFF
from quantunet.data.metaimage_file import is_metaimage, read_any_volume, volume_stem
from quantunet.data.nifti_file import is_nifti, nifti_stem, read_volume
from quantunet.errors import UserError

# background black, then colours that stay apart for colour-blind eyes (Okabe and Ito)
_PALETTE = bytes(
    [0, 0, 0, 230, 159, 0, 86, 180, 233, 0, 158, 115, 240, 228, 66, 0, 114, 178, 213, 94, 0, 204, 121, 167]
) + bytes(value for level in range(8, 256) for value in (level, level, level))


def write_masks(
    folder: Path, source: Path, masks: NDArray[np.uint8], values: Sequence[int] | None = None, suffix: str = "_mask"
) -> Path:
    """Write the masks of one input file, and return the file's path: ``folder / (stem of source + suffix)``.

    PNG and BMP become palette pictures whose indices are the class values (JPEG becomes PNG: it cannot hold class
    values). TIFF keeps its page count and resolution tags. NIfTI keeps affine, header and packing. The folder of a
    DICOM series or a MetaImage becomes NIfTI on the same grid, a single DICOM slice a PNG. Rows and columns lie exactly
    as ``read_image`` gave them. The file appears whole or not at all.

    Args:
        folder: made when absent.
        source: the image file that was predicted.
        masks: (s, h, w) class indices, one per sample of ``read_image(source)``.
        values: what to write for each class index, such as (0, 255); absent: the indices.
        suffix: what the mask's name has after the image's.

    Raises:
        UserError: another number or size of masks than the source has; a source that cannot be read or overwriting it.
    """
    if masks.ndim != 3 or masks.dtype != np.uint8:
        raise ValueError(f"masks must be uint8 (s, h, w), got {masks.dtype} {masks.shape}")
    if values is not None:
        if min(values) < 0 or max(values) > 255:
            raise UserError(f"mask values {list(values)} do not fit 8 bits: choose values from 0 to 255")
        masks = np.asarray(values, np.uint8)[masks]
    folder.mkdir(parents=True, exist_ok=True)
    if is_nifti(source):
        ending = source.name[len(nifti_stem(source)) :]
        target = folder / f"{nifti_stem(source)}{suffix}{ending}"
    elif source.is_dir() or is_metaimage(source):
        target = folder / f"{volume_stem(source) if source.is_file() else source.resolve().name}{suffix}.nii.gz"
    elif is_dicom(source):
        target = folder / f"{source.stem}{suffix}.png"
    else:
        target = folder / f"{source.stem}{suffix}{'.png' if source.suffix.lower() in JPEG else source.suffix}"
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: would overwrite the image itself: choose another folder")
    with partial_file(target) as partial:
        if is_nifti(source):
            _write_nifti(partial, source, masks)
        elif source.is_dir() or is_metaimage(source):
            _write_grid(partial, source, masks)
        elif is_dicom(source):
            _write_dicom_slice(partial, source, masks)
        elif source.suffix.lower() in TIFF:
            _write_tiff(partial, source, masks)
        elif source.suffix.lower() in PICTURES:
            _write_picture(partial, source, masks)
        else:
            raise UserError(
                f"{source}: unknown kind of image: PNG, JPEG, TIFF, BMP, NIfTI (.nii, .nii.gz), MHA or DICOM"
            )
    return target


def _write_picture(target: Path, source: Path, masks: NDArray[np.uint8]) -> None:
    try:
        with Image.open(source) as picture:
            size, dpi = picture.size, picture.info.get("dpi")
    except OSError as error:
        raise UserError(f"{source}: not readable ({error})") from error
    _check_shape(source, masks, (1, size[1], size[0]))
    _palette_picture(masks[0]).save(target, **({"dpi": dpi} if dpi else {}))


def _palette_picture(mask: NDArray[np.uint8]) -> Image.Image:
    out = Image.fromarray(mask).convert("P")
    out.putpalette(_PALETTE)
    out.putdata(mask.reshape(-1).tolist())  # convert() may have matched greys to colours: the indices are ours
    return out


def _write_tiff(target: Path, source: Path, masks: NDArray[np.uint8]) -> None:
    try:
        with tifffile.TiffFile(source) as tiff:
            page, imagej = tiff.pages.first, tiff.imagej_metadata
            tags = {name: page.tags[name].value for name in ("XResolution", "YResolution") if name in page.tags}
            unit = page.tags["ResolutionUnit"].value if "ResolutionUnit" in page.tags else None
            byte_order, is_big = tiff.byteorder, tiff.is_bigtiff
            height, width = page.imagelength, page.imagewidth
    except Exception as error:  # tifffile raises a dozen kinds on damaged files
        raise UserError(f"{source}: not readable as TIFF ({error})") from error
    _check_shape(source, masks, (len(masks), height, width))
    options: dict[str, Any] = {"photometric": "minisblack", "byteorder": byte_order, "bigtiff": is_big}
    if len(tags) == 2:
        options["resolution"] = tags["XResolution"], tags["YResolution"]
        options["resolutionunit"] = unit
    if imagej:  # ImageJ keeps its unit and slice distance here, and reads no compressed stacks of its own
        keep = {key: imagej[key] for key in ("unit", "spacing", "yunit", "zunit") if key in imagej}
        options |= {"imagej": True, "metadata": {"axes": "ZYX", **keep}, "bigtiff": False}
    else:
        options |= {"compression": "zlib", "metadata": None}
    tifffile.imwrite(target, masks, **options)


def _write_nifti(target: Path, source: Path, masks: NDArray[np.uint8]) -> None:
    volume = read_volume(source)
    x, y, z = volume.data.shape[:3]
    _check_shape(source, masks, (z, y, x))
    shape = tuple(volume.image.shape[:3])
    header = volume.image.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1.0, 0.0)
    header["cal_min"], header["cal_max"] = 0, 0  # a display range of intensities means nothing for classes
    data = np.ascontiguousarray(masks.transpose(2, 1, 0)).reshape(shape)
    # the header alone gives the affine: sform, qform and their codes stay bit for bit
    nibabel.save(type(volume.image)(data, None, header), target)


def _write_grid(target: Path, source: Path, masks: NDArray[np.uint8]) -> None:
    """A DICOM folder's or MetaImage's masks as NIfTI on the same grid."""
    if source.is_dir():
        series = read_series([path for path in dicom_files(source) if path.parent == source])
        affine = None if series is None else series.affine
        if series is None or affine is None:
            raise UserError(f"{source}: no DICOM series with positions: its masks have no place to be written to")
        count, _, height, width = series.pixels.shape
    else:
        volume = read_any_volume(source)
        width, height, count = volume.data.shape[:3]
        affine = volume.affine
    _check_shape(source, masks, (count, height, width))
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(masks.transpose(2, 1, 0)), affine), target)


def _write_dicom_slice(target: Path, source: Path, masks: NDArray[np.uint8]) -> None:
    series = read_series([source])
    if series is None:
        raise UserError(f"{source}: no DICOM image: give image files")
    _check_shape(source, masks, (1, *series.pixels.shape[2:]))
    _palette_picture(masks[0]).save(target, format="PNG")


def _check_shape(source: Path, masks: NDArray, expected: tuple[int, ...]) -> None:
    if masks.shape != expected:
        raise UserError(f"{source}: needs masks of shape {expected} (pages, rows, columns), got {masks.shape}")
