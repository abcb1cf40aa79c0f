"""Multi-page TIFF stacks (ISBI 2012 EM): train-volume.tif with train-labels.tif, every page a case."""

from __future__ import annotations

from pathlib import Path

from quantunet.data.config import DataConfig
from quantunet.data.image_file import TIFF, read_label_pages, read_pages
from quantunet.data.naming import case_ids, files_below, pair_files
from quantunet.data.sample import Found, RawSample
from quantunet.errors import UserError


def read_stacks(root: Path, config: DataConfig) -> Found:
    """Every page of every stack; neighbouring pages look alike, so the default split is by blocks.

    Raises:
        UserError: no TIFF, missing labels, another number or size of pages.
    """
    files = files_below(root, TIFF)
    if not files:
        raise UserError(f"{root}: no .tif files for reader: stack")
    pairs, problems = pair_files(root, files, unlabelled_part="test")
    cases = case_ids(root, [p.image for p in pairs], [p.stem for p in pairs], config.case_pattern)
    samples: list[RawSample] = []
    for pair, case_id in zip(pairs, cases, strict=True):
        mask_path, *others = pair.masks
        if others:
            names = ", ".join(path.name for path in pair.masks)
            raise UserError(f"{pair.image}: has {len(pair.masks)} label stacks: keep one of {names}")
        pages = read_pages(pair.image)
        labels, note = read_label_pages(mask_path)
        count, _, height, width = pages.pixels.shape
        if labels.shape != (count, height, width):
            raise UserError(
                f"{mask_path}: {labels.shape[0]} pages of {'x'.join(map(str, labels.shape[1:]))}, but "
                f"{pair.image.name} has {count} of {height}x{width}: they must agree"
            )
        if note:
            problems.append(note)
        digits = max(2, len(str(count - 1)))
        for index in range(count):
            page = f"slice_{index:0{digits}d}"
            name = page if len(pairs) == 1 else f"{pair.stem}/{page}"
            samples.append(
                RawSample(
                    pixels=pages.pixels[index],
                    file_channels=pages.file_channels,
                    labels=labels[index],
                    case_id=case_id if config.case_pattern else name,
                    name=name,
                    spacing_mm=pages.spacing_mm,
                    path=pair.image,
                    index=index,
                    part=pair.part,
                    mask_path=mask_path,
                )
            )
    # parts named by folder hold; a file merely called train-volume says nothing about its pages
    return Found(tuple(samples), tuple(problems), default_split="blocks")
