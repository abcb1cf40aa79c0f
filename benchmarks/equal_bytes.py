"""Ours against each rival at equal or fewer bytes, and the means over data sets, from a comparison's compare.json.

For each system with an integer form, all folds, and a file no smaller than the smallest of ours, one of our rows that
takes no more bytes, chosen in two ways: the best by test Dice, which favours us by as much as the best of several is
above their mean; and the best by validation Dice, which does not. A line for each rival that is above it, with the 95 %
interval of the change by test case (bootstrap); the count of those that are not, by the mean over folds and by the
median of the folds' changes; and of all pairs, where the interval excludes 0. Last, every system's mean over the data
sets.

    make comparison && python benchmarks/equal_bytes.py runs/baselines/compare.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from quantunet.compare.collect import dice_by_case, read_json
from quantunet.compare.statistics import PairedChange, paired_change

OURS = "learned"
Row = Mapping[str, Any]


def folders_by_seed(row: Row, runs: Path) -> dict[int, Path]:
    """Run folder of every fold of a row."""
    return {point["seed"]: runs / point["folder"] for point in row["points"]}


def change_by_case(ours: Row, rival: Row, runs: Path) -> PairedChange | None:
    """Dice of ours less the rival's, by test case of the folds that both have."""
    folders = [folders_by_seed(row, runs) for row in (ours, rival)]
    seeds = sorted(folders[0].keys() & folders[1].keys())
    evaluations = ([read_json(each[seed] / "evaluation.json") for seed in seeds] for each in folders)
    return paired_change(*([dice_by_case(each["integer"]) for each in system] for system in evaluations))


def median_change(ours: Row, rival: Row) -> float:
    """Median over the folds that both have of ours less the rival's Dice."""
    dice = [{point["seed"]: point["dice"] for point in row["points"]} for row in (ours, rival)]
    return median(dice[0][seed] - dice[1][seed] for seed in dice[0].keys() & dice[1].keys())


def print_pairs(tables: Sequence[Mapping[str, Any]], runs: Path, by: str, score: Callable[[Row], float]) -> None:
    """Print which rivals are above the fitting row of ours with the highest score, and the counts."""
    print(f"our row chosen by {by}:")
    pairs = behind = behind_by_median = above = below = 0
    for table in tables:
        rows = integer_rows(table)
        ours = [row for row in rows if row["quantizer"] == OURS]
        for row in rows:
            fitting = [each for each in ours if each["file_bytes"] <= row["file_bytes"]]
            if row["quantizer"] == OURS or not fitting:
                continue
            best = max(fitting, key=score)
            pairs += 1
            change = change_by_case(best, row, runs)
            low, high = change.ci95 if change and change.ci95 else (0.0, 0.0)
            above, below = above + (low > 0), below + (high < 0)
            behind_by_median += median_change(best, row) < 0
            if best["dice"] < row["dice"]:
                behind += 1
                away = 100 * (best["dice"] - row["dice"])
                print(
                    f"  {table['name']}: {row['name']} {row['dice']:.4f}; {best['name']} {best['dice']:.4f}, "
                    f"{away:+.2f} ({100 * low:+.2f} to {100 * high:+.2f} by case)"
                )
    reached, by_median = pairs - behind, pairs - behind_by_median
    print(f"  at least the rival's Dice in {reached} of {pairs} pairs, by the median fold {by_median}")
    print(f"  by the interval over cases, above the rival in {above}, below it in {below}")


def integer_rows(table: Mapping[str, Any]) -> list[Row]:
    """The rows of a table that have a model file, and no fold missing."""
    folds = max(len(row["points"]) for row in table["rows"])
    return [
        row for row in table["rows"] if row["kind"] == "system" and row["file_bytes"] and len(row["points"]) == folds
    ]


def main() -> None:
    """Print what is behind, the counts of pairs, and mean Dice of every system that all data sets have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", default=Path("runs/baselines/compare.json"))
    path: Path = parser.parse_args().table
    tables = read_json(path)["tables"]
    print_pairs(tables, path.parent, "test Dice", lambda row: row["dice"])
    print_pairs(tables, path.parent, "validation Dice", lambda row: row["validation_dice"])
    dice: dict[str, list[float]] = {}
    for table in tables:
        for row in integer_rows(table):
            dice.setdefault(row["name"], []).append(row["dice"])
    for name, values in sorted(dice.items(), key=lambda item: -mean(item[1])):
        if len(values) == len(tables):
            print(f"{name:32} {mean(values):.4f}")


if __name__ == "__main__":
    main()
