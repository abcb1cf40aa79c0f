"""Which files of a folder may be DICOM, without reading them."""

from __future__ import annotations

from pathlib import Path

from quantunet.data.naming import files_below

DICOM = (".dcm", ".dicom", ".ima")
_MAGIC_AT = 128  # bytes of preamble before "DICM"


def is_dicom(path: Path) -> bool:
    """Whether the file's name, or without an ending its beginning, says DICOM."""
    if path.name.lower().endswith(DICOM):
        return True
    if path.suffix and not path.suffix[1:].isdigit():  # IM.0001 and UIDs have numbers after their dots
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(_MAGIC_AT + 4)[_MAGIC_AT:] == b"DICM"
    except OSError:
        return False


def dicom_files(root: Path) -> list[Path]:
    """All DICOM files below ``root``, naturally sorted, the directory file DICOMDIR left out."""
    return [path for path in files_below(root, ("",)) if path.name.upper() != "DICOMDIR" and is_dicom(path)]
