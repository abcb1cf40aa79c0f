"""MetaImage volumes (.mha, BraTS 2015's own format): a text header, then voxels, perhaps zlib-packed."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel
import numpy as np

from quantunet.data.nifti_file import MAX_BYTES, NIFTI, Volume, read_volume
from quantunet.errors import UserError

METAIMAGE = (".mha",)
VOLUMES = (*NIFTI, *METAIMAGE)
_MAX_HEADER_BYTES = 1 << 16
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def is_metaimage(path: Path) -> bool:
    """Whether the name ends as MetaImage's do."""
    return path.name.lower().endswith(METAIMAGE)


def volume_stem(path: Path) -> str:
    """The file name without its ending, .nii.gz included."""
    name = path.name
    suffix = next((ending for ending in (".nii.gz", *VOLUMES) if name.lower().endswith(ending)), "")
    return name[: len(name) - len(suffix)]


def read_any_volume(path: Path) -> Volume:
    """A NIfTI or MetaImage volume; errors as ``read_volume``."""
    return read_metaimage(path) if is_metaimage(path) else read_volume(path)


def read_metaimage(path: Path) -> Volume:
    """A 3-D .mha volume with its voxels in the same file; the affine in NIfTI's directions (right, anterior, superior).

    Raises:
        UserError: missing, damaged, truncated, longer than announced, or of a kind not read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: not readable ({error})") from error
    header, start = _header(content, path)
    try:
        shape = tuple(int(n) for n in header["DimSize"].split())
        spacing = [float(n) for n in header.get("ElementSpacing", header.get("ElementSize", "1 1 1")).split()]
        offset = [float(n) for n in header.get("Offset", header.get("Position", "0 0 0")).split()]
        matrix = [float(n) for n in header.get("TransformMatrix", "1 0 0 0 1 0 0 0 1").split()]
        dtype = np.dtype(_TYPES[header["ElementType"]])
        if len(shape) != 3 or min(shape) < 1 or len(spacing) != 3 or len(offset) != 3 or len(matrix) != 9:
            raise ValueError(f"DimSize {shape}")
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: damaged MetaImage header ({error}): replace the file") from error
    if header.get("ElementNumberOfChannels", "1") != "1" or header.get("ElementDataFile") != "LOCAL":
        raise UserError(f"{path}: only MetaImages of one channel with their voxels in the same file are read")
    if header.get("BinaryDataByteOrderMSB", "False").lower() == "true":
        dtype = dtype.newbyteorder(">")
    expected = dtype.itemsize * shape[0] * shape[1] * shape[2]
    if expected > MAX_BYTES:
        raise UserError(f"{path}: announces {expected / 2**30:.1f} GiB, more than {MAX_BYTES >> 30} GiB: crop it first")
    voxels = content[start:]
    if header.get("CompressedData", "False").lower() == "true":
        unpack = zlib.decompressobj()
        try:
            voxels = unpack.decompress(voxels, expected + 1)
        except zlib.error as error:
            raise UserError(f"{path}: damaged ({error}): replace the file") from error
    if len(voxels) != expected:
        raise UserError(f"{path}: {len(voxels)} bytes of voxels, its header announces {expected}: replace the file")
    data = np.frombuffer(voxels, dtype).reshape(shape, order="F")  # x runs fastest
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise UserError(f"{path}: {int((~np.isfinite(data)).sum())} voxels are NaN or infinite: repair the volume")
    affine = np.eye(4)
    affine[:3, :3] = np.array(matrix).reshape(3, 3).T * spacing  # a row of the matrix is the direction of one axis
    affine[:3, 3] = offset
    affine[:2] *= -1  # left, posterior -> right, anterior
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UserError(f"{path}: its directions or spacing are singular: repair the header")
    column, row, depth = (abs(length) for length in spacing)
    return Volume(data[..., None], affine, (depth, row, column), nibabel.Nifti1Image(np.asarray(data), affine))


def _header(content: bytes, path: Path) -> tuple[dict[str, str], int]:
    """Keys and values, and where the voxels begin: after the line ElementDataFile."""
    header: dict[str, str] = {}
    position = 0
    while "ElementDataFile" not in header:
        end = content.find(b"\n", position, _MAX_HEADER_BYTES)
        line = content[position:end].decode("latin-1") if end >= 0 else ""
        key, separator, value = line.partition("=")
        if not separator:
            raise UserError(f"{path}: no MetaImage header: not an .mha file, or damaged")
        header[key.strip()] = value.strip()
        position = end + 1
    return header, position
