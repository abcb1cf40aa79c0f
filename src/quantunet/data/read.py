"""The one door to data: which reader fits a folder, and what every dataset must agree on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from quantunet.data.channels import agree_on_channels, with_channels
from quantunet.data.classes import find_classes
from quantunet.data.config import PHANTOM, DataConfig
from quantunet.data.image_file import PICTURES, TIFF, read_pages
from quantunet.data.naming import files_below
from quantunet.data.nifti_file import NIFTI, is_nifti, read_volume, slice_pixels
from quantunet.data.phantom import phantom_dataset
from quantunet.data.read_kaggle_3m import is_kaggle_3m, read_kaggle_3m
from quantunet.data.read_nifti import read_nifti
from quantunet.data.read_pairs import read_pairs
from quantunet.data.read_stack import read_stacks
from quantunet.data.sample import PARTS, Dataset, Found, Part, RawSample, Sample
from quantunet.errors import UserError

READERS: dict[str, Callable[[Path, DataConfig], Found]] = {
    "pairs": read_pairs,
    "stack": read_stacks,
    "kaggle_3m": read_kaggle_3m,
    "nifti": read_nifti,
}


def read_dataset(config: DataConfig) -> Dataset:
    """The dataset that ``config`` describes: images as float32, masks as class indices, problems as lines.

    Raises:
        UserError: one line that names the file, for everything a reader refuses; mixed channel counts; classes that
            do not fit the masks; two samples of one name.
    """
    if config.path is None:
        raise UserError('no data: give a folder with data.path (or --data), or "phantom"')
    if config.reader == "phantom" or (config.path == PHANTOM and not config.path.is_dir()):
        return phantom_dataset()
    root = config.path
    if not root.exists():
        raise UserError(f"{root}: no such folder: correct data.path")
    if not root.is_dir():
        raise UserError(f"{root}: a file: give the folder that holds images and masks")
    reader = detect_reader(root) if config.reader == "auto" else config.reader
    found = READERS[reader](root, config)
    if not found.samples:
        raise UserError(f"{root}: no image with a mask in it")
    return _agree(root, reader, found, config)


def detect_reader(root: Path) -> str:
    """The reader whose layout ``root`` has.

    Raises:
        UserError: when the folder holds no file of a known kind.
    """
    if files_below(root, NIFTI):
        return "nifti"
    files = files_below(root, PICTURES)
    if not files:
        raise UserError(f"{root}: no images in it (PNG, JPEG, TIFF, BMP or NIfTI): correct data.path")
    tiffs = [path for path in files if path.suffix.lower() in TIFF]
    if tiffs and is_kaggle_3m(root):
        return "kaggle_3m"
    if tiffs and len(read_pages(tiffs[0]).pixels) > 1:
        return "stack"
    return "pairs"


def read_image(path: Path, channels: int | None = None) -> list[Sample]:
    """A single file for prediction: one sample per picture, page or slice, without masks.

    Args:
        path: PNG, JPEG, BMP, TIFF or NIfTI.
        channels: what the network takes; RGB becomes grey and grey RGB as needed. None: as the file has it.

    Raises:
        UserError: as the readers.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file" if not path.exists() else f"{path}: a folder: give image files")
    stem = path.name.split(".")[0] if is_nifti(path) else path.stem
    if is_nifti(path):
        volume = read_volume(path)
        count = volume.data.shape[2]
        pages = [slice_pixels(volume, index) for index in range(count)]
        spacing_mm = volume.spacing_mm
    elif path.suffix.lower() in PICTURES:
        read = read_pages(path)
        pages, spacing_mm = list(read.pixels), read.spacing_mm
    else:
        raise UserError(f"{path}: unknown kind of image: PNG, JPEG, TIFF, BMP or NIfTI (.nii, .nii.gz)")
    pages = [with_channels(pixels, channels or len(pixels), path) for pixels in pages]
    if len(pages) == 1:
        return [Sample(pages[0], None, stem, stem, spacing_mm, path, None)]
    return [
        Sample(pixels, None, stem, f"{stem}/slice_{index:03d}", spacing_mm, path, index)
        for index, pixels in enumerate(pages)
    ]


def _agree(root: Path, reader: str, found: Found, config: DataConfig) -> Dataset:
    """One channel count and one list of classes for all samples."""
    _check_names(found)
    channels, converted = agree_on_channels(found.samples, config.channels)
    classes = find_classes(found.samples, config.classes, found.class_names)
    samples = tuple(
        Sample(
            image=with_channels(raw.pixels, channels, raw.path),
            mask=None if raw.labels is None else classes.apply(raw.labels),
            case_id=raw.case_id,
            name=raw.name,
            spacing_mm=raw.spacing_mm,
            path=raw.path,
            index=raw.index,
        )
        for raw in found.samples
    )
    return Dataset(
        name=root.resolve().name,
        root=root,
        samples=samples,
        class_names=classes.names,
        class_values=classes.values,
        channels=channels,
        reader=reader,
        problems=found.problems + ((converted,) if converted else ()) + classes.problems + _oddities(samples),
        default_split=found.default_split,
        given_split=_given_split(found),
        source=_source_note(root),
    )


def _check_names(found: Found) -> None:
    seen: dict[str, RawSample] = {}
    for raw in found.samples:
        earlier = seen.setdefault(raw.name, raw)
        if earlier is not raw:
            raise UserError(f"{raw.path}: would have the same name ({raw.name}) as {earlier.path}: rename one of them")


def _oddities(samples: tuple[Sample, ...]) -> tuple[str, ...]:
    """Lines about constant images and empty masks."""
    lines = []
    constant = [sample.name for sample in samples if np.ptp(sample.image) == 0]
    if constant:
        lines.append(f"{len(constant)} constant images, the first is {constant[0]}")
    empty = [sample.name for sample in samples if sample.mask is not None and not sample.mask.any()]
    if empty:
        lines.append(f"{len(empty)} of {len(samples)} masks are empty, the first is {empty[0]}")
    return tuple(lines)


def _given_split(found: Found) -> dict[Part, tuple[str, ...]]:
    """The parts that folders state; a folder beside test/ that states nothing is left to the split.

    Raises:
        UserError: when one case lies in two stated parts.
    """
    parts: dict[str, Part] = {}
    for raw in found.samples:
        part = raw.part or "train"
        if parts.setdefault(raw.case_id, part) != part:
            raise UserError(
                f"{raw.path}: case {raw.case_id!r} lies in {parts[raw.case_id]} and in {part}: a case belongs to one"
            )
    present = set(parts.values())
    if present == {"train"}:
        return {}
    return {part: tuple(case for case, own in parts.items() if own == part) for part in PARTS if part in present}


def _source_note(root: Path) -> str | None:
    """The first line of a SOURCE or LICENSE file beside the data that tells origin or licence."""
    for folder in (root, root.parent):
        for name in ("SOURCE.md", "README.md", "LICENSE", "LICENSE.txt"):
            file = folder / name
            if not file.is_file():
                continue
            lines = [line.strip(" #-*\t") for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
            lines = [line for line in lines if line]
            stated = [line for line in lines if line.lower().startswith(("licence", "license", "terms"))]
            if lines and (folder == root or name == "SOURCE.md"):
                return "; ".join(dict.fromkeys(lines[:1] + stated[:1]))[:300]
    return None
