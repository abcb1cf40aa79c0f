"""Ours against each rival at equal or fewer bytes, and the means over data sets, from a comparison's compare.json.

For each system with an integer form that is no smaller than the smallest of ours, the best of ours that takes no more
bytes: a line for each rival that is above it, and how many are not. Means are over folds, then over data sets.

    make comparison && python benchmarks/equal_bytes.py runs/baselines/compare.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

OURS = "learned"


def main() -> None:
    """Print what is behind, the count of pairs, and mean Dice of every system that all data sets have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", default=Path("runs/baselines/compare.json"))
    tables = json.loads(parser.parse_args().table.read_text(encoding="utf-8"))["tables"]
    pairs = behind = 0
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
            if best["dice"] < row["dice"]:
                behind += 1
                away = 100 * (best["dice"] - row["dice"])
                print(
                    f"{table['name']}: {row['name']} {row['dice']:.4f}; {best['name']} {best['dice']:.4f}, {away:+.2f}"
                )
    print(f"at least the rival's Dice in {pairs - behind} of {pairs} pairs")
    for name, values in sorted(dice.items(), key=lambda item: -mean(item[1])):
        if len(values) == len(tables):
            print(f"{name:32} {mean(values):.4f}")


if __name__ == "__main__":
    main()
