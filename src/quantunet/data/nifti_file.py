"""NIfTI volumes, read to the last byte of their stream: nibabel alone would accept a flipped bit."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from quantunet.errors import UserError

NIFTI = (".nii", ".nii.gz")
MAX_BYTES = 4 << 30  # of one volume in memory; a "bomb" announces or unpacks to more
_HEADER_BYTES = 540  # NIfTI-2's, the larger


@dataclass(frozen=True, eq=False)
class Volume:
    """``data`` (x, y, z, channels) in stored order; ``spacing_mm`` (slice, row, column) of slices (y, x) along z."""

    data: NDArray
    affine: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    image: Any  # the nibabel image, for its header


def is_nifti(path: Path) -> bool:
    """Whether the name ends as NIfTI's do."""
    return path.name.lower().endswith(NIFTI)


def nifti_stem(path: Path) -> str:
    """The file name without .nii or .nii.gz."""
    name = path.name
    for suffix in (".nii.gz", ".nii"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def slice_pixels(volume: Volume, index: int) -> NDArray:
    """(c, h, w) of one slice along the third axis: rows run along the second axis, columns along the first."""
    return volume.data[:, :, index].transpose(2, 1, 0)


def read_volume(path: Path) -> Volume:
    """A checked volume, scale factors of its header applied.

    Raises:
        UserError: missing, damaged (gzip CRC included), truncated, larger than announced, NaN or singular affine,
            NaN or infinite voxels, no numbers, or not 2 to 4 axes.
    """
    content, header = _whole_stream(path)
    try:
        kind = nibabel.Nifti2Image if int(header["sizeof_hdr"]) == 540 else nibabel.Nifti1Image
        image = kind.from_bytes(content)
        data = np.asanyarray(image.dataobj)
    except Exception as error:  # nibabel raises by what is damaged: HeaderDataError, ValueError, OSError ...
        raise UserError(f"{path}: damaged NIfTI ({_short(error)}): replace the file") from error
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all():
        raise UserError(f"{path}: its affine has NaN or infinite entries: repair the header (sform/qform)")
    if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UserError(f"{path}: its affine is singular (determinant 0): repair the header (sform/qform)")
    if data.dtype.kind not in "uif":
        raise UserError(f"{path}: voxels of type {data.dtype}: only real numbers are read")
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise UserError(
            f"{path}: {int((~np.isfinite(data)).sum())} voxels are NaN or infinite: repair or remove the volume"
        )
    while data.ndim > 4 and data.shape[-1] == 1:
        data = data[..., 0]
    if not 2 <= data.ndim <= 4 or data.size == 0:
        raise UserError(f"{path}: shape {data.shape}: only pictures, volumes and volumes with channels are read")
    data = data.reshape(data.shape + (1,) * (4 - data.ndim))
    column, row, depth = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return Volume(data, affine, (depth, row, column), image)


def _whole_stream(path: Path) -> tuple[bytes, Any]:
    """The unpacked file, no longer than its header announces, and its header; reading to the end checks the CRC."""
    is_packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path, "rb") if is_packed else path.open("rb") as stream:
            start = stream.read(_HEADER_BYTES)
            header = _header(start, path)
            itemsize = header.get_data_dtype().itemsize
            shape = [int(length) for length in header.get_data_shape()]
            if not shape or min(shape) < 1:
                raise UserError(f"{path}: its header gives the shape {tuple(shape)}: damaged, replace the file")
            count = 1
            for length in shape:  # Python integers: a product of int16 dimensions cannot wrap round
                count *= length
            announced = int(header["vox_offset"]) + count * itemsize
            if announced > MAX_BYTES:
                raise UserError(
                    f"{path}: announces {announced / 2**30:.1f} GiB, more than {MAX_BYTES >> 30} GiB: crop it first"
                )
            rest = stream.read(announced + (1 << 20))
            if len(start) + len(rest) < announced:
                raise UserError(f"{path}: truncated, {len(start) + len(rest)} of {announced} bytes: replace the file")
            if stream.read(1):
                raise UserError(f"{path}: holds more than the {announced} bytes its header announces: replace the file")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UserError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged ({_short(error)}): replace the file") from error
    return start + rest, header


def _header(start: bytes, path: Path) -> Any:
    for kind, length in ((nibabel.Nifti1Header, 348), (nibabel.Nifti2Header, 540)):
        try:
            header = kind(start[:length])
            header.get_data_dtype()
            return header
        except Exception:  # not this kind: try the next
            continue
    raise UserError(f"{path}: no NIfTI header: not a NIfTI file, or damaged")


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
