"""Which reader fits a folder: by the files that are in it, no file read further than needed."""

from __future__ import annotations

from pathlib import Path

from quantunet.data.dicom_names import DICOM, dicom_files
from quantunet.data.image_file import PICTURES, TIFF, read_pages
from quantunet.data.metaimage_file import VOLUMES
from quantunet.data.naming import files_below
from quantunet.data.read_brats import is_brats
from quantunet.data.read_gm_challenge import is_gm_challenge
from quantunet.data.read_kaggle_3m import is_kaggle_3m
from quantunet.errors import UserError


def detect_reader(root: Path) -> str:
    """The reader whose layout ``root`` has.

    Raises:
        UserError: when the folder holds no file of a known kind.
    """
    if files_below(root, DICOM):
        return "dicom"
    volumes = files_below(root, VOLUMES)
    if volumes:
        if is_gm_challenge(volumes):
            return "gm_challenge"
        return "brats" if is_brats(volumes) else "nifti"
    files = files_below(root, PICTURES)
    if not files and dicom_files(root):
        return "dicom"
    if not files:
        raise UserError(f"{root}: no images in it (PNG, JPEG, TIFF, BMP, NIfTI, MHA or DICOM): correct data.path")
    tiffs = [path for path in files if path.suffix.lower() in TIFF]
    if tiffs and is_kaggle_3m(root):
        return "kaggle_3m"
    if tiffs and len(read_pages(tiffs[0]).pixels) > 1:
        return "stack"
    return "pairs"
