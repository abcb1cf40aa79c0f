"""``demo``, ``train`` and ``data``: from images and masks to a run folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import typer
import yaml
from rich.console import Console

from quantunet.cli.app import console, print_json, print_results, print_table
from quantunet.data.config import DataConfig
from quantunet.data.describe import describe
from quantunet.data.examples_picture import write_examples_picture
from quantunet.data.manifest import check_no_leak
from quantunet.data.read import read_dataset, require_folder
from quantunet.data.split import split_cases
from quantunet.errors import UserError
from quantunet.train.config import Config
from quantunet.train.config_file import build_config, load_config, load_on, read_mapping

DEMO: dict[str, Any] = {
    "name": "demo",
    "data": {"path": "phantom"},
    "network": {"base_channels": 8, "levels": 4},
    "budget": "3bit",
    "training": {
        "crop_px": 96,
        "float_phase": {"steps": 1000, "learning_rate": 3e-3},
        "qat": {"steps": 500, "learning_rate": 1.5e-3},
        "finetune": {"steps": 150, "learning_rate": 5e-4},
    },
}
"""Two to three minutes of training on two cores."""


def register_train_commands(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("demo")(demo)
    app.command("train")(train)
    app.command("data")(data)


def demo(
    out: Path = typer.Option(Path("runs/demo"), help="Run folder."),
    resume: bool = typer.Option(False, help="Go on from the last checkpoint."),
    json_output: bool = typer.Option(False, "--json", help="Print the summary as JSON."),
) -> None:
    """Train on a drawn phantom: about three minutes on two cores, ends in a report.

    \b
    Example:
      quantunet demo --out runs/demo
    """
    if not resume and (out / "config.yaml").exists():
        out = _free_folder(out)
    _run(build_config(dict(DEMO), {}), out, resume, json_output)


def train(
    config: Path | None = typer.Argument(None, help="YAML configuration; may be left out with --data or --resume."),
    on: Path | None = typer.Option(None, "--on", help="YAML of the data set, where the configuration names none."),
    data: Path | None = typer.Option(None, help="Folder of images and masks; takes the place of data.path."),
    budget: str | None = typer.Option(
        None,
        help="Size to reach: '3bit' (over weights), '64KiB' (file), or several: file, flash, ram, macs, bops, lut, "
        "latency.",
    ),
    pareto: str | None = typer.Option(
        None, help="Falling sizes of one kind, '2.5bit 1.5bit 1bit': one run, and a model of each."
    ),
    keep: str | None = typer.Option(
        None, help="Share of the float network's validation Dice, '99.9%': name the smallest model that keeps it."
    ),
    set_: list[str] = typer.Option([], "--set", help="Any key of the configuration, as key=value; repeatable."),
    out: Path | None = typer.Option(None, help="Run folder; default runs/NAME, with --on runs/NAME_DATA."),
    resume: bool = typer.Option(False, help="Go on from the last checkpoint in --out."),
    json_output: bool = typer.Option(False, "--json", help="Print the summary as JSON."),
) -> None:
    """Train: float, then trainable widths, then frozen integers; lower, prove, evaluate, report.

    \b
    Examples:
      quantunet train --data my_images
      quantunet train --data my_images --budget 64KiB --set training.qat.steps=3000
      quantunet train --data my_images --budget "flash=64KiB ram=300KiB"
      quantunet train --data my_images --keep 99.9%
      quantunet train configs/isbi_em.yaml --pareto "2.5bit 1.5bit 1bit" --out runs/em_pareto
      quantunet train configs/baselines/ternary.yaml --on configs/data/gm.yaml
      quantunet train --resume --out runs/em
    """
    overrides = parse_settings(set_)
    if data is not None:
        overrides["data.path"] = str(data)
    if budget is not None:
        overrides["budget"] = budget
    if not resume:
        overrides |= _points_settings(pareto, keep, config, budget)
    chosen = _choose_config(config, on, data, overrides)
    if chosen is not None and data is not None:
        require_folder(data, chosen.data.reader)
    folder = out or (Path("runs") / (f"{chosen.name}_{on.stem}" if on else chosen.name) if chosen else None)
    if resume:
        if folder is None or not (folder / "config.yaml").exists():
            raise UserError(f"--resume: {folder or '--out'} holds no run: name its folder with --out")
        saved = load_config(folder / "config.yaml")
        if chosen is not None and chosen != saved:
            raise UserError(f"--resume: the configuration differs from {folder / 'config.yaml'}: leave it out to go on")
        chosen = saved
    if chosen is None or folder is None:
        raise UserError("nothing to train: give a configuration, or --data FOLDER with images and masks")
    if chosen.pareto:
        _run_points(chosen, folder, resume, json_output, parse_share(keep) if keep else None)
    else:
        _run(chosen, folder, resume, json_output)


def data(
    path: Path = typer.Argument(..., help="Folder of images and masks, or 'phantom'."),
    config: Path | None = typer.Option(None, help="YAML file whose data section says how to read it."),
    set_: list[str] = typer.Option([], "--set", help="A key of the data section, as key=value; repeatable."),
    picture: Path | None = typer.Option(None, help="Where to write examples as a picture; default: a temporary file."),
    json_output: bool = typer.Option(False, "--json", help="Print everything as JSON."),
) -> None:
    """Print what is there, what is wrong with it, and the split it would get.

    \b
    Examples:
      quantunet data my_images
      quantunet data my_images --picture examples.png --set case_pattern='(patient[0-9]+)_'
      quantunet data BraTS2020 --set region=whole_tumour --set crop_px='[192, 160]'
    """
    overrides = {f"data.{key.removeprefix('data.')}": value for key, value in parse_settings(set_).items()}
    overrides["data.path"] = str(path)
    data_config: DataConfig = (load_config(config, overrides) if config else build_config({}, overrides)).data
    dataset = read_dataset(data_config)
    problems = list(dataset.problems)
    split = None
    try:
        split = split_cases(dataset, data_config.split)
        problems += check_no_leak(dataset, split)
    except UserError as error:
        problems.append(str(error))
    found = describe(dataset, split) | {"problems": problems}
    where = picture or Path(tempfile.mkdtemp(prefix="quantunet-")) / "examples.png"
    found["picture"] = str(write_examples_picture(dataset, where))
    if json_output:
        print_json(found)
        return
    _print_description(found)


def _points_settings(pareto: str | None, keep: str | None, config: Path | None, budget: str | None) -> dict[str, Any]:
    """What ``--pareto`` and ``--keep`` change in a configuration: sizes to pass, and the last one as the budget."""
    if keep is not None:
        parse_share(keep)  # a mistake is told before anything is read
    if pareto is not None and len(pareto.split()) < 2 and budget is None:
        raise UserError(f"--pareto {pareto!r}: name two falling sizes or more, such as '2.5bit 1.5bit 1bit'")
    if pareto is None and (keep is None or (config is not None and read_mapping(config).get("pareto"))):
        return {}
    from quantunet.compare.points import KEEP_LADDER

    sizes = pareto.replace(",", " ").split() if pareto else list(KEEP_LADDER)
    if budget is None:
        *sizes, budget = sizes or [""]
    return {"pareto": sizes, "budget": budget}


def parse_share(text: str) -> float:
    """Read '99.9%' or '0.999'.

    Raises:
        UserError: if it is no share above 0, of 1 at the most.
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"--keep {text!r} is no share of a Dice: write it as 99.9% or 0.999")
    return share


def _run_points(config: Config, out: Path, resume: bool, json_output: bool, share: float | None) -> None:
    """All sizes of one descent, and which of them is the smallest that keeps ``share`` of the float network's Dice."""
    from quantunet.compare.points import run_points

    messages = Console(stderr=True) if json_output else console
    points = run_points(config, out, resume=resume, console=messages)
    kept = points.smallest_that_keeps(share) if share is not None else None
    files = {kind: str(path) for kind, path in points.files.items()}
    if json_output:
        print_json({"points": points.summaries, "keeps": share, "smallest": kept, "files": files})
        return
    rows = []
    for name, summary in points.summaries.items():
        validation, size = summary["validation_dice"], summary["size"]
        rows.append(
            [name, f"{size['model_file_bytes']:,}", f"{size['ratio']:.1f}", f"{summary['quantized']['dice']:.4f}",
             f"{100 * (summary['quantized']['dice'] - summary['float']['dice']):+.2f}",
             f"{100 * validation['quantized'] / max(validation['float'], 1e-9):.2f} %"]
        )  # fmt: skip
    heads = ["size", "file bytes", "ratio", "test Dice", "change, points", "of float, validation"]
    print_table(f"one descent, {len(rows)} models", heads, rows)
    if share is not None:
        verdict = f"smallest that keeps {100 * share:g} % of the float network's validation Dice: "
        where = f"{kept}, in {points.folders[kept]}" if kept else "none of these sizes: allow larger ones with --pareto"
        console.print(verdict + where, markup=False, highlight=False)
    console.print(f"table: {files['html']}", markup=False)


def _print_description(found: dict[str, Any]) -> None:
    plain = [[key, _short(value)] for key, value in found.items() if key not in ("problems", "hints", "split")]
    print_table("data", ["what", "value"], plain)
    for part, content in (found.get("split") or {}).items():
        console.print(f"{part}: {_short(content)}")
    for problem in found["problems"]:
        console.print(f"problem: {problem}")
    if not found["problems"]:
        console.print("no problems found")
    for hint in found["hints"]:
        console.print(f"hint: {hint}")


def _short(value: Any) -> str:
    text = ", ".join(f"{k}: {_short(v)}" for k, v in value.items()) if isinstance(value, dict) else None
    if isinstance(value, float):
        text = f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(_short(item) for item in value[:6])
        text = shown + (f", … ({len(value)})" if len(value) > 6 else "")
    return str(value) if text is None else text


def _choose_config(config: Path | None, on: Path | None, data: Path | None, overrides: dict[str, Any]) -> Config | None:
    if config is not None:
        return load_on(config, on, overrides)
    if on is not None:
        raise UserError(f"--on {on}: needs a configuration of a system to run there, as configs/baselines/ternary.yaml")
    if data is not None:
        name = "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in data.resolve().name)
        return build_config({"name": name or "run"}, overrides)
    if overrides:
        raise UserError("--set and --budget need a configuration or --data")
    return None


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Dotted keys and values of ``--set key=value``.

    Raises:
        UserError: if one is not of that form.
    """
    parsed = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator or not key:
            raise UserError(f"--set {setting!r} is not of the form key=value")
        try:
            parsed[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {setting!r}: the value is no YAML") from None
    return parsed


def _free_folder(path: Path) -> Path:
    number = 2
    while (path.parent / f"{path.name}_{number}").exists():
        number += 1
    return path.parent / f"{path.name}_{number}"


def _run(config: Config, folder: Path, resume: bool, json_output: bool) -> None:
    try:
        from quantunet.pipeline import run_training  # torch takes seconds to import: only here
    except ModuleNotFoundError as error:
        raise UserError(f"training needs {error.name}: pip install 'quantunet[train]'") from None
    messages = Console(stderr=True, highlight=False) if json_output else console
    summary = run_training(config, folder, resume=resume, console=messages)
    if summary is None:
        return  # a further process of a run on several devices
    if json_output:
        print_json(summary)
        return
    print_results(summary)
    for backend, counts in summary.get("proof", {}).get("backends", {}).items():
        console.print(f"proof, {backend}: {counts['differing']} of {counts['compared']:,} codes differ")
    console.print(f"report: {folder / 'report.html'}")
