"""Which mask belongs to which image: the naming habits of medical data sets, found by themselves."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quantunet.data.sample import Part
from quantunet.errors import UserError

_MASK_WORDS = (
    r"masks?|segmentations?|segs?|labels?|lbls?|gts?|ground[_\- ]?truths?|annotations?|annots?|anno|manuals?|lesions?|"
    "targets?|contours?|rois?"
)
_IMAGE_WORDS = "images?|imgs?|volumes?|vols?|raws?|inputs?|pictures?|scans?|frames?"
# a word of a folder's name; what remains ("train" of "train_masks", "Tr" of "labelsTr") must be the same for both
_FOLDER_FORMS = r"(?:^|(?<=[_\-. ]))(?:{})(?:(?=tr$|ts$|va$)|(?=[_\-. \d])|$)"
_MASK_FOLDER_WORDS = (
    r"masks?|segmentations?|segs?|labels?|lbls?|gts?|ground[_\- ]?truths?|annotations?|annots?|manuals?"
)
_MASK_FOLDER = re.compile(_FOLDER_FORMS.format(_MASK_FOLDER_WORDS), re.IGNORECASE)
_IMAGE_FOLDER = re.compile(_FOLDER_FORMS.format(f"{_IMAGE_WORDS}|originals?"), re.IGNORECASE)
_FORMAT_WORD = re.compile(r"(?:^|[_\-. ])(?:png|tiff?|jpe?g|bmp|dir)s?(?=$|[_\-. ])", re.IGNORECASE)
# "x_mask", "x-labels", "x_mask_1", "x_mask1"; "mask_x", "labels-x"
_MASK_SUFFIX = re.compile(rf"^(?P<key>.*?)[_\-. ]+(?:{_MASK_WORDS})(?:[_\-. ]?\(?\d{{1,2}}\)?)?$", re.IGNORECASE)
_MASK_PREFIX = re.compile(rf"^(?:{_MASK_WORDS})[_\-. ]+(?P<key>.+)$", re.IGNORECASE)
_MASK_ALONE = re.compile(rf"^(?P<key>)(?:{_MASK_WORDS})$", re.IGNORECASE)
_IMAGE_SUFFIX = re.compile(rf"^(?P<key>.*?)[_\-. ]+(?:{_IMAGE_WORDS})$", re.IGNORECASE)
_IMAGE_PREFIX = re.compile(rf"^(?:{_IMAGE_WORDS})[_\-. ]+(?P<key>.+)$", re.IGNORECASE)
_IMAGE_ALONE = re.compile(rf"^(?P<key>)(?:{_IMAGE_WORDS})$", re.IGNORECASE)
_PARTS: dict[str, Part] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Pair:
    """An image file and its mask files (several are merged); ``stem`` names the picture."""

    image: Path
    masks: tuple[Path, ...]
    stem: str
    part: Part | None


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sorting key that puts slice 9 before slice 10."""
    return [(0, int(t), "") if t.isdigit() else (1, 0, t.lower()) for t in re.split(r"(\d+)", text) if t]


def files_below(root: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files with one of ``suffixes`` (lower case) anywhere below ``root``, hidden ones left out, naturally sorted."""
    wanted = tuple(suffixes)
    found = []
    for path in root.rglob("*"):
        relative = path.relative_to(root)
        is_hidden = any(name.startswith(".") or name == "__MACOSX" for name in relative.parts)
        if not is_hidden and path.name.lower().endswith(wanted) and path.is_file():
            found.append(path)
    return sorted(found, key=lambda path: natural_key(path.relative_to(root).as_posix()))


def has_mask_name(stem: str) -> bool:
    """Whether the stem says that this is a mask ("x_mask", "labels-x", "x_seg_1")."""
    return any(pattern.match(stem) for pattern in (_MASK_SUFFIX, _MASK_PREFIX, _MASK_ALONE))


def part_of(folders: Iterable[str]) -> Part | None:
    """The part of the split that a folder name states, if one does."""
    for folder in folders:
        for word in re.split(r"[_\-. ]", folder.lower()):
            if word in _PARTS:
                return _PARTS[word]
    return None


def pair_files(root: Path, files: list[Path], unlabelled_part: Part | None = None) -> tuple[list[Pair], list[str]]:
    """Pair image and mask files below ``root``, and lines about what was left over.

    Two habits: folders (``images/x`` with ``masks/x``, the folder at any depth, ``train/`` and ``test/`` above or
    below it) and, without any mask folder, suffixes beside the image (``x.png`` with ``x_mask.png``).

    Args:
        root: the data folder.
        files: the candidates.
        unlabelled_part: a name beginning with this part may lack its mask (``test-volume.tif``): a line, no error.

    Raises:
        UserError: no masks at all, or an image without a mask.
    """
    has_folders = any(_place(path.relative_to(root).parts[:-1], True)[1] for path in files)
    images: dict[tuple[str, ...], list[Path]] = {}
    masks: dict[tuple[str, ...], list[Path]] = {}
    for path in files:
        folders, is_mask = _place(path.relative_to(root).parts[:-1], has_folders)
        if is_mask is None:
            is_mask = has_mask_name(path.stem)
        (masks if is_mask else images).setdefault((*folders, path.stem.lower()), []).append(path)
    if not masks:
        raise UserError(
            f"{root}: {len(files)} image files and no masks: put them in masks/ beside images/, or name them x_mask.png"
        )
    if not images:
        raise UserError(f"{root}: {len(files)} mask files and no images: put the images in images/ beside masks/")
    by_key: dict[tuple[str, ...], list[Path]] = {}
    for (*folders, _), paths in masks.items():
        for path in paths:
            by_key.setdefault((*folders, _strip(path.stem, is_mask=True)), []).append(path)
    images_in = Counter(tuple(folders) for *folders, _ in images)
    masks_in: dict[tuple[str, ...], list[Path]] = {}
    for (*folders, _), paths in masks.items():
        masks_in.setdefault(tuple(folders), []).extend(paths)
    pairs, missing, used = [], [], set()
    for (*folders, stem), paths in images.items():
        if len(paths) > 1:
            raise UserError(f"{paths[0]}: the same name as {paths[1].name}: keep one of the two")
        own = masks.get((*folders, stem)) if has_folders else None
        own = own or by_key.get((*folders, stem)) or by_key.get((*folders, _strip(stem, is_mask=False)))
        if not own and folders and images_in[tuple(folders)] == 1:
            own = masks_in.get(tuple(folders))  # a folder per picture: its masks may have any names
        part = part_of(paths[0].relative_to(root).parts[:-1])
        if own:
            used.update(own)
            pairs.append(Pair(paths[0], tuple(sorted(own, key=lambda p: natural_key(p.name))), paths[0].stem, part))
        else:
            missing.append(paths[0])
    excused = [path for path in missing if unlabelled_part and path.stem.lower().startswith(unlabelled_part)]
    missing = [path for path in missing if path not in excused]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}: has no mask{more}: add the mask, or take the image out of {root.name}/")
    problems = [f"{path.relative_to(root)}: no mask, left out" for path in excused]
    unused = [path for paths in masks.values() for path in paths if path not in used]
    problems += [f"{path.relative_to(root)}: a mask without an image, left out" for path in unused[:5]]
    if len(unused) > 5:
        problems.append(f"... and {len(unused) - 5} more masks without an image")
    return pairs, problems


def _place(folders: tuple[str, ...], has_folders: bool) -> tuple[tuple[str, ...], bool | None]:
    """The folders without the word that says images or masks, and which it said (None: neither)."""
    if not has_folders:
        return folders, None
    for k in range(len(folders) - 1, -1, -1):
        name = re.sub(r"(?<=[a-z])(?=[A-Z][a-z]{3})", "_", folders[k])  # GroundTruth, but not labelsTr
        for pattern, is_mask in ((_MASK_FOLDER, True), (_IMAGE_FOLDER, False)):
            if pattern.search(name):
                rest = _FORMAT_WORD.sub("", pattern.sub("", name)).strip("_-. ").lower()
                return (*folders[:k], *([rest] if rest else []), *folders[k + 1 :]), is_mask
    return folders, False


def _strip(stem: str, is_mask: bool) -> str:
    """The stem without its word for mask (or image), lower case."""
    patterns = (_MASK_SUFFIX, _MASK_PREFIX, _MASK_ALONE) if is_mask else (_IMAGE_SUFFIX, _IMAGE_PREFIX, _IMAGE_ALONE)
    for pattern in patterns:
        match = pattern.match(stem)
        if match:
            return match["key"].lower()
    return stem.lower()


def case_ids(root: Path, images: list[Path], default: list[str], case_pattern: str | None) -> list[str]:
    """The case of each image: group 1 of ``case_pattern`` searched in its path below ``root``, else ``default``.

    Raises:
        UserError: naming the first file in which the pattern is not found.
    """
    if case_pattern is None:
        return default
    found = []
    for path in images:
        relative = path.relative_to(root).as_posix()
        match = re.search(case_pattern, relative)
        if not match or not match.group(1):
            raise UserError(f"{relative}: case_pattern {case_pattern!r} is not found in this name: mend the pattern")
        found.append(match.group(1))
    return found
