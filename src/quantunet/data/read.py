"""The one door to data: which reader fits a folder, and what every dataset must agree on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from quantunet.data.agree import agree, in_plane_of
from quantunet.data.channels import with_channels
from quantunet.data.config import PHANTOM, DataConfig
from quantunet.data.detect import detect_reader
from quantunet.data.dicom_file import read_series
from quantunet.data.dicom_names import dicom_files, is_dicom
from quantunet.data.image_file import PICTURES, read_pages
from quantunet.data.in_plane import InPlane, place, place_image, placed_spacing_mm
from quantunet.data.known_sets import where_to_get
from quantunet.data.metaimage_file import VOLUMES, read_any_volume, volume_stem
from quantunet.data.neighbours import UNORDERED_READERS, with_neighbours
from quantunet.data.nifti_file import slice_pixels
from quantunet.data.phantom import phantom_dataset
from quantunet.data.read_brats import read_brats
from quantunet.data.read_dicom import read_dicom
from quantunet.data.read_gm_challenge import read_gm_challenge
from quantunet.data.read_kaggle_3m import read_kaggle_3m
from quantunet.data.read_nifti import read_nifti
from quantunet.data.read_pairs import read_pairs
from quantunet.data.read_stack import read_stacks
from quantunet.data.sample import Dataset, Found, Sample
from quantunet.errors import UserError

READERS: dict[str, Callable[[Path, DataConfig], Found]] = {
    "pairs": read_pairs,
    "stack": read_stacks,
    "kaggle_3m": read_kaggle_3m,
    "nifti": read_nifti,
    "gm_challenge": read_gm_challenge,
    "brats": read_brats,
    "dicom": read_dicom,
}


def read_dataset(config: DataConfig) -> Dataset:
    """The dataset that ``config`` describes: images as float32, masks as class indices, problems as lines.

    Raises:
        UserError: one line that names the file, for everything a reader refuses; mixed channel counts; classes that
            do not fit the masks; two samples of one name.
    """
    if config.path is None:
        raise UserError('no data: give a folder with data.path (or --data), or "phantom"')
    if config.reader == "phantom" or (config.path == PHANTOM and not config.path.is_dir()):
        if in_plane_of(config) is not None:
            raise UserError("phantom: is not resampled or cropped: leave data.resample_mm, resize_px and crop_px out")
        _refuse_neighbours("phantom", "phantom", config)
        return phantom_dataset()
    root = require_folder(config.path, config.reader)
    if not root.is_dir():
        raise UserError(f"{root}: a file: give the folder that holds images and masks")
    reader = detect_reader(root) if config.reader == "auto" else config.reader
    _refuse_neighbours(root, reader, config)
    found = READERS[reader](root, config)
    if not found.samples:
        raise UserError(f"{root}: no image with a mask in it")
    return agree(root, reader, found, config)


def require_folder(root: Path, reader: str = "auto") -> Path:
    """The path itself, which may be the built-in phantom's.

    Raises:
        UserError: if nothing is there; of a known public set, by folder name or reader, the line says where to get it.
    """
    if root != PHANTOM and not root.exists():
        raise UserError(f"{root}: no such folder: {where_to_get(root, reader) or 'correct data.path or --data'}")
    return root


def _refuse_neighbours(root: object, reader: str, config: DataConfig) -> None:
    if config.neighbour_slices and reader in UNORDERED_READERS:
        raise UserError(
            f"{root}: single images (reader: {reader}) have no slices before and after: leave data.neighbour_slices out"
        )


def read_image(
    path: Path, channels: int | None = None, in_plane: InPlane | None = None, neighbours: int = 0
) -> list[Sample]:
    """One file (or folder with one DICOM series) for prediction: a sample per picture, page or slice, without masks.

    Args:
        path: PNG, JPEG, BMP, TIFF, NIfTI, MHA or DICOM.
        channels: of a slice; RGB becomes grey and grey RGB as needed. None: as the file has it.
        in_plane: how the network's slices were resampled and cropped; ``restore_mask`` undoes it for each sample.
        neighbours: slices before and after that the network takes as further channels.

    Raises:
        UserError: as the readers; a single image where neighbours are needed.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file")
    is_volume = path.name.lower().endswith(VOLUMES)
    stem = volume_stem(path) if is_volume else path.stem
    paths = None
    if path.is_dir() or is_dicom(path):
        found = [one for one in dicom_files(path) if one.parent == path] if path.is_dir() else [path]
        series = read_series(found) if found else None
        if series is None:
            what = "a folder without DICOM images" if path.is_dir() else "a DICOM object that is no image"
            raise UserError(f"{path}: {what}: give image files, or the folder of one DICOM series")
        pages, spacing_mm, paths = list(series.pixels), series.spacing_mm, series.paths
    elif is_volume:
        volume = read_any_volume(path)
        pages = [slice_pixels(volume, index) for index in range(volume.data.shape[2])]
        spacing_mm = volume.spacing_mm
    elif path.suffix.lower() in PICTURES:
        read = read_pages(path)
        pages, spacing_mm = list(read.pixels), read.spacing_mm
    else:
        raise UserError(f"{path}: unknown kind of image: PNG, JPEG, TIFF, BMP, NIfTI (.nii, .nii.gz), MHA or DICOM")
    pages = [with_channels(pixels, channels or len(pixels), path) for pixels in pages]
    is_single = len(pages) == 1
    if is_single and neighbours:
        raise UserError(
            f"{path}: a single image, but the model takes {neighbours} slice(s) before and after as well "
            "(data.neighbour_slices): give a volume, a stack or the folder of a series"
        )
    samples = [
        Sample(
            pixels,
            None,
            stem,
            stem if is_single else f"{stem}/slice_{index:03d}",
            spacing_mm,
            paths[index] if paths else path,
            None if is_single else index,
        )
        for index, pixels in enumerate(pages)
    ]
    if in_plane is not None:
        samples = [_placed(sample, in_plane) for sample in samples]
    return list(with_neighbours(samples, neighbours))


def _placed(sample: Sample, in_plane: InPlane) -> Sample:
    height, width = sample.image.shape[1:]
    placement = place((height, width), sample.spacing_mm, in_plane, sample.path)
    return replace(
        sample,
        image=place_image(sample.image, placement),
        spacing_mm=placed_spacing_mm(sample.spacing_mm, placement),
        placement=placement,
    )
