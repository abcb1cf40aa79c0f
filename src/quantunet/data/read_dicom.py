"""Folders of DICOM series, with labels as NIfTI volumes (NIH Pancreas-CT) or as one picture per slice."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantunet.data.config import DataConfig
from quantunet.data.dicom_file import Series, read_series
from quantunet.data.dicom_names import dicom_files
from quantunet.data.groups import patient_ids
from quantunet.data.image_file import PICTURES, read_label_pages, to_integers
from quantunet.data.label_grid import labels_on_series, misfit_line
from quantunet.data.metaimage_file import volume_stem
from quantunet.data.naming import files_below, has_mask_name, pair_files
from quantunet.data.nifti_file import NIFTI, read_volume
from quantunet.data.sample import Found, RawSample
from quantunet.errors import UserError

_LABEL_WORDS = re.compile(r"(?i)(?:^|[_\-. ])?(?:labels?|masks?|segs?|segmentations?|gt)(?=$|[_\-. \d])")


def read_dicom(root: Path, config: DataConfig) -> Found:
    """Every slice of every series that has labels; a folder is a series and a case, CT in Hounsfield units.

    Labels are NIfTI volumes where there are any (``label0001.nii.gz`` belongs to ``PANCREAS_0001/``), else pictures
    beside the slices (``01.dcm`` with ``01_label.png``).

    Raises:
        UserError: what ``read_series`` refuses, a series without labels, labels of another size.
    """
    files = dicom_files(root)
    if not files:
        raise UserError(f"{root}: no DICOM files for reader: dicom")
    folders: dict[Path, list[Path]] = {}
    for path in files:
        folders.setdefault(path.parent, []).append(path)
    problems: list[str] = []
    found: list[tuple[Path, Series]] = []
    for folder, paths in folders.items():
        series = read_series(paths)
        if series is None:
            problems.append(f"{_relative(folder, root)}: {len(paths)} DICOM objects that are no images, left out")
        else:
            found.append((folder, series))
    if not found:
        raise UserError(f"{root}: {len(files)} DICOM objects and no images among them: give the folder of the series")
    names = _case_names(root, [folder for folder, _ in found])
    patients, hint = patient_ids(root, [series.paths[0] for _, series in found], config.case_pattern)
    problems += _shared_patients(names, [series for _, series in found], patients)
    volumes = files_below(root, NIFTI)
    samples: list[RawSample] = []
    if volumes:
        labelled, lines = _volumes_of(root, [folder for folder, _ in found], volumes)
        problems += lines
    for k, (folder, series) in enumerate(found):
        if volumes:
            volume = read_volume(labelled[folder])
            labels, line = labels_on_series(volume, series, labelled[folder], config.label_flip)
            masks = [labelled[folder]] * len(labels)
        else:
            labels, masks = _picture_labels(root, series)
            line = None
        problems += [line] if line else []
        line = misfit_line(labels, series, names[k]) if volumes else None
        problems += [line] if line else []
        samples += _samples(series, labels, masks, names[k], patients[k] if patients else None)
    return Found(
        tuple(samples),
        tuple(problems),
        hints=(hint,) if hint else (),
        is_hounsfield=all(series.modality == "CT" for _, series in found),
    )


def _samples(series: Series, labels: NDArray, masks: list[Path], name: str, patient: str | None) -> list[RawSample]:
    return [
        RawSample(
            pixels=series.pixels[index],
            file_channels=series.pixels.shape[1],
            labels=labels[index],
            case_id=name,
            name=f"{name}/slice_{index:03d}",
            spacing_mm=series.spacing_mm,
            path=series.paths[index],
            index=index,
            mask_path=masks[index],
            group_id=patient,
        )
        for index in range(len(series.pixels))
    ]


def _case_names(root: Path, folders: list[Path]) -> list[str]:
    """The shortest beginning of each folder's path below the root that tells it from the others."""
    parts = [folder.relative_to(root).parts or (root.resolve().name,) for folder in folders]
    lengths = []
    for own in parts:
        others = [other for other in parts if other is not own]
        length = 1
        while length < len(own) and any(other[:length] == own[:length] for other in others):
            length += 1
        lengths.append(length)
    common = 0 if len(parts) == 1 else min(lengths) - 1  # a folder that all share says nothing
    return ["/".join(own[min(common, len(own) - 1) : length]) for own, length in zip(parts, lengths, strict=True)]


def _shared_patients(names: list[str], series: list[Series], patients: list[str] | None) -> list[str]:
    """A line when files of different cases carry one PatientID: two series of a patient, or all made anonymous."""
    owners: dict[str, str] = {}
    for k, (name, one) in enumerate(zip(names, series, strict=True)):
        group = patients[k] if patients else name
        if one.patient_id and owners.setdefault(one.patient_id, group) != group:
            return [
                f"{owners[one.patient_id]} and {group} carry the same PatientID: if it is one patient, bring them "
                "together with case_pattern"
            ]
    return []


def _volumes_of(root: Path, folders: list[Path], volumes: list[Path]) -> tuple[dict[Path, Path], list[str]]:
    """The label volume of each folder: the same name or number as one of the folders above the slices."""
    labelled: dict[Path, Path] = {}
    for folder in folders:
        parts = folder.relative_to(root).parts
        matches = [path for path in volumes if _key(path) and any(_key(path) == part.lower() for part in parts)]
        matches = matches or [path for path in volumes if _number(path) in [_last_number(part) for part in parts]]
        top = root / parts[0] if parts else root
        matches = matches or [path for path in volumes if path.parent in (folder, top) and len(folders) > 1]
        matches = matches or (volumes if len(folders) == len(volumes) == 1 else [])
        if len(matches) != 1:
            what = f"{len(matches)} label volumes ({matches[0].name}, ...)" if matches else "no label volume"
            raise UserError(
                f"{folder}: {what} in {root.name}: name it as the folder, or by its number (label0001 for PATIENT_0001)"
            )
        labelled[folder] = matches[0]
    twice = next((path for path in volumes if list(labelled.values()).count(path) > 1), None)
    if twice is not None:
        owners = ", ".join(_relative(folder, root) for folder, own in labelled.items() if own == twice)
        raise UserError(f"{twice}: labels of several series ({owners}): keep one of them")
    unused = [path for path in volumes if path not in labelled.values()]
    lines = [f"{len(unused)} label volumes without a series, left out: {unused[0].name} ..."] if unused else []
    return labelled, lines


def _picture_labels(root: Path, series: Series) -> tuple[NDArray, list[Path]]:
    """(s, h, w) from one picture per slice."""
    pictures = files_below(root, PICTURES)
    pairs, _ = pair_files(root, [*series.paths, *pictures]) if any(map(_is_label, pictures)) else ([], [])
    mask_of = {pair.image: pair.masks for pair in pairs}
    labels, masks = [], []
    height, width = series.pixels.shape[2:]
    for path in series.paths:
        own = mask_of.get(path, ())
        if len(own) != 1:
            raise UserError(f"{path}: {len(own)} label pictures: put {path.stem}_label.png beside it, or label volumes")
        one, _ = read_label_pages(own[0])
        if one.shape != (1, height, width):
            raise UserError(f"{own[0]}: {one.shape[1]}x{one.shape[2]} pixels, but {path.name} has {height}x{width}")
        labels.append(to_integers(one[0], own[0]))
        masks.append(own[0])
    return np.stack(labels), masks


def _is_label(path: Path) -> bool:
    return has_mask_name(path.stem) or has_mask_name(path.parent.name)


def _key(path: Path) -> str:
    """The name without its word for labels: "label0001" -> "0001", "PANCREAS_0001_seg" -> "pancreas_0001"."""
    return _LABEL_WORDS.sub("", volume_stem(path)).strip("_-. ").lower()


def _number(path: Path) -> str:
    return _last_number(_key(path)) or "none"


def _last_number(text: str) -> str | None:
    numbers = re.findall(r"\d+", text)
    return numbers[-1].lstrip("0") or "0" if numbers else None


def _relative(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix()
