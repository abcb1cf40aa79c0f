"""From the values in mask files to class indices 0 (background), 1, 2, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantunet.data.config import BACKGROUND
from quantunet.data.sample import RawSample
from quantunet.errors import UserError

MAX_FOUND_CLASSES = 64  # more distinct values than this are a grey picture, not a mask


@dataclass(frozen=True)
class ClassMap:
    """``values[k]`` are the mask values of class k, ``names[k]`` its name; class 0 is the background."""

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    problems: tuple[str, ...] = ()

    def apply(self, labels: NDArray) -> NDArray[np.uint8]:
        """Class indices, uint8, of any shape; every value of ``labels`` must be in ``values``."""
        indices = np.zeros(labels.shape, np.uint8)
        for index, wanted in enumerate(self.values[1:], start=1):
            indices[np.isin(labels, wanted)] = index
        return indices


def find_classes(
    samples: Sequence[RawSample],
    declared: Mapping[str, Sequence[int]] | None,
    named_by_folder: Mapping[int, str] | None = None,
) -> ClassMap:
    """The classes of a dataset: as declared, else found from the values that occur.

    Args:
        samples: those without labels are passed over.
        declared: class name -> mask values, the configuration's ``classes``.
        named_by_folder: mask value -> name as a dataset.json states it.

    Raises:
        UserError: declared class absent, undeclared values present, one value only, or too many values.
    """
    seen: dict[int, RawSample] = {}
    mixes_1_and_255 = False
    for sample in samples:
        if sample.labels is None:
            continue
        values = [int(value) for value in np.unique(sample.labels)]
        mixes_1_and_255 |= 1 in values and 255 in values
        for value in values:
            seen.setdefault(value, sample)
        if declared is None and len(seen) > MAX_FOUND_CLASSES:
            raise UserError(
                f"{sample.mask_path or sample.name}: {len(seen)} different values in the masks so far: no mask, or "
                "blurred by compression or resampling; save masks with one value per class"
            )
    if declared is not None:
        return _declared(seen, declared)
    return _found(seen, named_by_folder or {}, mixes_1_and_255)


def _declared(seen: Mapping[int, RawSample], declared: Mapping[str, Sequence[int]]) -> ClassMap:
    foreground = {name: tuple(wanted) for name, wanted in declared.items() if name != BACKGROUND}
    for name, wanted in foreground.items():
        if not seen.keys() & set(wanted):
            raise UserError(
                f"class {name!r}: none of its mask values {list(wanted)} occurs; the masks hold {sorted(seen)[:20]}: "
                "correct data.classes"
            )
    absent = sorted({value for wanted in foreground.values() for value in wanted} - seen.keys())
    problems = (f"mask values {absent} are declared but do not occur",) if absent else ()
    known = {value for wanted in declared.values() for value in wanted}
    undeclared = sorted(seen.keys() - known)
    background = list(declared.get(BACKGROUND, ()))
    if not background and undeclared:
        # 0 is the background unless a class claims it (EM: membrane = 0), then the one value that is left
        background = [0] if 0 in undeclared else undeclared if len(undeclared) == 1 else []
    strangers = [value for value in undeclared if value not in background]
    if strangers:
        sample = seen[strangers[0]]
        raise UserError(
            f"{sample.mask_path or sample.name}: holds mask value {strangers[0]}, which data.classes does not name: "
            'add it to a class, or to "background"'
        )
    return ClassMap((BACKGROUND, *foreground), (tuple(background), *foreground.values()), problems)


def _found(seen: Mapping[int, RawSample], names: Mapping[int, str], mixes_1_and_255: bool) -> ClassMap:
    values = sorted(seen)
    if len(values) < 2:
        raise UserError(f"every mask holds only the value {values[0] if values else 'none'}: no foreground to learn")
    if values == [0, 1, 255] and not mixes_1_and_255:
        problem = "some masks use 1, others 255 for the foreground: both taken as one class"
        return ClassMap((BACKGROUND, names.get(1, "foreground")), ((0,), (1, 255)), (problem,))
    background, *foreground = values
    if len(foreground) == 1:
        return ClassMap((BACKGROUND, names.get(foreground[0], "foreground")), ((background,), (foreground[0],)))
    found = tuple(names.get(value, f"class_{index}") for index, value in enumerate(foreground, start=1))
    return ClassMap((BACKGROUND, *found), tuple((value,) for value in values))
