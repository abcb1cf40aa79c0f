"""NIfTI volumes as 2-D slices along the third axis: MSD and nnU-Net folders, BIDS derivatives, x with x_seg."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantunet.data.config import DataConfig
from quantunet.data.image_file import to_integers
from quantunet.data.naming import case_ids, files_below, part_of
from quantunet.data.nifti_file import NIFTI, Volume, nifti_stem, read_volume, slice_pixels
from quantunet.data.sample import Found, Part, RawSample
from quantunet.errors import UserError

_MASK_WORD = re.compile(r"(?:^|[_\-.])(?:\w*seg|mask|label|lbl|gt|lesion|manual|roi|truth|annotation)", re.IGNORECASE)
_MASK_FOLDERS = re.compile(
    r"^(?:labels?(?:tr|ts)?|masks?|segmentations?|gts?|annotations?|derivatives)$", re.IGNORECASE
)
_IMAGE_FOLDERS = re.compile(r"^(?:images?(?:tr|ts)?|imgs?|volumes?)$", re.IGNORECASE)
_CHANNEL = re.compile(r"_(\d{4})$")  # nnU-Net: case_0000, case_0001 are channels of one case
# of a voxel, at the worst corner: hand-drawn masks of real sets are off by 0.11 (another float of the same spacing);
# a grid that differs in earnest is off by half a voxel or more
_MAX_SHIFT = 0.25


@dataclass(frozen=True)
class _VolumePair:
    stem: str
    images: tuple[Path, ...]  # one per channel
    mask: Path
    part: Part | None


def read_nifti(root: Path, config: DataConfig) -> Found:
    """Every slice of every volume that has a mask; spacing is (slice, row, column) in mm.

    ``config.label`` chooses when an image has several masks (``gmseg`` takes x_gmseg-manual.nii.gz).

    Raises:
        UserError: missing or ambiguous masks, volumes that ``read_volume`` refuses, other shape or affine of image
            and mask.
    """
    files = files_below(root, NIFTI)
    if not files:
        raise UserError(f"{root}: no .nii or .nii.gz files for reader: nifti")
    pairs, problems = _pair(root, files, config.label)
    cases = case_ids(root, [pair.images[0] for pair in pairs], [pair.stem for pair in pairs], config.case_pattern)
    samples = []
    for pair, case_id in zip(pairs, cases, strict=True):
        samples += _slices(pair, case_id)
    return Found(tuple(samples), tuple(problems), class_names=_names_from_json(root))


def _slices(pair: _VolumePair, case_id: str) -> list[RawSample]:
    volumes = [read_volume(path) for path in pair.images]
    first, mask = volumes[0], read_volume(pair.mask)
    for path, volume in zip((*pair.images[1:], pair.mask), (*volumes[1:], mask), strict=True):
        _check_geometry(path, volume, pair.images[0], first)
    if mask.data.shape[3] != 1:
        raise UserError(f"{pair.mask}: a mask with {mask.data.shape[3]} channels: save one volume of class values")
    labels = to_integers(mask.data[..., 0], pair.mask)
    base = pair.stem if case_id == pair.stem else f"{case_id}/{pair.stem}"
    channels = sum(volume.data.shape[3] for volume in volumes)
    return [
        RawSample(
            pixels=np.concatenate([slice_pixels(volume, index) for volume in volumes]).copy(),
            file_channels=channels,
            labels=np.ascontiguousarray(labels[:, :, index].T),
            case_id=case_id,
            name=f"{base}/slice_{index:03d}",
            spacing_mm=first.spacing_mm,
            path=pair.images[0],
            index=index,
            part=pair.part,
            mask_path=pair.mask,
        )
        for index in range(labels.shape[2])
    ]


def _check_geometry(path: Path, volume: Volume, image_path: Path, image: Volume) -> None:
    if volume.data.shape[:3] != image.data.shape[:3]:
        raise UserError(f"{path}: shape {volume.data.shape[:3]}, but {image_path.name} has {image.data.shape[:3]}")
    # where each corner of the volume lies in mm
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [*image.data.shape[:3], 1]
    shift_mm = np.abs(corners @ (volume.affine - image.affine).T).max()
    if shift_mm > _MAX_SHIFT * min(image.spacing_mm):
        raise UserError(
            f"{path}: its affine differs from that of {image_path.name} (by {shift_mm:.3g} mm at a corner): "
            "resample the mask to the image's grid"
        )


def _pair(root: Path, files: list[Path], label: str | None) -> tuple[list[_VolumePair], list[str]]:
    is_bids = (root / "derivatives").is_dir() and any(path.is_dir() for path in root.glob("sub-*"))
    relative = {path: path.relative_to(root) for path in files}
    if is_bids:
        images = [path for path in files if relative[path].parts[0].startswith("sub-")]
        masks = [path for path in files if relative[path].parts[0] == "derivatives"]
    else:
        has_folders = any(_MASK_FOLDERS.match(part) for path in files for part in relative[path].parts[:-1])
        masks = [path for path in files if _is_mask(relative[path], has_folders)]
        chosen = set(masks)
        images = [path for path in files if path not in chosen]
    if not masks or not images:
        what = "masks" if images else "images"
        raise UserError(
            f"{root}: {len(files)} volumes and no {what}: name masks x_seg.nii.gz, or use imagesTr/ and labelsTr/"
        )
    by_stem: dict[str, list[Path]] = {}
    for path in images:
        by_stem.setdefault(_CHANNEL.sub("", nifti_stem(path)), []).append(path)
    tails: dict[str, dict[str, list[Path]]] = {}
    problems = []
    for path in masks:
        stem = nifti_stem(path)
        owner = max(
            (s for s in by_stem if stem == s or stem.startswith((f"{s}_", f"{s}-", f"{s}."))), key=len, default=None
        )
        if owner is None:
            problems.append(f"{relative[path]}: a mask without an image, left out")
        else:
            tails.setdefault(owner, {}).setdefault(stem[len(owner) :].lstrip("_-."), []).append(path)
    pairs = []
    for stem, own in by_stem.items():
        mask = _choose(own[0], tails.get(stem, {}), label)
        if mask is None and (is_bids or any(part.lower() in ("imagests", "test") for part in relative[own[0]].parts)):
            problems.append(f"{relative[own[0]]}: no mask, left out")
        elif mask is None:
            wanted = f" {label!r}" if label else ""
            raise UserError(f"{own[0]}: has no mask{wanted}: add it, or take the volume out of {root.name}/")
        else:
            part = part_of(relative[own[0]].parts[:-1])
            pairs.append(_VolumePair(stem, tuple(sorted(own)), mask, part))
    return pairs, problems


def _is_mask(relative: Path, has_folders: bool) -> bool:
    if not has_folders:
        return bool(_MASK_WORD.search(nifti_stem(relative)))
    for part in reversed(relative.parts[:-1]):
        if _MASK_FOLDERS.match(part):
            return True
        if _IMAGE_FOLDERS.match(part):
            return False
    return bool(_MASK_WORD.search(nifti_stem(relative)))


def _choose(image: Path, tails: dict[str, list[Path]], label: str | None) -> Path | None:
    """The one mask of ``image`` among those that follow its name with a tail."""
    wanted = {tail: paths for tail, paths in tails.items() if label is None or tail.startswith(label)}
    found = [path for paths in wanted.values() for path in paths]
    if len(found) > 1:
        names = ", ".join(sorted(wanted)) if len(wanted) > 1 else ", ".join(str(path) for path in found)
        raise UserError(f"{image}: has {len(found)} masks ({names}): choose one with data.label")
    return found[0] if found else None


def _names_from_json(root: Path) -> dict[int, str] | None:
    """Class names of an MSD or nnU-Net dataset.json, by mask value."""
    path = root / "dataset.json"
    if not path.is_file():
        return None
    try:
        labels = json.loads(path.read_text(encoding="utf-8")).get("labels", {})
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    names: dict[int, str] = {}
    for key, value in labels.items() if isinstance(labels, dict) else ():
        if str(key).isdigit():  # MSD: {"1": "liver"}
            names[int(key)] = str(value)
        elif isinstance(value, int):  # nnU-Net: {"liver": 1}
            names[value] = key
    return names or None
