"""Ours against each rival at equal or fewer bytes, and the means over data sets, from a comparison's compare.json.

For each system with an integer form that is no smaller than the smallest of ours, the best of ours that takes no more
bytes: a line for each rival that is above it, with the 95 % interval of the change by test case (bootstrap), and how
many are not; of all pairs, where the interval excludes 0. Means are over folds, then over data sets.

    make comparison && python benchmarks/equal_bytes.py runs/baselines/compare.json
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from quantunet.compare.collect import dice_by_case, read_json
from quantunet.compare.statistics import PairedChange, paired_change

OURS = "learned"


def change_by_case(ours: Mapping[str, Any], rival: Mapping[str, Any], runs: Path) -> PairedChange | None:
    """Dice of ours less the rival's, by test case of the folds that both have."""
    folders = [{point["seed"]: runs / point["folder"] for point in row["points"]} for row in (ours, rival)]
    seeds = sorted(folders[0].keys() & folders[1].keys())
    evaluations = ([read_json(each[seed] / "evaluation.json") for seed in seeds] for each in folders)
    return paired_change(*([dice_by_case(each["integer"]) for each in system] for system in evaluations))


def main() -> None:
    """Print what is behind, the count of pairs, and mean Dice of every system that all data sets have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", default=Path("runs/baselines/compare.json"))
    path: Path = parser.parse_args().table
    tables = read_json(path)["tables"]
    pairs = behind = above = below = 0
    dice: dict[str, list[float]] = {}
    for table in tables:
        rows = [row for row in table["rows"] if row["kind"] == "system" and row["file_bytes"]]
        ours = [row for row in rows if row["quantizer"] == OURS]
        for row in rows:
            dice.setdefault(row["name"], []).append(row["dice"])
            fitting = [each for each in ours if each["file_bytes"] <= row["file_bytes"]]
            if row["quantizer"] == OURS or not fitting:
                continue
            best = max(fitting, key=lambda each: each["dice"])
            pairs += 1
            change = change_by_case(best, row, path.parent)
            low, high = change.ci95 if change and change.ci95 else (0.0, 0.0)
            above, below = above + (low > 0), below + (high < 0)
            if best["dice"] < row["dice"]:
                behind += 1
                away = 100 * (best["dice"] - row["dice"])
                print(
                    f"{table['name']}: {row['name']} {row['dice']:.4f}; {best['name']} {best['dice']:.4f}, {away:+.2f} "
                    f"({100 * low:+.2f} to {100 * high:+.2f} by case)"
                )
    print(f"at least the rival's Dice in {pairs - behind} of {pairs} pairs")
    print(f"by the interval over cases, above the rival in {above}, below it in {below}")
    for name, values in sorted(dice.items(), key=lambda item: -mean(item[1])):
        if len(values) == len(tables):
            print(f"{name:32} {mean(values):.4f}")


if __name__ == "__main__":
    main()
