"""NIfTI volumes as 2-D slices along the third axis: MSD and nnU-Net folders, BIDS derivatives, x with x_seg."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantunet.data.config import DataConfig
from quantunet.data.dataset_json import read_dataset_json
from quantunet.data.groups import patient_ids
from quantunet.data.image_file import to_integers
from quantunet.data.metaimage_file import VOLUMES, read_any_volume, volume_stem
from quantunet.data.naming import files_below, part_of
from quantunet.data.nifti_file import Volume, slice_pixels
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
class VolumePair:
    """One scan: its image files (one or more channels each) and its mask; ``stem`` names it."""

    stem: str
    images: tuple[Path, ...]
    mask: Path
    part: Part | None


def read_nifti(root: Path, config: DataConfig) -> Found:
    """Every slice of every volume that has a mask; spacing is (slice, row, column) in mm.

    ``config.label`` chooses when an image has several masks (``gmseg`` takes x_gmseg-manual.nii.gz).

    Raises:
        UserError: missing or ambiguous masks, volumes that ``read_volume`` refuses, other shape or affine of image
            and mask.
    """
    files = files_below(root, VOLUMES)
    if not files:
        raise UserError(f"{root}: no .nii or .nii.gz files for reader: nifti")
    pairs, problems = _pair(root, files, config.label)
    patients, hint = patient_ids(root, [pair.images[0] for pair in pairs], config.case_pattern)
    stated = read_dataset_json(root)
    samples: list[RawSample] = []
    for k, pair in enumerate(pairs):
        samples += volume_slices(pair, pair.stem, patients[k] if patients else None)
        if stated.modalities and samples[-1].file_channels != len(stated.modalities):
            raise UserError(
                f"{pair.images[0]}: {samples[-1].file_channels} channel(s), but dataset.json names "
                f"{len(stated.modalities)} ({', '.join(stated.modalities)}): correct one of them"
            )
    return Found(
        tuple(samples),
        tuple(problems),
        class_names=stated.class_names,
        hints=(hint,) if hint else (),
        is_hounsfield=tuple(name.upper() for name in stated.modalities) == ("CT",),
    )


def volume_slices(
    pair: VolumePair, case_id: str, group_id: str | None = None, labels: NDArray | None = None
) -> list[RawSample]:
    """The slices of one scan along its third axis, image files as channels.

    Args:
        pair: the files.
        case_id: of the volume.
        group_id: its patient, where known.
        labels: (x, y, z) when they were made from several masks; absent: those of ``pair.mask``.

    Raises:
        UserError: what ``read_volume`` refuses, files of other shape or affine, a mask with channels or fractions.
    """
    volumes = [read_any_volume(path) for path in pair.images]
    first = volumes[0]
    for path, volume in zip(pair.images[1:], volumes[1:], strict=True):
        check_geometry(path, volume, pair.images[0], first)
    if labels is None:
        mask = read_any_volume(pair.mask)
        check_geometry(pair.mask, mask, pair.images[0], first)
        if mask.data.shape[3] != 1:
            raise UserError(f"{pair.mask}: a mask with {mask.data.shape[3]} channels: save one volume of class values")
        labels = to_integers(mask.data[..., 0], pair.mask)
    return [
        RawSample(
            pixels=np.concatenate([slice_pixels(volume, index) for volume in volumes]).copy(),
            file_channels=sum(volume.data.shape[3] for volume in volumes),
            labels=np.ascontiguousarray(labels[:, :, index].T),
            case_id=case_id,
            name=f"{case_id}/slice_{index:03d}",
            spacing_mm=first.spacing_mm,
            path=pair.images[0],
            index=index,
            part=pair.part,
            mask_path=pair.mask,
            group_id=group_id,
        )
        for index in range(labels.shape[2])
    ]


def check_geometry(path: Path, volume: Volume, image_path: Path, image: Volume) -> None:
    """Refuse a volume of another shape than its image, or whose affine moves a corner by a quarter voxel or more."""
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


def _pair(root: Path, files: list[Path], label: str | None) -> tuple[list[VolumePair], list[str]]:
    is_bids = (root / "derivatives").is_dir() and any(path.is_dir() for path in root.glob("sub-*"))
    relative = {path: path.relative_to(root) for path in files}
    has_folders = any(_MASK_FOLDERS.match(part) for path in files for part in relative[path].parts[:-1])
    if is_bids:
        images = [path for path in files if relative[path].parts[0].startswith("sub-")]
        masks = [path for path in files if relative[path].parts[0] == "derivatives"]
    else:
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
        by_stem.setdefault(_CHANNEL.sub("", volume_stem(path)), []).append(path)
    if not has_folders and any(len({path.parent for path in own}) > 1 for own in by_stem.values()):
        return _pair_by_folder(root, images, masks, label), []
    for own in by_stem.values():
        _check_channels(own)
    tails: dict[str, dict[str, list[Path]]] = {}
    problems = []
    for path in masks:
        stem = volume_stem(path)
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
            pairs.append(VolumePair(stem, tuple(sorted(own)), mask, part))
    return pairs, problems


def _pair_by_folder(root: Path, images: list[Path], masks: list[Path], label: str | None) -> list[VolumePair]:
    """A folder per case, the same file names in each: case_01/imaging.nii.gz with case_01/segmentation.nii.gz."""
    pairs = []
    for folder in dict.fromkeys(path.parent for path in images):
        own = [path for path in images if path.parent == folder]
        _check_channels(own)
        tails: dict[str, list[Path]] = {}
        for path in masks:
            if path.parent == folder:
                tails.setdefault(volume_stem(path), []).append(path)
        mask = _choose(own[0], tails, label)
        if mask is None:
            raise UserError(f"{own[0]}: has no mask beside it: add it, or take the volume out of {root.name}/")
        name = folder.relative_to(root).as_posix() if folder != root else volume_stem(own[0])
        pairs.append(VolumePair(name, tuple(sorted(own)), mask, part_of(folder.relative_to(root).parts)))
    return pairs


def _check_channels(own: list[Path]) -> None:
    """Several images of one name must be channels of one case, numbered in one folder."""
    for path in own[1:]:
        if path.parent != own[0].parent:
            raise UserError(f"{path}: the same name as {own[0]}: two cases of one name, rename one of them")
        if not all(_CHANNEL.search(volume_stem(each)) for each in (path, own[0])):
            raise UserError(f"{path}: beside {own[0].name}: number channels x_0000, x_0001, and keep one file of each")


def _is_mask(relative: Path, has_folders: bool) -> bool:
    if not has_folders:
        return bool(_MASK_WORD.search(volume_stem(relative)))
    for part in reversed(relative.parts[:-1]):
        if _MASK_FOLDERS.match(part):
            return True
        if _IMAGE_FOLDERS.match(part):
            return False
    return bool(_MASK_WORD.search(volume_stem(relative)))


def _choose(image: Path, tails: dict[str, list[Path]], label: str | None) -> Path | None:
    """The one mask of ``image`` among those that follow its name with a tail."""
    wanted = {tail: paths for tail, paths in tails.items() if label is None or tail.startswith(label)}
    found = [path for paths in wanted.values() for path in paths]
    if len(found) > 1:
        names = ", ".join(sorted(wanted)) if len(wanted) > 1 else ", ".join(str(path) for path in found)
        raise UserError(f"{image}: has {len(found)} masks ({names}): choose one with data.label")
    return found[0] if found else None
