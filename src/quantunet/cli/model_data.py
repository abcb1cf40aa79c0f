"""Where the commands on a model take it and its images from: a run folder or a model file, its data or random codes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from quantunet.cli.app import parse_size
from quantunet.data.config import DataConfig
from quantunet.data.in_plane import InPlane
from quantunet.data.manifest import check_no_leak
from quantunet.data.neighbours import with_neighbours
from quantunet.data.read import read_dataset
from quantunet.data.sample import Dataset, Sample
from quantunet.data.split import part_samples, split_cases
from quantunet.errors import UserError
from quantunet.integer_model import IntegerModel
from quantunet.train.config_file import load_config

RUN = typer.Argument(..., help="Run folder or model file (.safetensors).")
JSON = typer.Option(False, "--json", help="Print one JSON object.")
DATA = typer.Option(None, help="Folder of images and masks; default: the run's own test cases.")
SIZE = typer.Option(None, help="Image size HxW; default: that of the test images.")
RANDOM_IMAGES = 4
"""Without images at hand, a backend is verified on so many images of random codes over the whole input range."""


def mask_of(sample: Sample) -> NDArray[np.uint8]:
    """The mask of a labelled image.

    Raises:
        UserError: if it has none.
    """
    if sample.mask is None:
        raise UserError(f"image {sample.name!r} has no mask")
    return sample.mask


def image_size(model: IntegerModel, size: str | None) -> tuple[int, int]:
    """(h, w) of ``--size``, or of the model's test images."""
    if size is not None:
        return parse_size(size)
    height, width = model.graph.metadata.get("image_size", (256, 256))
    return int(height), int(width)


def labelled_samples(run: Path, data: Path | None, model: IntegerModel, part: str) -> Sequence[Sample]:
    """The cases of ``data`` with the model's classes, or the run's own test cases."""
    if part not in ("all", "test"):
        raise UserError(f"--part {part!r} is neither 'all' nor 'test'")
    saved = run / "config.yaml"
    if data is None:
        if not saved.exists():
            raise UserError(f"{run}: a model file alone has no data: name a folder with --data")
        config, part = load_config(saved).data, "test"
    else:
        config = load_config(saved).data if saved.exists() else DataConfig.model_validate({})
        config = config.model_copy(update={"path": data, "split": DataConfig.model_validate({}).split})
        in_plane = InPlane.from_json(model.graph.metadata.get("in_plane"))
        if in_plane is not None:
            config = config.model_copy(update=dataclasses.asdict(in_plane))
        config = config.model_copy(update={"neighbour_slices": neighbour_slices(model)})
        values: Any = model.graph.metadata.get("class_values")
        if values and config.classes is None:
            config = config.model_copy(update={"classes": dict(zip(model.class_names, values, strict=True))})
    dataset = read_dataset(config)
    if part == "all":
        return with_neighbours(dataset.samples, config.neighbour_slices)
    return _test_part(dataset, config)


def neighbour_slices(model: IntegerModel) -> int:
    """How many slices before and after the model takes as further channels."""
    return int(model.graph.metadata.get("neighbour_slices", 0))


def _test_part(dataset: Dataset, config: DataConfig) -> Sequence[Sample]:
    split = split_cases(dataset, config.split)
    check_no_leak(dataset, split)
    return part_samples(dataset, split, config)["test"]


def input_codes(
    run: Path, data: Path | None, model: IntegerModel, size: tuple[int, int] | None, at_most: int
) -> list[NDArray[np.int64]]:
    """Input codes of real images, cropped to ``size``; random ones where there are no images."""
    if data is None and not (run / "config.yaml").exists():
        limits = model.graph.input.output
        multiple = model.graph.size_multiple()
        shape = (model.graph.input.channels, *(size or (8 * multiple, 8 * multiple)))
        rng = np.random.default_rng(0)
        print("no images at hand: random codes over the whole input range", file=sys.stderr)
        return [rng.integers(limits.q_min, limits.q_max + 1, shape) for _ in range(RANDOM_IMAGES)][:at_most]
    samples = labelled_samples(run, data, model, "all")
    step = max(1, len(samples) // at_most)
    codes = [model.codes(sample.image)[0] for sample in samples[::step][:at_most]]
    if size is None:
        return codes
    return [_fit(code, size) for code in codes]


def _fit(codes: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """The centre of ``codes``, or ``codes`` with its edges repeated, of exactly ``size``."""
    for axis, length in zip((1, 2), size, strict=True):
        if codes.shape[axis] > length:
            start = (codes.shape[axis] - length) // 2
            codes = codes.take(range(start, start + length), axis)
        elif codes.shape[axis] < length:
            missing = length - codes.shape[axis]
            padding = [(0, 0)] * 3
            padding[axis] = (missing // 2, missing - missing // 2)
            codes = np.pad(codes, padding, mode="edge")
    return codes
