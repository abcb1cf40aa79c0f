"""Are budgets met? Short trainings under budgets of every kind, measured on the models that come out.

Widths fill their budget, so bits, file, flash and bit operations must end within 3 % of it; memory and operations fall
by whole channels, so they must not exceed it by more than 3 %.
Run: python benchmarks/budgets.py [--seeds 2] [--data FOLDER] [--out runs/budgets]
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
from pathlib import Path

from rich.console import Console

from quantunet.pipeline import run_training
from quantunet.train.budget import CHANNEL_KINDS, TOLERANCE
from quantunet.train.config import build_config

BUDGETS = ("4bit", "2.5bit", "1.5bit", "0.8bit", "40KiB", "14KiB", "flash=50KiB", "bops=1.5G", "macs=80M",
           "ram=120KiB", "ram=110KiB 1bit", "flash=40KiB ram=130KiB macs=100M")  # fmt: skip
SHORT = {
    "crop_px": 64,
    "batch_size": 4,
    "float_phase": {"steps": 100, "learning_rate": 3e-3},
    "qat": {"steps": 250, "learning_rate": 1.5e-3},
    "finetune": {"steps": 10},
}


def main() -> None:
    """Train, and print a line a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data", default="phantom")
    parser.add_argument("--out", type=Path, default=Path("runs/budgets"))
    arguments = parser.parse_args()
    met = runs = 0
    for seed in range(arguments.seeds):
        for budget in BUDGETS:
            out = arguments.out / f"{budget.replace(' ', '_')}_{seed}"
            shutil.rmtree(out, ignore_errors=True)
            raw = {
                "data": {"path": arguments.data},
                "network": {"base_channels": 8},
                "budget": budget,
                "training": SHORT,
                "seed": seed,
            }
            run_training(build_config(raw, {}), out, resume=False, console=Console(file=io.StringIO()))
            summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
            used = {each["kind"]: each["reached"] / each["budget"] for each in summary["budgets"]}
            # of several budgets, the one that binds is filled; the others hold
            fullest = max(used.values())
            is_met = fullest <= 1 + TOLERANCE and (fullest >= 1 - TOLERANCE or used.keys() <= set(CHANNEL_KINDS))
            met, runs = met + is_met, runs + 1
            shares = ", ".join(f"{kind} {100 * share:.1f} %" for kind, share in used.items())
            dice = f"Dice {summary['float']['dice']:.3f} -> {summary['quantized']['dice']:.3f}"
            print(f"{'met    ' if is_met else 'NOT MET'} {budget}, seed {seed}: {shares}; {dice}", flush=True)
    print(f"{met} of {runs} met")


if __name__ == "__main__":
    main()
