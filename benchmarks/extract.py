"""The extract of the comparison that docs/results.md shows: chosen systems, all data sets, the smallest file first.

Dice of the integer model on test cases, mean over folds, and the mean change to the float network of the same fold in
points, +- half of the 95 % t-interval over folds. `--write FILE` puts it in the place of the table there.

    make comparison && python benchmarks/extract.py runs/baselines/compare.json --write docs/results.md
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from quantunet.atomic_file import write_atomically
from quantunet.compare.collect import dice_by_case, read_json
from quantunet.compare.statistics import t_interval95

NAMES = {
    "float32": "float32",
    "float32 of float32_as_long": "float32, as many steps",
    "learned_1bit": "**ours, 1 bit**",
    "learned_1bit_features": "**ours, 1 bit, with feature maps**",
    "learned_1.5bit": "**ours, 1.5 bits**",
    "learned_1.5bit_features": "**ours, 1.5 bits, with feature maps**",
    "learned_2.25bit": "**ours, 2.25 bits**",
    "learned_2.375bit_features": "**ours, 2.375 bits, with feature maps**",
    "learned_2.5bit": "**ours, 2.5 bits**",
    "learned_layer_2.5bit": "**ours, 2.5 bits, by layer**",
    "learned_3.5bit": "**ours, 3.5 bits**",
    "learned_5bit": "**ours, 5 bits**",
    "interpolated_1.5bit": "interpolated, 1.5 bits",
    "interpolated_2.5bit": "interpolated, 2.5 bits, by layer",
    "interpolated_channel_2.5bit": "interpolated, 2.5 bits, by channel",
    "hgq_1.5bit": "HGQ's gradient, 1.5 bits",
    "hgq_2.5bit": "HGQ's gradient, 2.5 bits",
    "dq_2.5bit": "DQ, 2.5 bits, by layer",
    "dq_channel_2.5bit": "DQ, 2.5 bits, by channel",
    "quantunet_brevitas_2.5bit": "QuantU-Net's quantizer, 2.5 bits",
    "binary": "binary",
    "ternary": "ternary",
    "uniform_2bit": "uniform, 2 bits",
    "uniform_3bit": "uniform, 3 bits",
    "uniform_4bit": "uniform, 4 bits",
    "uniform_6bit": "uniform, 6 bits",
    "uniform_8bit": "uniform, 8 bits",
    "ptq_8bit": "8 bits after training",
    "fixed_point_w0.4_a6.0": "fixed point w0.4 a6.0, all layers",
    "fixed_point_w0.4_a6.0_saturate": "fixed point w0.4 a6.0, saturating",
    "fixed_point_w0.4_a6.0_as_published": "fixed point w0.4 a6.0, as published (simulated)",
}
SETS = {
    "isbi2012_em": "EM",
    "spinalcord_gm_t2star": "GM",
    "lgg_kaggle3m": "LGG",
    "pancreas_ct_nih_jpg": "NIH",
    "us_nerve_vessel_usgra": "ultrasound",
}
CASES = {"EM": "slices", "GM": "volumes", "LGG": "patients", "NIH": "patients", "ultrasound": "images"}
FIRST = "| system | times smaller (EM) |"


def cell(row: Mapping[str, Any], start: Mapping[str, Any], runs: Path) -> str:
    """Mean Dice, and the change to the network it was trained from: ``start``, the row of the shared float networks, or
    that of its own."""
    dice = f"{row['dice']:.4f}".lstrip("0")
    if row is start:
        return dice
    floats = [point["dice"] for point in start["points"]]
    if row["kind"] != "float":
        floats = [read_json(runs / point["folder"] / "summary.json")["float"]["dice"] for point in row["points"]]
    changes = [100 * (point["dice"] - base) for point, base in zip(row["points"], floats, strict=True)]
    interval = t_interval95(changes)
    half = "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.1f}"
    return f"{dice} ({mean(changes):+.1f}{half})".replace("-", "\N{MINUS SIGN}")


def lines(tables: Sequence[Mapping[str, Any]], runs: Path) -> list[str]:
    """The rows of the Markdown table."""
    by_set = {SETS[table["name"]]: {row["name"]: row for row in table["rows"]} for table in tables}
    heads = [head(name, rows, runs) for name, rows in by_set.items()]
    text = [f"{FIRST} " + " | ".join(heads) + " |", "|" + "---|" * (2 + len(heads))]
    em = by_set["EM"]
    for name in sorted(NAMES, key=lambda name: (not name.startswith("float32"), -ratio(em[name]))):
        cells = [
            cell(rows[name], rows["float32"], runs) if rows[name]["dice"] is not None else ""
            for rows in by_set.values()
        ]
        times = "\N{EN DASH}" if name.startswith("float32") else f"{ratio(em[name]):.1f}"
        text.append(f"| {NAMES[name]} | {times} | " + " | ".join(cells) + " |")
    return text


def head(name: str, rows: Mapping[str, Mapping[str, Any]], runs: Path) -> str:
    """A data set with the test cases of all its folds."""
    points = rows["learned_2.5bit"]["points"]
    cases = {
        case
        for each in points
        for case in dice_by_case(read_json(runs / each["folder"] / "evaluation.json")["integer"])
    }
    return f"{name}, {len(cases)} {CASES[name]}" + (f", {len(points)} folds" if len(points) > 1 else "")


def ratio(row: Mapping[str, Any]) -> float:
    """Times smaller than float32."""
    return row["ratio"] or 0.0


def main() -> None:
    """Print the table, or put it into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", default=Path("runs/baselines/compare.json"))
    parser.add_argument("--write", type=Path, help="a Markdown file that has the table already")
    arguments = parser.parse_args()
    new = lines(read_json(arguments.table)["tables"], arguments.table.parent)
    if arguments.write is None:
        print("\n".join(new))
        return
    old = arguments.write.read_text(encoding="utf-8").splitlines()
    start = next((index for index, line in enumerate(old) if line.startswith(FIRST)), None)
    if start is None:
        parser.error(f"{arguments.write}: has no table to replace: a line that starts with '{FIRST}'")
    end = next((index for index in range(start, len(old)) if not old[index].startswith("|")), len(old))
    write_atomically(arguments.write, ("\n".join([*old[:start], *new, *old[end:]]) + "\n").encode("utf-8"))


if __name__ == "__main__":
    main()
