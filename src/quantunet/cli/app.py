"""The application that commands are registered with, and what they share in printing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from quantunet import __version__
from quantunet.errors import UserError

app = typer.Typer(
    name="quantunet",
    help="Learn how many bits every layer of a U-Net needs, in one training, and deploy it as proven integers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=120)  # a file or a pipe has no width of its own


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"quantunet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def print_json(content: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(content, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; all columns but the first are numbers, hence right-aligned."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_results(summary: Mapping[str, Any]) -> None:
    """Float, fake-quantized, integer and trivial side by side, then size."""
    rows = []
    labels = {
        "float": "float32",
        "fake_quantized": "fake-quantized",
        "quantized": "integer",
        "trivial": "all background",
    }
    for key, label in labels.items():
        if key in summary:
            rows.append([label, *metric_cells(summary[key])])
    unit = summary["float"].get("distance_unit", "px")
    print_table("test cases", ["network", "Dice", "95 % CI", "IoU", f"HD95 {unit}", f"ASSD {unit}", "pixel acc."], rows)
    if "size" in summary:
        size, bits = summary["size"], summary["bit_width"]
        stored = size["model_file_bytes"]  # None for a float network, and for what has no integer form
        left, mean_left = bits.get("weights_left", 1.0), bits.get("weights_by_parameter_left")
        removed = f" ({100 * left:.0f} % of them left, at {mean_left:.2f})" if left < 1 else ""
        console.print(
            f"weights {bits['weights_by_parameter']:.2f} bit by parameter{removed}, "
            f"{bits['weights_by_layer']:.2f} by layer, "
            f"activations {bits['activations']:.2f} bit; "
            + (f"no model file, by formula {size['formula_bytes']:,}" if stored is None else f"model file {stored:,}")
            + f" bytes, {size['ratio']:.1f} x smaller than float32 ({size['float32_bytes']:,} bytes)"
        )


def metric_cells(row: Mapping[str, Any]) -> list[str]:
    """Dice, interval, IoU, HD95, ASSD, pixel accuracy as text."""
    interval = row.get("dice_ci95")
    return [
        f"{row['dice']:.4f}",
        "one case" if interval is None else f"{interval[0]:.4f}-{interval[1]:.4f}",
        f"{row['iou']:.4f}",
        f"{row['hd95']:.2f}",
        f"{row['assd']:.2f}",
        f"{row['pixel_accuracy']:.4f}",
    ]


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of ``HxW``.

    Raises:
        UserError: if the text is no size.
    """
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise UserError(f"--size {text!r} is no size such as 256x256 (height x width)") from None
    if height < 1 or width < 1:
        raise UserError(f"--size {text!r}: height and width must be positive")
    return height, width


def require_path(path: Path) -> Path:
    """The path itself.

    Raises:
        UserError: if nothing is there.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    return path
