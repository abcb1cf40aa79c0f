"""What all readers' samples must agree on: channels, classes, names, the split that folders state, the slices' grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from quantunet.data.channels import agree_on_channels, with_channels
from quantunet.data.classes import ClassMap, find_classes
from quantunet.data.config import BACKGROUND, DataConfig
from quantunet.data.groups import with_duplicates_grouped
from quantunet.data.in_plane import InPlane, place, place_image, place_mask, placed_spacing_mm, resample_mask
from quantunet.data.pixels_hash import is_constant
from quantunet.data.sample import PARTS, Dataset, Found, Part, RawSample, Sample
from quantunet.errors import UserError

PICTURE_READERS = ("pairs", "kaggle_3m")  # whose cases may hold the same picture twice; slices of volumes do not
SOFT_TISSUE_HU = (-160, 240)


def agree(root: Path, reader: str, found: Found, config: DataConfig) -> Dataset:
    """One channel count, one list of classes and one grid rule for all samples.

    Raises:
        UserError: two samples of one name, mixed channels, classes that do not fit, a case in two stated parts.
    """
    _check_names(found)
    raws, doubles = with_duplicates_grouped(found.samples) if reader in PICTURE_READERS else (found.samples, ())
    channels, converted = agree_on_channels(raws, config.channels)
    classes = _classes(root, found, config)
    in_plane = in_plane_of(config)
    placed = [_sample(raw, channels, classes, in_plane) for raw in raws]
    samples = tuple(sample for sample, _ in placed)
    problems = [*found.problems, *doubles, *([converted] if converted else []), *classes.problems]
    problems += _cut_off(placed)
    return Dataset(
        name=root.resolve().name,
        root=root,
        samples=samples,
        class_names=classes.names,
        class_values=classes.values,
        channels=channels,
        reader=reader,
        problems=(*problems, *_oddities(samples)),
        default_split=found.default_split,
        given_split=_given_split(found),
        source=_source_note(root),
        hints=(*found.hints, *_window_hint(found, samples, config)),
        in_plane=in_plane,
    )


def in_plane_of(config: DataConfig) -> InPlane | None:
    """What the configuration does to every slice, None when nothing."""
    in_plane = InPlane(config.resample_mm, config.crop_px, config.resize_px)
    return None if in_plane == InPlane() else in_plane


def _cut_off(placed: list[tuple[Sample, int]]) -> list[str]:
    """A line about foreground that the crop cut off, naming the case that lost most."""
    by_case: dict[str, int] = {}
    for sample, lost in placed:
        by_case[sample.case_id] = by_case.get(sample.case_id, 0) + lost
    cut = sum(by_case.values())
    if cut == 0:
        return []
    whole = cut + sum(int(np.count_nonzero(sample.mask)) for sample, _ in placed if sample.mask is not None)
    worst = max(by_case, key=lambda case: by_case[case])
    return [
        f"the crop cuts off {cut} of {whole} foreground pixels ({cut / whole:.2%}), {by_case[worst]} of them in "
        f"{worst}: they count nowhere"
    ]


def _sample(raw: RawSample, channels: int, classes: ClassMap, in_plane: InPlane | None) -> tuple[Sample, int]:
    """The sample, and how many foreground pixels the crop cut off."""
    sample = Sample(
        image=with_channels(raw.pixels, channels, raw.path),
        mask=None if raw.labels is None else classes.apply(raw.labels),
        case_id=raw.case_id,
        name=raw.name,
        spacing_mm=raw.spacing_mm,
        path=raw.path,
        index=raw.index,
        group_id=raw.group_id if raw.group_id != raw.case_id else None,
    )
    if in_plane is None:
        return sample, 0
    height, width = sample.image.shape[1:]
    placement = place((height, width), raw.spacing_mm, in_plane, raw.path)
    mask, lost = sample.mask, 0
    if mask is not None:
        whole, mask = resample_mask(mask, placement), place_mask(mask, placement)
        lost = int(np.count_nonzero(whole)) - int(np.count_nonzero(mask))
    placed = replace(
        sample,
        image=place_image(sample.image, placement),
        mask=mask,
        spacing_mm=placed_spacing_mm(raw.spacing_mm, placement),
        placement=placement,
    )
    return placed, lost


def _classes(root: Path, found: Found, config: DataConfig) -> ClassMap:
    if config.region is None:
        return find_classes(found.samples, config.classes, found.class_names)
    if config.region not in found.regions:
        raise UserError(f"{root}: no BraTS layout, so no region {config.region!r}: leave data.region out")
    wanted = found.regions[config.region]
    others = {value for values in found.regions.values() for value in values} - set(wanted)
    declared = {config.region: wanted, BACKGROUND: (0, *sorted(others))}
    return replace(find_classes(found.samples, declared), problems=())  # no case need show every label


def _window_hint(found: Found, samples: tuple[Sample, ...], config: DataConfig) -> tuple[str, ...]:
    """A line when values are Hounsfield units, as stated or by their range, and no window is set."""
    if config.normalization.kind == "window" or samples[0].image.shape[0] != 1:
        return ()
    low = min(float(sample.image.min()) for sample in samples)
    high = max(float(sample.image.max()) for sample in samples)
    if found.is_hounsfield:
        reason = "the values are CT numbers (Hounsfield units)"
    elif -4096 <= low <= -900 and 200 <= high <= 32767:
        reason = f"values from {low:g} to {high:g} look like CT numbers (Hounsfield units)"
    else:
        return ()
    window = f"{{kind: window, low: {SOFT_TISSUE_HU[0]}, high: {SOFT_TISSUE_HU[1]}}}"
    return (f"{reason}: normalization: {window} suits soft tissue",)


def _check_names(found: Found) -> None:
    seen: dict[str, RawSample] = {}
    for raw in found.samples:
        earlier = seen.setdefault(raw.name, raw)
        if earlier is not raw:
            raise UserError(f"{raw.path}: would have the same name ({raw.name}) as {earlier.path}: rename one of them")


def _oddities(samples: tuple[Sample, ...]) -> tuple[str, ...]:
    """Lines about constant images and empty masks."""
    lines = []
    constant = [sample.name for sample in samples if is_constant(sample.image)]
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
