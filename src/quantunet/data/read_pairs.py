"""A folder of pictures with masks: PNG, JPEG, TIFF or BMP, in any of the naming habits of ``naming``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantunet.data.config import DataConfig
from quantunet.data.groups import patient_ids
from quantunet.data.image_file import PICTURES, read_label_pages, read_pages
from quantunet.data.naming import Pair, files_below, pair_files
from quantunet.data.sample import Found, RawSample
from quantunet.errors import UserError


def read_pairs(root: Path, config: DataConfig) -> Found:
    """Every picture that has a mask; several masks of a picture (BUSI's x_mask.png, x_mask_1.png) are merged.

    The case is the patient that ``config.case_pattern`` or a known habit finds, else the file's stem. Folders called
    train, val or test state the part of the split.

    Raises:
        UserError: no pictures, missing masks, masks of another size, multi-page files.
    """
    files = files_below(root, PICTURES)
    if not files:
        raise UserError(f"{root}: no PNG, JPEG, TIFF or BMP files in it: give the folder that holds images/ and masks/")
    pairs, problems = pair_files(root, files)
    stems = _unique_stems(root, pairs)
    patients, hint = patient_ids(root, [pair.image for pair in pairs], config.case_pattern)
    cases = patients or stems
    samples, notes = [], {}
    for pair, case_id, stem in zip(pairs, cases, stems, strict=True):
        pages = read_pages(pair.image)
        if len(pages.pixels) != 1:
            raise UserError(f"{pair.image}: {len(pages.pixels)} pages: use reader: stack for multi-page TIFFs")
        labels = None
        for path in pair.masks:
            one, note = read_label_pages(path)
            if note:
                notes[note] = notes.get(note, 0) + 1
            if one.shape != (1, *pages.pixels.shape[2:]):
                raise UserError(
                    f"{path}: {one.shape[1]}x{one.shape[2]} pixels, but {pair.image.name} has "
                    f"{pages.pixels.shape[2]}x{pages.pixels.shape[3]}: image and mask must agree"
                )
            labels = one[0] if labels is None else _union(labels, one[0], path)
        samples.append(
            RawSample(
                pixels=pages.pixels[0],
                file_channels=pages.file_channels,
                labels=labels,
                case_id=case_id,
                name=stem if case_id == stem else f"{case_id}/{stem}",
                spacing_mm=pages.spacing_mm,
                path=pair.image,
                part=pair.part,
                mask_path=pair.masks[0],
            )
        )
    merged = sum(len(pair.masks) > 1 for pair in pairs)
    if merged:
        problems.append(f"{merged} images have several masks: merged by union")
    problems += [f"{note} ({count} files)" for note, count in notes.items()]
    return Found(tuple(samples), tuple(problems), hints=(hint,) if hint else ())


def _unique_stems(root: Path, pairs: list[Pair]) -> list[str]:
    """File stems; with the part or the folder in front where two pictures share one."""
    stems = [pair.stem for pair in pairs]
    if len(set(stems)) == len(stems):
        return stems
    return [pair.image.relative_to(root).with_suffix("").as_posix() for pair in pairs]


def _union(labels: NDArray, other: NDArray, path: Path) -> NDArray:
    """Where both are foreground the larger value stays; they must not name different classes there."""
    if ((labels != 0) & (other != 0) & (labels != other)).any():
        raise UserError(f"{path}: gives other class values than the picture's first mask where they overlap")
    return np.maximum(labels, other)
