"""The LGG kaggle_3m layout: a folder per patient, x_12.tif with x_12_mask.tif inside."""

from __future__ import annotations

from pathlib import Path

from quantunet.data.config import DataConfig
from quantunet.data.image_file import TIFF, read_label_pages, read_pages
from quantunet.data.naming import case_ids, files_below, has_mask_name, pair_files
from quantunet.data.sample import Found, RawSample
from quantunet.errors import UserError


def is_kaggle_3m(root: Path) -> bool:
    """Whether masks lie beside their slices in patient folders that give the files their names."""
    masks = [path for path in files_below(root, TIFF) if has_mask_name(path.stem)]
    return bool(masks) and all(path.stem.startswith(path.parent.name) and path.parent != root for path in masks)


def read_kaggle_3m(root: Path, config: DataConfig) -> Found:
    """Every slice of every patient; the case is the patient's folder.

    Raises:
        UserError: no TIFF, a slice without its mask, or one of another size.
    """
    files = files_below(root, TIFF)
    if not files:
        raise UserError(f"{root}: no .tif files for reader: kaggle_3m")
    pairs, problems = pair_files(root, files)
    images = [pair.image for pair in pairs]
    cases = case_ids(root, images, [path.parent.name for path in images], config.case_pattern)
    samples = []
    for pair, case_id in zip(pairs, cases, strict=True):
        pages = read_pages(pair.image)
        labels, _ = read_label_pages(pair.masks[0])
        if len(pages.pixels) != 1 or len(labels) != 1:
            raise UserError(f"{pair.image}: a multi-page TIFF: use reader: stack")
        if labels.shape[1:] != pages.pixels.shape[2:]:
            raise UserError(
                f"{pair.masks[0]}: {labels.shape[1]}x{labels.shape[2]} pixels, but {pair.image.name} has "
                f"{pages.pixels.shape[2]}x{pages.pixels.shape[3]}: image and mask must agree"
            )
        slice_text = pair.stem.removeprefix(f"{pair.image.parent.name}_")
        samples.append(
            RawSample(
                pixels=pages.pixels[0],
                file_channels=pages.file_channels,
                labels=labels[0],
                case_id=case_id,
                name=f"{pair.image.parent.name}/slice_{slice_text.zfill(2)}",
                spacing_mm=None,  # the TIFFs lost it
                path=pair.image,
                index=None,
                mask_path=pair.masks[0],
            )
        )
    return Found(tuple(samples), tuple(problems))
