"""Are budgets met? Trainings under budgets of every kind on several data sets, measured on the models that come out.

Each budget is a share of what the same network takes at 8 bits with all channels. Widths fill their budget, so bits,
file, flash, bit operations and tables must end within 3 % of it; memory, operations and time fall by whole channels, so
they must not exceed it by more than 3 %. Float networks are shared with `quantunet compare --out` of the same folder.

    python benchmarks/budgets.py --on configs/data/em.yaml configs/data/gm.yaml --seeds 2 --out runs/baselines
    python benchmarks/budgets.py                                             # on the drawn phantom, minutes
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from quantunet.compare.plan import Job, Systems, build_plan, state_of
from quantunet.compare.run import compare
from quantunet.pipeline import untrained_sizes
from quantunet.train.budget import CHANNEL_KINDS, TOLERANCE, Kind
from quantunet.train.config import Config
from quantunet.train.config_file import build_config, read_data_file

SHARES: Sequence[dict[Kind, float]] = (
    {"bits": 0.19},
    {"file": 0.12},
    {"flash": 0.3},
    {"bops": 0.1},
    {"lut": 0.25},
    {"macs": 0.4},
    {"latency": 0.7},
    {"ram": 0.6, "bits": 0.15},
    {"flash": 0.3, "ram": 0.7, "macs": 0.5},
)
PHANTOM = Path(__file__).with_name("phantom.yaml")


def configs_of(base: dict) -> tuple[Config, ...]:
    """A configuration for each budget."""
    kinds: list[Kind] = list(dict.fromkeys(kind for shares in SHARES for kind in shares))
    whole = untrained_sizes(build_config(base, {}), kinds)
    configs = []
    for shares in SHARES:
        text = " ".join(setting(kind, share * whole[kind]) for kind, share in shares.items())
        configs.append(build_config(base | {"name": f"budget_{'_'.join(shares)}", "budget": text}, {}))
    return tuple(configs)


def setting(kind: Kind, amount: float) -> str:
    """As a configuration says it."""
    if kind == "bits":
        return f"{amount:.3g}bit"
    if kind == "latency":
        return f"latency={1000 * amount:.0f}us"
    return f"{kind}={amount:.0f}" + ("b" if kind in ("file", "flash", "ram") else "")


def line(job: Job) -> tuple[bool, str]:
    """Whether the budgets of a finished run are met, and its figures."""
    summary = json.loads((job.folder / "summary.json").read_text(encoding="utf-8"))
    used = {each["kind"]: each["reached"] / each["budget"] for each in summary["budgets"]}
    fullest = max(used.values())  # of several budgets, the one that binds is filled; the others hold
    is_met = fullest <= 1 + TOLERANCE and (fullest >= 1 - TOLERANCE or used.keys() <= set(CHANNEL_KINDS))
    shares = ", ".join(f"{kind} {100 * share:.1f} %" for kind, share in used.items())
    dice = f"Dice {summary['float']['dice']:.4f} -> {summary['quantized']['dice']:.4f}"
    return is_met, f"{'met    ' if is_met else 'NOT MET'} {job.label} ({job.config.budget}): {shares}; {dice}"


def main() -> None:
    """Train what is not done, and print a line a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", type=Path, nargs="+", default=[PHANTOM], help="YAML files of data sets (phantom.yaml)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--records", type=Path, help="folder that keeps finished runs, as that of compare")
    parser.add_argument("--out", type=Path, default=Path("runs/budgets"))
    arguments = parser.parse_args()
    systems = []
    for path in arguments.on:
        records = arguments.records / f"budgets_{path.stem}.jsonl" if arguments.records else None
        systems.append(Systems(configs_of(read_data_file(path)), arguments.seeds, path.stem, records))
    compare(systems, arguments.out, at_once=arguments.jobs, say=print)
    lines = [line(job) for job in build_plan(systems, arguments.out).runs if state_of(job) == "done"]
    print("\n".join(text for _, text in lines))
    print(f"{sum(is_met for is_met, _ in lines)} of {len(lines)} met")


if __name__ == "__main__":
    main()
