"""``eval``, ``predict``, ``cost``: from a run folder or a model file, without torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import typer

from quantunet.cli.app import console, metric_cells, print_json, print_table, require_path
from quantunet.cli.fpga_table import show_fpga_cost
from quantunet.cli.model_data import DATA, JSON, RUN, SIZE, image_size, labelled_samples, mask_of, neighbour_slices
from quantunet.data.in_plane import InPlane, restore_mask
from quantunet.data.read import read_image
from quantunet.data.write import write_masks
from quantunet.evaluate import evaluate_cases, trivial_evaluation
from quantunet.fpga_cost import PARTS
from quantunet.integer_model import IntegerModel, stack_by_case
from quantunet.ir.layer_table import layer_table, totals


def register_model_commands(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("eval")(evaluate)
    app.command("predict")(predict)
    app.command("cost")(cost)


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
    samples = labelled_samples(run, data, model, part)
    truths = stack_by_case(samples, mask_of)
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
    in_plane, neighbours = InPlane.from_json(model.graph.metadata.get("in_plane")), neighbour_slices(model)
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
    size: str | None = SIZE,
    fpga: str | None = typer.Option(None, help=f"Of the Verilog design on a part: {', '.join(PARTS)}."),
    fps: float | None = typer.Option(None, help="With --fpga: frames a second; default: 30 clocks a pixel."),
    clock_mhz: float = typer.Option(100.0, help="With --fpga: the clock."),
    dsp_tables: float | None = typer.Option(
        None, help="With --fpga: tables that a multiplier counts as; filters for which it is cheaper use them."
    ),
    synthesize: bool = typer.Option(False, "--synthesize", help="With --fpga: Yosys's figures beside; takes minutes."),
    json_output: bool = JSON,
) -> None:
    """The table by layer: parameters, MACs, bits, packed bytes, BOPs (= MACs x weight bits x activation bits).

    \b
    Examples:
      quantunet cost runs/em
      quantunet cost model.safetensors --size 512x512 --json
      quantunet cost runs/em --size 128x128 --fpga xc7a50t --fps 200
    """
    model = IntegerModel.load(require_path(run))
    height, width = image_size(model, size)
    if fpga is not None:
        show_fpga_cost(model.graph, (height, width), fpga, fps, clock_mhz, dsp_tables, synthesize, json_output)
        return
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
