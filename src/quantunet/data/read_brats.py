"""BraTS 2015 to 2023: a folder per scan, one file per modality, label values 1 to 4."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from quantunet.data.config import DataConfig
from quantunet.data.groups import patient_ids
from quantunet.data.metaimage_file import VOLUMES, volume_stem
from quantunet.data.naming import files_below, part_of
from quantunet.data.read_nifti import VolumePair, volume_slices
from quantunet.data.sample import Found, RawSample
from quantunet.errors import UserError

_MODALITY = re.compile(r"(?i)(?:^|[._\-])(?:mr_)?(flair|t2f|t1ce|t1c|t1gd|t1n|t1|t2w|t2)(?=$|[._\-])")
_LABEL = re.compile(r"(?i)(?:^|[._\-])(?:seg|segm|ot|otmulticlass)(?=$|[._\-])")
_SAME = {"t2f": "flair", "t1c": "t1ce", "t1gd": "t1ce", "t1n": "t1", "t2w": "t2"}
CHANNELS = ("flair", "t1", "t1ce", "t2")
"""Order of the channels; those that no scan has are left out."""

_NAMES_2015 = {1: "necrosis", 2: "oedema", 3: "non_enhancing", 4: "enhancing"}
_NAMES_2017 = {1: "necrosis_or_non_enhancing", 2: "oedema", 4: "enhancing"}
_NAMES_2023 = {1: "necrosis_or_non_enhancing", 2: "oedema", 3: "enhancing"}


@dataclass
class _Scan:
    folder: Path
    modalities: dict[str, list[Path]] = field(default_factory=dict)
    labels: list[Path] = field(default_factory=list)


def is_brats(volumes: list[Path]) -> bool:
    """Whether every folder with a label file has at least two modalities beside it."""
    labelled = [scan for scan in _scans(volumes) if scan.labels]
    return bool(labelled) and all(len(scan.modalities) >= 2 for scan in labelled)


def read_brats(root: Path, config: DataConfig) -> Found:
    """Every slice of every scan, the modalities as channels in the order ``CHANNELS``; scans of a patient are a group.

    Raises:
        UserError: a scan that lacks a modality or the labels that others have, two files of one modality, and what
            ``volume_slices`` refuses.
    """
    scans = _scans(files_below(root, VOLUMES))
    channels = [name for name in CHANNELS if any(name in scan.modalities for scan in scans)]
    problems, complete = [], []
    for scan in scans:
        missing = [name for name in channels if name not in scan.modalities]
        double = next((own for own in (scan.labels, *scan.modalities.values()) if len(own) > 1), None)
        if double:
            raise UserError(f"{double[1]}: beside {double[0].name}, which says the same: keep one of the two")
        if not scan.labels and part_of(scan.folder.relative_to(root).parts) in ("validation", "test"):
            problems.append(f"{scan.folder.relative_to(root)}: no labels, left out")
        elif not scan.labels:
            raise UserError(f"{scan.folder}: has no labels (x_seg.nii.gz): add them, or take the scan out")
        elif missing:
            raise UserError(
                f"{scan.folder}: has no {', '.join(missing)}, which other scans have: add it, or take the scan out"
            )
        else:
            complete.append(scan)
    if not complete:
        raise UserError(f"{root}: no scan with modalities (x_flair.nii.gz ...) and labels (x_seg.nii.gz)")
    if 0 < len(channels) < len(CHANNELS):
        absent = [name for name in CHANNELS if name not in channels]
        problems.append(f"channels: {', '.join(channels)}; no scan has {', '.join(absent)}")
    names = _case_names(complete)
    patients, hint = patient_ids(root, [scan.modalities[channels[0]][0] for scan in complete], config.case_pattern)
    samples: list[RawSample] = []
    for k, (scan, name) in enumerate(zip(complete, names, strict=True)):
        part = part_of(scan.folder.relative_to(root).parts)
        images = tuple(scan.modalities[channel][0] for channel in channels)
        # two patients of one name in HGG/ and LGG/ are told apart by that folder
        grade = f"{name.rpartition('/')[0]}/" if "/" in name else ""
        patient = grade + patients[k] if patients else None
        samples += volume_slices(VolumePair(name, images, scan.labels[0], part), name, patient)
    class_names, enhancing = _label_values(complete)
    others = tuple(value for value in class_names if value != 2)
    regions = {"whole_tumour": tuple(class_names), "core": others, "enhancing": (enhancing,)}
    return Found(
        tuple(samples), tuple(problems), class_names=class_names, regions=regions, hints=(hint,) if hint else ()
    )


def _scans(volumes: list[Path]) -> list[_Scan]:
    scans: dict[Path, _Scan] = {}
    for path in volumes:
        stem = volume_stem(path)
        # 2015: every modality has a folder of its own, named as the file
        folder = path.parent.parent if path.parent.name == stem else path.parent
        scan = scans.setdefault(folder, _Scan(folder))
        name = stem.removeprefix(folder.name)
        match = _MODALITY.search(name)
        if _LABEL.search(name):
            scan.labels.append(path)
        elif match:
            scan.modalities.setdefault(_SAME.get(match[1].lower(), match[1].lower()), []).append(path)
    return [scan for scan in scans.values() if scan.modalities]


def _case_names(scans: list[_Scan]) -> list[str]:
    """The scan's folder; with the folder above it where two have the same name."""
    counts = Counter(scan.folder.name for scan in scans)
    return [
        scan.folder.name if counts[scan.folder.name] == 1 else f"{scan.folder.parent.name}/{scan.folder.name}"
        for scan in scans
    ]


def _label_values(scans: list[_Scan]) -> tuple[dict[int, str], int]:
    """Names of the label values and which is the enhancing tumour: 4, but 3 since 2023."""
    stem = volume_stem(scans[0].labels[0])
    folder = scans[0].folder.name.lower()
    if folder.startswith("brats-"):
        return _NAMES_2023, 3
    is_2015 = folder.startswith("brats_") or stem.startswith("VSD.")
    return (_NAMES_2015 if is_2015 else _NAMES_2017), 4
