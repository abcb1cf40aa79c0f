"""One descent, several models: at each point of its Pareto curve a run branches off, and all are put into one table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from quantunet.compare.collect import collect, read_json
from quantunet.compare.plan import Job, Plan, Systems, state_of
from quantunet.compare.table import DataTable
from quantunet.compare.write import write_comparison
from quantunet.errors import UserError
from quantunet.pipeline import run_training
from quantunet.train.budget import Budget
from quantunet.train.config import Config
from quantunet.train.config_file import to_yaml
from quantunet.train.run_dir import RunDir, point_file

POINTS_FOLDER = "points"
KEEP_LADDER = ("4bit", "3bit", "2.5bit", "2bit", "1.5bit", "1.2bit", "1bit", "0.8bit", "0.6bit", "0.4bit")
"""Sizes that a search for the smallest good model passes through, where none are given."""


@dataclass(frozen=True)
class Points:
    """What came of it: the summaries of all models, the largest first, by size; the table, its files."""

    summaries: dict[str, dict[str, Any]]
    folders: dict[str, Path]
    tables: list[DataTable]
    files: dict[str, Path]

    def smallest_that_keeps(self, share: float) -> str | None:
        """The smallest model whose validation Dice is at least ``share`` of its float network's, or None."""
        good = [
            (summary["size"]["ratio"], name)
            for name, summary in self.summaries.items()
            if summary["validation_dice"]["quantized"] >= share * summary["validation_dice"]["float"]
        ]
        return max(good)[1] if good else None


def run_points(config: Config, out: Path, *, resume: bool, console: Console) -> Points:
    """Train ``config`` in ``out``, then go on at each size that its descent passed, in ``out/points/SIZE``.

    Such a run has the rest of the QAT at its own size, in which the widths settle, and a fine-tuning of its own. Frozen
    as they are passed, points are up to .6 points of Dice below trainings for their size alone (docs/lab_log.md).
    What is done is kept, what was stopped goes on, where ``resume`` says so.

    Raises:
        UserError: as the training; or if ``config`` names no sizes to pass, or several processes.
    """
    if not config.pareto or len(config.budgets) != 1:
        raise UserError(
            "a Pareto curve needs sizes to pass on the way to the budget: pareto, as in --pareto '2bit 1bit'"
        )
    if config.devices > 1:
        raise UserError("a Pareto curve is trained by one process: set devices to 1")
    descent = Job(config.budgets[0].slug, config, out, out)
    if not (resume and state_of(descent) == "done"):
        run_training(config, out, resume=resume, console=console)
    jobs = [_point_job(config, point, text, out) for point, text in zip(config.points, config.pareto, strict=True)]
    for job, point in zip(jobs, config.points, strict=True):
        if state_of(job) != "done":
            _adopt(job, out, point)
            run_training(job.config, job.folder, resume=True, console=console)
    jobs.append(descent)
    named = tuple(job.config.model_copy(update={"name": job.name}) for job in jobs)
    floats = (Job("float", config, out, None),)
    table = collect(Plan((Systems(named, 1),), floats, tuple(jobs)), out, {})
    files = write_comparison(table, out, f"{config.name}, sizes of one descent")
    summaries = {job.name: read_json(job.folder / "summary.json") for job in jobs}
    return Points(summaries, {job.name: job.folder for job in jobs}, table, files)


def _point_job(config: Config, point: Budget, text: str, out: Path) -> Job:
    own = config.model_copy(update={"budget": text, "pareto": ()})
    return Job(point.slug, own, out / POINTS_FOLDER / point.slug, out)


def _adopt(job: Job, descent: Path, point: Budget) -> None:
    """Let the point's run go on from where the descent passed it."""
    run = RunDir(job.folder, resume=True)
    try:
        run.adopt_point(descent, point_file(point))
        run.write_text("config.yaml", to_yaml(job.config))
    finally:
        run.close()
