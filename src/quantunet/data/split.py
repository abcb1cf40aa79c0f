"""Cases to train, validation and test: every case in exactly one part, all of a patient's in the same; written down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from quantunet.atomic_file import write_atomically
from quantunet.data.config import DataConfig, SplitConfig
from quantunet.data.neighbours import with_neighbours
from quantunet.data.sample import PARTS, Dataset, Part, Sample
from quantunet.errors import UserError


@dataclass(frozen=True)
class Split:
    """Case ids of each part, in the dataset's order."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def part_of(self, case_id: str) -> Part:
        """The part that holds ``case_id``; KeyError when none does."""
        for part in PARTS:
            if case_id in getattr(self, part):
                return part
        raise KeyError(case_id)


def split_cases(dataset: Dataset, config: SplitConfig) -> Split:
    """The split that ``config`` asks for; lists and files rule, then the folder's own test/, then fractions.

    Fractions count groups (patients); lists may name a group for all its cases.

    Raises:
        UserError: fewer than 3 cases or groups, an unknown, doubled or forgotten case, a group in two parts, an empty
            part, or an unreadable file.
    """
    cases = dataset.case_ids
    groups = len(set(dataset.group_of.values()))
    if groups < 3:
        what = f"{len(cases)} case(s)"
        if groups < len(cases):
            own = [case for case, group in dataset.group_of.items() if group == next(_shared_groups(dataset))]
            what += f" in {groups} group(s) ({own[0]} and {own[1]} are of one patient, or the same picture)"
        raise UserError(f"{dataset.name}: {what}, a split needs 3: add cases, or say with case_pattern what a case is")
    if config.file is not None:
        chosen: dict[Part, tuple[str, ...]] = _read_split(config.file)
    else:
        lists: dict[Part, tuple[str, ...] | None] = {
            "train": config.train_cases,
            "validation": config.validation_cases,
            "test": config.test_cases,
        }
        chosen = {part: stated for part, stated in lists.items() if stated is not None}
        if not chosen:
            chosen = {part: ids for part, ids in dataset.given_split.items() if part != "train"}
    chosen = _cases_for_groups(dataset, chosen)
    _check_known(dataset, chosen)
    if config.file is None:
        chosen = _fill(dataset, chosen, config)
    forgotten = [case for case in cases if not any(case in ids for ids in chosen.values())]
    if forgotten:
        raise UserError(
            f"case {forgotten[0]!r} is in no part of the split ({len(forgotten)} such): name it in one part"
        )
    _check_groups(dataset, chosen)
    ordered = {part: tuple(case for case in cases if case in set(chosen.get(part, ()))) for part in PARTS}
    empty = [part for part in PARTS if not ordered[part]]
    if empty:
        raise UserError(f"the {empty[0]} part of the split is empty ({len(cases)} cases): add cases to it")
    return Split(ordered["train"], ordered["validation"], ordered["test"])


def _cases_for_groups(dataset: Dataset, chosen: dict[Part, tuple[str, ...]]) -> dict[Part, tuple[str, ...]]:
    """``chosen`` with the name of a group, where it is no case, replaced by the group's cases."""
    members: dict[str, list[str]] = {}
    for case, group in dataset.group_of.items():
        members.setdefault(group, []).append(case)
    cases = set(dataset.case_ids)
    return {
        part: tuple(case for name in names for case in ([name] if name in cases else members.get(name, [name])))
        for part, names in chosen.items()
    }


def _shared_groups(dataset: Dataset) -> Iterator[str]:
    """Groups of more than one case."""
    seen: set[str] = set()
    for group in dataset.group_of.values():
        if group in seen:
            yield group
        seen.add(group)


def _check_groups(dataset: Dataset, chosen: dict[Part, tuple[str, ...]]) -> None:
    part_of = {case: part for part, ids in chosen.items() for case in ids}
    first: dict[str, str] = {}
    for case, group in dataset.group_of.items():
        other = first.setdefault(group, case)
        if part_of[other] != part_of[case]:
            raise UserError(
                f"case {case!r} is in {part_of[case]}, but {other!r} in {part_of[other]}, and they are of one patient, "
                f"or the same picture ({group}): keep them in one part"
            )


def _check_known(dataset: Dataset, chosen: dict[Part, tuple[str, ...]]) -> None:
    known: set[str] = set(dataset.case_ids)
    owner: dict[str, Part] = {}
    for part, ids in chosen.items():
        for case in ids:
            if case not in known:
                some = ", ".join(dataset.case_ids[:3])
                raise UserError(f"split names case {case!r} in {part}, which {dataset.name} lacks (it has {some}, ...)")
            if case in owner:
                raise UserError(f"case {case!r} is in {owner[case]} and in {part}: a case belongs to one part")
            owner[case] = part


def _fill(dataset: Dataset, chosen: dict[Part, tuple[str, ...]], config: SplitConfig) -> dict[Part, tuple[str, ...]]:
    """``chosen`` completed: the parts not stated share the remaining cases in the ratio of their fractions."""
    stated = {case for ids in chosen.values() for case in ids}
    members: dict[str, list[str]] = {}
    for case, group in dataset.group_of.items():
        if case not in stated:
            members.setdefault(group, []).append(case)
    free = list(members)
    method = dataset.default_split if config.method == "auto" else config.method
    if method == "random":
        free = [free[k] for k in np.random.default_rng(config.seed).permutation(len(free))]
    free = _turned(free, config)
    shares: dict[Part, float] = {
        "train": 1.0 - config.validation - config.test,
        "validation": config.validation,
        "test": config.test,
    }
    open_parts: list[Part] = [part for part in PARTS if part not in chosen]
    total, count = sum(shares[part] for part in open_parts), len(free)
    parts = dict(chosen)
    for part in reversed(open_parts):  # from the end: the test block is last, validation before it
        is_first = part == open_parts[0]
        cut = 0 if is_first else max(0, len(free) - max(1, round(count * shares[part] / total)))
        parts[part], free = tuple(case for group in free[cut:] for case in members[group]), free[:cut]
    return parts


def _turned(groups: list[str], config: SplitConfig) -> list[str]:
    """The groups with those last that the fold tests: of fold 0 the last ones, of fold 1 those before, and so on."""
    fold = 0 if config.fold == "seed" else config.fold
    ahead = fold * max(1, round(len(groups) * config.test)) % len(groups)
    return groups[len(groups) - ahead :] + groups[: len(groups) - ahead]


def write_split(split: Split, path: Path) -> None:
    """The split as JSON, readable by ``SplitConfig.file``."""
    write_atomically(path, (json.dumps(asdict(split), indent=2) + "\n").encode("utf-8"))


def _read_split(path: Path) -> dict[Part, tuple[str, ...]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such split file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict) or set(content) != set(PARTS):
        raise UserError(f"{path}: a split file is an object with the lists train, validation and test")
    for part in PARTS:
        if not isinstance(content[part], list) or not all(isinstance(case, str) for case in content[part]):
            raise UserError(f"{path}: {part} must be a list of case ids (texts)")
    return {part: tuple(content[part]) for part in PARTS}


def part_samples(dataset: Dataset, split: Split, config: DataConfig) -> dict[Part, tuple[Sample, ...]]:
    """The samples of each part, with their neighbours as channels where the configuration asks for that; slices
    without foreground leave the training part if it says so (as neighbours they stay).

    Raises:
        UserError: when no training slice with foreground remains.
    """
    parts: dict[Part, tuple[Sample, ...]] = {
        # each part by itself: pages of a stack are cases, and the next one may belong to another part
        part: with_neighbours(dataset.of_cases(getattr(split, part)), config.neighbour_slices)
        for part in PARTS
    }
    if config.foreground_slices_only_in_training:
        parts["train"] = tuple(sample for sample in parts["train"] if sample.mask is not None and sample.mask.any())
        if not parts["train"]:
            raise UserError("no training slice has foreground: set foreground_slices_only_in_training: false")
    return parts
