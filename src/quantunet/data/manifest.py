"""Content hashes: what exactly was trained and tested on, and that no image is in two parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quantunet.data.pixels_hash import is_constant, pixels_sha256
from quantunet.data.sample import PARTS, Dataset, Part, Sample
from quantunet.data.split import Split
from quantunet.errors import UserError

MAX_LINES = 5  # about identical images


def check_no_leak(dataset: Dataset, split: Split) -> tuple[str, ...]:
    """Lines about identical images inside one part; images that are constant (empty slices) do not count.

    Raises:
        UserError: when the same image is in two parts, naming both.
    """
    part_of = {case: part for part in PARTS for case in getattr(split, part)}
    first: dict[str, Sample] = {}
    doubles = []
    for sample in dataset.samples:
        if is_constant(sample.image):
            continue
        earlier = first.setdefault(pixels_sha256(sample.image), sample)
        if earlier is sample:
            continue
        parts = part_of[earlier.case_id], part_of[sample.case_id]
        if parts[0] != parts[1]:
            raise UserError(
                f"{sample.name} ({parts[1]}) is the same image as {earlier.name} ({parts[0]}): a leak; remove one, or "
                "bring both into one case with case_pattern"
            )
        doubles.append(f"{sample.name} is the same image as {earlier.name} (both in {parts[0]})")
    rest = len(doubles) - MAX_LINES
    return tuple(doubles) if rest <= 1 else (*doubles[:MAX_LINES], f"... and {rest} more identical images")


def manifest(dataset: Dataset, split: Split) -> dict[str, Any]:
    """What was trained and tested on, as JSON: files, content hashes of image and mask pixels, split, counts."""
    entries = []
    for sample in dataset.samples:
        entries.append(
            {
                "name": sample.name,
                "case_id": sample.case_id,
                **({"group_id": sample.group_id} if sample.group_id else {}),
                "part": split.part_of(sample.case_id),
                "file": _relative(sample.path, dataset.root),
                "index": sample.index,
                "shape": list(sample.image.shape),
                "image_sha256": pixels_sha256(sample.image),
                "mask_sha256": None if sample.mask is None else pixels_sha256(sample.mask),
            }
        )
    total = hashlib.sha256("".join(f"{e['image_sha256']}{e['mask_sha256']}" for e in entries).encode()).hexdigest()
    return {
        "name": dataset.name,
        "reader": dataset.reader,
        "source": dataset.source,
        "classes": {name: list(v) for name, v in zip(dataset.class_names, dataset.class_values, strict=True)},
        "channels": dataset.channels,
        "in_plane": dataset.in_plane.to_json() if dataset.in_plane else None,
        "cases": {part: len(getattr(split, part)) for part in PARTS},
        "samples": {part: _count(entries, part) for part in PARTS},
        "sha256": total,
        "split": {part: list(getattr(split, part)) for part in PARTS},
        "files": entries,
    }


def _relative(path: Path | None, root: Path | None) -> str | None:
    if path is None:
        return None
    # never an absolute path: a manifest travels
    return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else path.name


def _count(entries: Iterable[dict[str, Any]], part: Part) -> int:
    return sum(entry["part"] == part for entry in entries)
