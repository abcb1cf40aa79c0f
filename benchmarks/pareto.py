"""Is one descent as good as many trainings? Points of a Pareto run beside trainings of their own for the same sizes.

For each data set and seed, from one float network: a run that passes through all sizes, with the network frozen and
fine-tuned at each of them, and a training for each size by itself. The latter, and the float networks, are those of
`quantunet compare` with the same `--out` and `--records`: what is finished there is taken from there.

    python benchmarks/pareto.py configs/baselines/learned_{3.5,2.5,1.5,1}bit.yaml --on configs/data/em.yaml \\
        --seeds 2 --records benchmarks/records --out runs/baselines
    python benchmarks/pareto.py                     # these four sizes on the drawn phantom, minutes
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from quantunet.compare.collect import read_json
from quantunet.compare.job import ensure_float_network
from quantunet.compare.plan import Job, Plan, Systems, build_plan
from quantunet.compare.points import run_points
from quantunet.compare.run import compare
from quantunet.pipeline import run_training
from quantunet.train.config import Config
from quantunet.train.config_file import load_on

FOLDER = "pareto"
HERE = Path(__file__).parent
SIZES = [HERE.parent / f"configs/baselines/learned_{size}bit.yaml" for size in ("3.5", "2.5", "1.5", "1")]


def one_descent(plan: Plan, configs: Sequence[Config], seed: int, out: Path, on: str) -> Mapping[str, dict[str, Any]]:
    """Summaries of one run's points by size, each as its configuration's budget says it."""
    smallest = next(job for job in plan.runs if (job.on, job.name, job.seed) == (on, configs[-1].name, seed))
    sizes = tuple(config.budget or "" for config in configs[:-1])
    config = smallest.config.model_copy(update={"name": FOLDER, "pareto": sizes})
    folder, console = out / on / FOLDER / f"seed_{seed}", Console(highlight=False, width=120)
    assert smallest.float_folder is not None
    if not (folder / "summary.json").exists():
        ensure_float_network(smallest.float_folder, console)
        run_training(config, folder, resume=True, console=console, float_run=smallest.float_folder)
    points = run_points(config, folder, resume=True, console=console)
    return dict(zip((config.budget or "" for config in configs), points.summaries.values(), strict=True))


def line(jobs: Sequence[Job], points: Mapping[int, Mapping[str, dict[str, Any]]]) -> str:
    """A row of the table: one size on one data set, by seed, and the mean difference in points of Dice."""
    size = jobs[0].config.budget or ""
    own = [read_json(job.folder / "summary.json") for job in jobs]
    shared = [points[job.seed][size] for job in jobs]
    pairs = list(zip(shared, own, strict=True))
    change = 100 * float(np.mean([a["quantized"]["dice"] - b["quantized"]["dice"] for a, b in pairs]))
    dice = " ".join(f"{a['quantized']['dice']:.4f}/{b['quantized']['dice']:.4f}" for a, b in pairs)
    files = " ".join(f"{a['size']['model_file_bytes']}/{b['size']['model_file_bytes']}" for a, b in pairs)
    return f"{jobs[0].on:12} {size:>8}  {dice}  bytes {files}  {change:+.2f}"


def main() -> None:
    """Train what is not done, and print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", type=Path, nargs="*", default=SIZES, help="one YAML for each size, falling")
    parser.add_argument("--on", type=Path, nargs="+", default=[HERE / "phantom.yaml"], help="YAML files of data sets")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="trainings of their own at a time")
    parser.add_argument("--records", type=Path, help="folder that keeps finished runs, as that of compare")
    parser.add_argument("--out", type=Path, default=Path("runs/pareto"))
    arguments = parser.parse_args()
    systems = [
        Systems(
            tuple(load_on(config, on) for config in arguments.configs),
            arguments.seeds,
            on.stem,
            arguments.records / f"{on.stem}.jsonl" if arguments.records else None,
        )
        for on in arguments.on
    ]
    compare(systems, arguments.out, at_once=arguments.jobs, say=print)
    plan = build_plan(systems, arguments.out)
    print("Dice of one descent / of a training of its own, by seed; difference in points, mean over seeds")
    for each in systems:
        points = {seed: one_descent(plan, each.configs, seed, arguments.out, each.name) for seed in range(each.seeds)}
        for config in each.configs:
            print(line(plan.jobs(each, config.name), points), flush=True)


if __name__ == "__main__":
    main()
