"""2.5-D input: the slices before and after as further channels. What is segmented stays the slice in the middle."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from quantunet.data.sample import Sample

UNORDERED_READERS = ("pairs", "phantom")
"""Their pictures have no slice before or after."""


def with_neighbours(samples: Sequence[Sample], neighbours: int) -> tuple[Sample, ...]:
    """Each sample with ``neighbours`` slices before and as many after it: (c, h, w) becomes ((2 n + 1) c, h, w).

    Channels go slice by slice, the earliest first. Where the volume, the stack or a gap in it ends, its last slice
    stands in for what is missing. Only slices among ``samples`` are taken: given one part of a split, nothing of
    another gets in, and the last page of a block of a stack has no successor.
    """
    if neighbours == 0:
        return tuple(samples)
    shared = Counter(sample.path for sample in samples)
    keys = [_place(sample, shared) for sample in samples]
    at = dict(zip(keys, samples, strict=True))
    stacked = []
    for sample, (sequence, number) in zip(samples, keys, strict=True):
        before = _walk(sample, [at.get((sequence, number - step)) for step in range(1, neighbours + 1)])
        after = _walk(sample, [at.get((sequence, number + step)) for step in range(1, neighbours + 1)])
        slices = [*reversed(before), sample, *after]
        stacked.append(replace(sample, image=np.concatenate([each.image for each in slices])))
    return tuple(stacked)


def _walk(start: Sample, found: Sequence[Sample | None]) -> list[Sample]:
    """``found``, from ``start`` outwards; from the first that is missing or of another size, the one before it."""
    walked = [start]
    for each in found:
        if each is None or each.image.shape != start.image.shape:
            break
        walked.append(each)
    return walked[1:] + [walked[-1]] * (len(found) - len(walked) + 1)


def _place(sample: Sample, shared: Counter) -> tuple[Hashable, int]:
    """The sequence that a slice belongs to, and its number there.

    Slices of one file (a volume, a stack whose pages are cases) are a sequence; else those of one case in one folder.
    """
    if shared[sample.path] > 1 and sample.index is not None:
        return sample.path, sample.index
    number = sample.index
    if number is None:
        digits = re.search(r"(\d+)$", sample.name)
        number = int(digits.group(1)) if digits else 0
    return (sample.case_id, sample.path.parent if sample.path else None), number
