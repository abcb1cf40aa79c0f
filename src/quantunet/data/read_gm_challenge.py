"""The 2016 spinal cord grey-matter challenge: site1-sc01-image.nii.gz with site1-sc01-mask-r1.nii.gz to -r4."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quantunet.data.config import DataConfig
from quantunet.data.groups import patient_ids
from quantunet.data.image_file import to_integers
from quantunet.data.naming import files_below, part_of
from quantunet.data.nifti_file import NIFTI, nifti_stem, read_volume
from quantunet.data.read_nifti import VolumePair, check_geometry, volume_slices
from quantunet.data.sample import Found, RawSample
from quantunet.errors import UserError

_IMAGE = re.compile(r"(?i)^(.+)[_-]image$")
_MASK = re.compile(r"(?i)^(.+)[_-]mask[_-]r(\d+)$")
CLASS_NAMES = {1: "grey_matter", 2: "white_matter"}


def is_gm_challenge(volumes: list[Path]) -> bool:
    """Whether some masks are numbered by rater and have an image of their name."""
    stems = [nifti_stem(path) for path in volumes]
    images = {match[1].lower() for stem in stems if (match := _IMAGE.match(stem))}
    return any(match[1].lower() in images for stem in stems if (match := _MASK.match(stem)))


def read_gm_challenge(root: Path, config: DataConfig) -> Found:
    """Every slice of every subject, its mask the majority of the raters or one of them (``config.rater``).

    Raises:
        UserError: an image without masks (outside test/), without the wanted rater, with masks of another shape or
            affine, two images of one name, and what ``read_volume`` refuses.
    """
    images: dict[str, Path] = {}
    masks: dict[str, dict[int, Path]] = {}
    for path in files_below(root, NIFTI):
        stem = nifti_stem(path)
        if match := _IMAGE.match(stem):
            if match[1] in images:
                raise UserError(f"{path}: the same subject as {images[match[1]]}: keep one of the two")
            images[match[1]] = path
        elif match := _MASK.match(stem):
            masks.setdefault(match[1], {})[int(match[2])] = path
    unlabelled = [subject for subject in images if subject not in masks]
    problems = [f"{subject}: masks without an image, left out" for subject in masks if subject not in images]
    for subject in unlabelled:
        if part_of(images[subject].relative_to(root).parts[:-1]) != "test":
            raise UserError(f"{images[subject]}: has no masks ({subject}-mask-r1.nii.gz ...): add them, or take it out")
        problems.append(f"{subject}: no masks, left out")
    subjects = [subject for subject in images if subject in masks]
    if not subjects:
        raise UserError(f"{root}: no x-image.nii.gz with x-mask-r1.nii.gz for reader: gm_challenge")
    patients, hint = patient_ids(root, [images[subject] for subject in subjects], config.case_pattern)
    samples: list[RawSample] = []
    for k, subject in enumerate(subjects):
        labels = _labels(images[subject], masks[subject], config.rater)
        pair = VolumePair(subject, (images[subject],), next(iter(masks[subject].values())), None)
        samples += volume_slices(pair, subject, patients[k] if patients else None, labels)
    few = [subject for subject in subjects if len(masks[subject]) < max(len(own) for own in masks.values())]
    if few and config.rater == "majority":
        problems.append(f"{len(few)} subjects have fewer raters than others, the first is {few[0]}")
    return Found(tuple(samples), tuple(problems), class_names=CLASS_NAMES, hints=(hint,) if hint else ())


def _labels(image: Path, masks: dict[int, Path], rater: Literal["majority"] | int) -> NDArray:
    """(x, y, z) of the wanted rater or of the vote."""
    if rater != "majority" and rater not in masks:
        raise UserError(f"{image}: has no mask of rater {rater}, only of {sorted(masks)}: change data.rater")
    wanted = [path for number, path in sorted(masks.items()) if rater in ("majority", number)]
    first = read_volume(image)
    votes = []
    for path in wanted:
        volume = read_volume(path)
        check_geometry(path, volume, image, first)
        if volume.data.shape[3] != 1:
            raise UserError(f"{path}: a mask with {volume.data.shape[3]} channels: save one volume of class values")
        votes.append(to_integers(volume.data[..., 0], path))
    return majority(votes)


def majority(votes: Sequence[NDArray]) -> NDArray:
    """For each voxel the value that most votes give; of values with equally many the smallest, so 2:2 is background."""
    stacked = np.stack(votes)
    values = np.unique(stacked)  # ascending, and argmax takes the first of equals
    counts = np.stack([(stacked == value).sum(axis=0) for value in values])
    return values[np.argmax(counts, axis=0)]
