"""Who belongs together in a split: patients found in names, and pictures with the same pixels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from quantunet.data.naming import case_ids
from quantunet.data.pixels_hash import is_constant, pixels_sha256
from quantunet.data.sample import RawSample

PATIENT_HABITS = (
    r"(PANCREAS_\d{4})(?!\d)",  # NIH Pancreas-CT
    r"(BraTS-[A-Z]+-\d{5})-\d{3}",  # BraTS 2023: the last three digits count the time points
    r"(brats_(?:2013|tcia)_pat\d+)_",  # BraTS 2015, likewise
    r"(sub-[A-Za-z0-9]+?)(?:[Ss]es[A-Za-z0-9]+)?(?=[_/])",  # BIDS; sub-01Ses2 is a session of sub-01
    r"(site\d+-sc\d+)",  # grey-matter challenge
    r"((?i:patient|subject)[_-]?\d+)",  # ACDC and many others
)
"""Group 1 is the patient. A habit counts only when every file of the folder follows it."""


def patient_ids(root: Path, images: list[Path], case_pattern: str | None) -> tuple[list[str] | None, str | None]:
    """The patient of each image, and a line when a habit was recognised; (None, None) when nothing says so.

    Args:
        root: the data folder.
        images: one path per image, below ``root``.
        case_pattern: of the configuration; where given, it rules.

    Raises:
        UserError: naming the first file in which ``case_pattern`` is not found.
    """
    if case_pattern is not None:
        return case_ids(root, images, [], case_pattern), None
    names = [path.relative_to(root).as_posix() for path in images]
    for habit in PATIENT_HABITS:
        matches = [re.search(habit, name) for name in names]
        found = [match.group(1) for match in matches if match]
        if images and len(found) == len(images):
            line = (
                f"patients found in the names ({found[0]}, ...): {len(set(found))}, each kept in one part of the "
                "split; say otherwise with case_pattern"
            )
            return found, line if len(set(found)) < len(images) else None
    return None, None


def with_duplicates_grouped(samples: Sequence[RawSample]) -> tuple[tuple[RawSample, ...], tuple[str, ...]]:
    """Cases that share a picture, pixel by pixel, get one ``group_id``; and lines about them.

    Constant pictures do not count. Cases that folders put into different parts stay apart: that leak is an error
    later. Resized or re-compressed copies have other pixels and are not found.
    """
    first: dict[str, int] = {}
    parent = {raw.group_id or raw.case_id: raw.group_id or raw.case_id for raw in samples}

    def leader(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    doubles, contradictions = [], []
    for index, raw in enumerate(samples):
        if is_constant(raw.pixels):
            continue
        earlier = samples[first.setdefault(pixels_sha256(raw.pixels), index)]
        if earlier is raw or (earlier.part or "train") != (raw.part or "train"):
            continue
        doubles.append(raw)
        parent[leader(raw.group_id or raw.case_id)] = leader(earlier.group_id or earlier.case_id)
        if raw.labels is not None and earlier.labels is not None and not np.array_equal(raw.labels, earlier.labels):
            contradictions.append((raw, earlier))
    if not doubles:
        return tuple(samples), ()
    grouped = tuple(replace(raw, group_id=leader(raw.group_id or raw.case_id)) for raw in samples)
    lines = [
        f"{len(doubles)} pictures have the same pixels as another, the first is {doubles[0].name}: kept in one part "
        "of the split with it"
    ]
    if contradictions:
        raw, earlier = contradictions[0]
        lines.append(f"{len(contradictions)} of them have another mask than their double: {raw.name}, {earlier.name}")
    return grouped, tuple(lines)
