"""``eval``, ``predict``, ``cost``, ``export``, ``verify``: from a run folder or a model file, without torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from quantunet.backends.c_code import export_c
from quantunet.backends.c_verify import verify_c
from quantunet.cli.app import console, metric_cells, parse_size, print_json, print_table, require_path
from quantunet.data.config import DataConfig
from quantunet.data.in_plane import InPlane, restore_mask
from quantunet.data.manifest import check_no_leak
from quantunet.data.neighbours import with_neighbours
from quantunet.data.read import read_dataset, read_image
from quantunet.data.sample import Dataset, Sample
from quantunet.data.split import part_samples, split_cases
from quantunet.data.write import write_masks
from quantunet.errors import UserError
from quantunet.evaluate import evaluate_cases, trivial_evaluation
from quantunet.integer_model import IntegerModel, stack_by_case
from quantunet.ir.layer_table import layer_table, totals
from quantunet.train.config import load_config

RUN = typer.Argument(..., help="Run folder or model file (.safetensors).")
JSON = typer.Option(False, "--json", help="Print one JSON object.")
DATA = typer.Option(None, help="Folder of images and masks; default: the run's own test cases.")
RANDOM_IMAGES = 4
"""Without images at hand, a backend is verified on so many images of random codes over the whole input range."""


def register_model_commands(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("eval")(evaluate)
    app.command("predict")(predict)
    app.command("cost")(cost)
    app.command("export")(export)
    app.command("verify")(verify)


def evaluate(
    run: Path = RUN,
    data: Path | None = DATA,
    part: str = typer.Option("all", help="With --data: all cases, or the 'test' part of its split."),
    json_output: bool = JSON,
) -> None:
    """Metrics of the integer model on labelled images, beside the predictor that says background everywhere.

    \b
    Examples:
      quantunet eval runs/em
      quantunet eval model.safetensors --data other_hospital --json
    """
    model = IntegerModel.load(require_path(run))
    samples = _labelled_samples(run, data, model, part)
    truths = stack_by_case(samples, _mask)
    spacing = {sample.case_id: sample.spacing_mm for sample in samples}
    result = evaluate_cases(model.predict_cases(samples), truths, model.class_names, spacing)
    trivial = trivial_evaluation(truths, model.class_names, spacing)
    if json_output:
        print_json({"backend": model.backend, "integer": result.to_json(), "trivial": trivial.to_json()})
        return
    unit = result.distance_unit
    rows = [["integer", *metric_cells(result.summary())], ["all background", *metric_cells(trivial.summary())]]
    title = f"{len(truths)} cases, {len(samples)} images, executed as {model.backend}"
    print_table(title, ["", "Dice", "95 % CI", "IoU", f"HD95 {unit}", f"ASSD {unit}", "pixel acc."], rows)
    console.print(
        f"a class empty in truth and prediction counts as Dice {result.both_empty_score:g}: {result.both_empty} such; "
        f"empty in one of them: {result.one_empty} (Dice 0, distance: the image's diagonal)"
    )


def predict(
    run: Path = RUN,
    images: list[Path] = typer.Argument(..., help="Image files: PNG, JPEG, TIFF, NIfTI."),
    out: Path = typer.Option(..., help="Folder for the masks."),
    json_output: bool = JSON,
) -> None:
    """Write masks in each image's own format and geometry.

    \b
    Example:
      quantunet predict runs/em slices.tif --out masks
    """
    model = IntegerModel.load(require_path(run))
    class_values = model.graph.metadata.get("class_values") or [[]]
    values = [own[0] for own in class_values] if all(class_values) else None  # the values of the masks it learned from
    in_plane, neighbours = InPlane.from_json(model.graph.metadata.get("in_plane")), _neighbours(model)
    written = []
    for path in images:
        samples = read_image(path, model.graph.input.channels // (2 * neighbours + 1), in_plane, neighbours)
        masks = np.stack([restore_mask(model(sample.image), sample.placement) for sample in samples])
        target = write_masks(out, path, masks, values)
        written.append({"image": str(path), "mask": str(target), "foreground_fraction": float((masks > 0).mean())})
        if not json_output:
            console.print(
                f"{target}  ({len(samples)} image(s), foreground {100 * written[-1]['foreground_fraction']:.2f} %)"
            )
    if json_output:
        print_json({"backend": model.backend, "masks": written})


def cost(
    run: Path = RUN,
    size: str | None = typer.Option(None, help="Image size HxW; default: that of the test images."),
    json_output: bool = JSON,
) -> None:
    """The table by layer: parameters, MACs, bits, packed bytes, BOPs (= MACs x weight bits x activation bits).

    \b
    Examples:
      quantunet cost runs/em
      quantunet cost model.safetensors --size 512x512 --json
    """
    model = IntegerModel.load(require_path(run))
    height, width = _image_size(model, size)
    rows = layer_table(model.graph, height, width)
    whole = totals(model.graph, rows, height, width)
    path = run / "model.safetensors" if run.is_dir() else run
    if json_output:
        content = {"image": [height, width], "layers": [asdict(row) for row in rows], "totals": asdict(whole)}
        print_json(content | {"model_file_bytes": path.stat().st_size})
        return
    cells = [
        [
            row.name,
            f"{row.parameters:,}",
            f"{row.macs / 1e6:,.1f}",
            f"{row.weight_bits:.2f} ({row.weight_bits_min}-{row.weight_bits_max})",
            f"{row.activation_bits} → {row.output_bits}",
            f"{row.packed_bytes:,}",
            f"{row.bops / 1e9:,.2f}",
            str(row.acc_bit_width),
        ]
        for row in rows
    ]
    columns = ["layer", "parameters", "MMAC", "weight bits", "activation bits", "bytes", "GBOP", "acc. bits"]
    print_table(f"cost of one {height}x{width} image", columns, cells)
    console.print(
        f"total: {whole.macs / 1e6:,.1f} MMAC, {whole.bops / 1e9:,.2f} GBOP; weights "
        f"{whole.weight_bits_by_parameter:.2f} bit by parameter, {whole.weight_bits_by_layer:.2f} by layer, "
        f"{whole.packed_weight_bytes:,} bytes packed, "
        f"model file {path.stat().st_size:,} bytes, peak activations {whole.peak_activation_bytes:,} bytes"
    )


def export(
    run: Path = RUN,
    to: str = typer.Option(..., "--to", help="Target: c."),
    out: Path = typer.Option(..., help="Folder to write."),
    size: str | None = typer.Option(None, help="Image size HxW; default: that of the test images."),
    data: Path | None = DATA,
    json_output: bool = JSON,
) -> None:
    """Write the model for another tool: C99 without malloc or float, with a test of recorded inputs and outputs.

    \b
    Example:
      quantunet export runs/em --to c --out em_c --size 256x256 && make -C em_c test
    """
    _check_target(to)
    model = IntegerModel.load(require_path(run))
    height, width = _image_size(model, size)
    recorded = _codes(run, data, model, (height, width), at_most=2)
    folder = export_c(model.graph, out, height, width, recorded)
    files = sorted(path.name for path in folder.iterdir())
    if json_output:
        print_json({"folder": str(folder), "files": files, "image": [height, width]})
        return
    console.print(f"{folder}: {', '.join(files)}")
    console.print(f"next: make -C {folder} test")


def verify(
    run: Path = RUN,
    to: str = typer.Option("c", "--to", help="Backend: c."),
    data: Path | None = DATA,
    images: int = typer.Option(8, min=1, help="Verify on so many images at the most."),
    json_output: bool = JSON,
) -> None:
    """Compare every code of every tensor between a backend and the interpreter; exit status 1 where one differs.

    The C code is compiled with -Wall -Wextra -Werror and the address and undefined-behaviour sanitizers. Images are the
    run's test cases, those of --data, or, for a model file alone, random codes over the whole input range.

    \b
    Example:
      quantunet verify runs/em --json
    """
    _check_target(to)
    model = IntegerModel.load(require_path(run))
    proof = asdict(verify_c(model.graph, _codes(run, data, model, None, at_most=images)))
    if json_output:
        print_json({"backends": {to: proof}})
    else:
        console.print(
            f"{to}: {proof['compared']:,} codes in {proof['tensors']} tensors compared, {proof['differing']} differ"
        )
    if proof["differing"]:
        raise typer.Exit(1)


def _check_target(to: str) -> None:
    if to != "c":
        raise UserError(f"--to {to!r} is unknown: c")


def _mask(sample: Sample) -> NDArray[np.uint8]:
    if sample.mask is None:
        raise UserError(f"image {sample.name!r} has no mask")
    return sample.mask


def _image_size(model: IntegerModel, size: str | None) -> tuple[int, int]:
    if size is not None:
        return parse_size(size)
    height, width = model.graph.metadata.get("image_size", (256, 256))
    return int(height), int(width)


def _labelled_samples(run: Path, data: Path | None, model: IntegerModel, part: str) -> Sequence[Sample]:
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
            config = config.model_copy(update={"resample_mm": in_plane.resample_mm, "crop_px": in_plane.crop_px})
        config = config.model_copy(update={"neighbour_slices": _neighbours(model)})
        values: Any = model.graph.metadata.get("class_values")
        if values and config.classes is None:
            config = config.model_copy(update={"classes": dict(zip(model.class_names, values, strict=True))})
    dataset = read_dataset(config)
    if part == "all":
        return with_neighbours(dataset.samples, config.neighbour_slices)
    return _test_part(dataset, config)


def _neighbours(model: IntegerModel) -> int:
    """How many slices before and after the model takes as further channels."""
    return int(model.graph.metadata.get("neighbour_slices", 0))


def _test_part(dataset: Dataset, config: DataConfig) -> Sequence[Sample]:
    split = split_cases(dataset, config.split)
    check_no_leak(dataset, split)
    return part_samples(dataset, split, config)["test"]


def _codes(
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
    samples = _labelled_samples(run, data, model, "all")
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
