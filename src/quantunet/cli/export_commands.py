"""``export`` and ``verify``: the model for other tools, and the proof that they compute the same codes."""

from __future__ import annotations

from pathlib import Path

import typer

from quantunet.cli.app import console, print_json, require_path
from quantunet.cli.model_data import DATA, JSON, RUN, SIZE, image_size, input_codes
from quantunet.cli.targets import TARGETS, Export, find_target, read_options
from quantunet.integer_model import IntegerModel

SET = typer.Option([], "--set", metavar="KEY=VALUE", help="An option of the target, see below; may be repeated.")
C_TARGET = typer.Option(
    None, "--target", help="Of --to c: generic (default), cortex-m4, cortex-m7, cortex-m55, riscv32; runs under QEMU."
)
RECORDED_IMAGES = 2
_CHOICES = ", ".join(TARGETS)


def register_export_commands(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("export", epilog=_target_list())(export)
    app.command("verify", epilog=_target_list())(verify)


def export(
    run: Path = RUN,
    to: str = typer.Option(..., "--to", help=f"Target: {_CHOICES}."),
    out: Path = typer.Option(..., help="Folder to write."),
    size: str | None = SIZE,
    data: Path | None = DATA,
    c_target: str | None = C_TARGET,
    flash: str | None = typer.Option(None, help="Of --target: flash of the part, such as 512KiB."),
    ram: str | None = typer.Option(None, help="Of --target: RAM of the part, such as 128KiB."),
    trade_off: bool = typer.Option(False, help="Of --target: print what less RAM costs in instructions, by formula."),
    settings: list[str] = SET,
    json_output: bool = JSON,
) -> None:
    """Write the model for another tool, with recorded inputs and outputs.

    \b
    Examples:
      quantunet export runs/em --to c --out em_c --size 256x256 && make -C em_c test
      quantunet export runs/em --to c --target cortex-m4 --ram 128KiB --size 64x64 --out em_m4 && make -C em_m4 run
      quantunet export runs/em --to onnx --out em_onnx --set opset=25
      quantunet export model.safetensors --to qonnx --out em_qonnx --size 128x128 --set widths=layer
      quantunet export runs/em --to hls4ml --out em_hls --size 128x128 --set cycles=500000
    """
    target = find_target(to)
    given = _as_settings(target=c_target, flash=flash, ram=ram, trade_off="yes" if trade_off else None)
    options = read_options(target, settings + given)
    model = IntegerModel.load(require_path(run))
    size_px = image_size(model, size)
    recorded = input_codes(run, data, model, size_px, at_most=RECORDED_IMAGES)
    request = Export(model.graph, out, size_px, recorded, options)
    folder = target.export(request)
    remark = target.remark(request)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if json_output:
        print_json({"folder": str(folder), "files": files, "image": list(size_px), "remark": remark})
        return
    console.print(f"{folder}: {', '.join(files)}")
    if remark:
        console.print(remark)
    console.print(f"next: {target.next_step.format(folder=folder)}")


def verify(
    run: Path = RUN,
    to: str = typer.Option("c", "--to", help=f"Backend: {_CHOICES}."),
    data: Path | None = DATA,
    images: int = typer.Option(8, min=1, help="Verify on so many images at the most."),
    size: str | None = typer.Option(None, help="Crop or fill the images to HxW; default: as they are."),
    c_target: str | None = C_TARGET,
    settings: list[str] = SET,
    json_output: bool = JSON,
) -> None:
    """Compare codes between a backend and the interpreter; exit status 1 where one differs.

    The C code is compiled with -Wall -Wextra -Werror and the address and undefined-behaviour sanitizers; ONNX runs in
    ONNX Runtime with its optimisations off, QONNX in the executor of the qonnx package, hls4ml as its C simulation.
    Images are the run's test cases, those of --data, or, for a model file alone, random codes over the whole input
    range.

    \b
    Examples:
      quantunet verify runs/em --json
      quantunet verify runs/em --to qonnx --images 2 --size 128x128
    """
    target = find_target(to)
    options = read_options(target, settings + _as_settings(target=c_target))
    model = IntegerModel.load(require_path(run))
    size_px = None if size is None else image_size(model, size)
    proof = target.verify(model.graph, input_codes(run, data, model, size_px, at_most=images), options)
    if json_output:
        print_json({"backends": {to: proof}})
    else:
        console.print(
            f"{to}: {proof['compared']:,} codes in {proof['tensors']} tensors compared, {proof['differing']} differ"
        )
        if proof.get("note"):
            console.print(proof["note"])
    if proof["differing"]:
        raise typer.Exit(1)


def _as_settings(**options: str | None) -> list[str]:
    return [f"{key}={value}" for key, value in options.items() if value is not None]


def _target_list() -> str:
    """The table of targets, for ``--help``."""
    lines = ["Targets:"]
    for target in TARGETS.values():
        lines.append(f"  {target.name:<10}{target.summary}")
        lines += [f"  {'':<10}--set {key}: {meaning}" for key, meaning in target.options.items()]
    return "\b\n" + "\n".join(lines)
