"""Finished runs as one line each of a text file, so that a table outlives the machine that filled it.

A run folder holds networks, pictures and reports, megabytes that no repository wants. What the table needs of it is a
few kilobytes: configuration, environment, summary, and scores by case. ``unpack_records`` writes those back into run
folders, where they count as done; ``pack_records`` adds what has been finished since.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantunet.atomic_file import write_atomically
from quantunet.compare.collect import read_json
from quantunet.compare.plan import FLOAT_FOLDER, Job, Plan, difference_in_folder, state_of
from quantunet.errors import UserError
from quantunet.train.config import Config
from quantunet.train.config_file import to_yaml

ENVIRONMENT = ("quantunet", "commit", "processor", "threads", "cuda", "packages")
"""What a record says of where it was made."""
CLASS_SCORES = ("dice", "iou", "hd95")

Key = tuple[str, int]
"""Name and seed of a run, which tell it apart from the others of one file."""


@dataclass(frozen=True)
class Record:
    """One finished run."""

    name: str
    seed: int
    config: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]
    evaluation: dict[str, Any]


def unpack_records(plan: Plan) -> int:
    """Fill the folders of runs that lie in their record file and nowhere else; how many.

    A record of another configuration than the plan's is left alone: its run is to be done again.

    Raises:
        UserError: if a record file is damaged, or a run is finished in its folder and recorded with another result
            (which of the two is out of date, nobody but the user knows): no folder is filled then.
    """
    runs = {job.folder for job in plan.runs}
    recorded = [
        (path, key, job, record)
        for path, jobs in _by_file(plan).items()
        for records in [read_records(path)]
        for key, job in jobs.items()
        if (record := records.get(key)) is not None and record.config == _identity(job.config)
    ]
    for path, key, job, record in recorded:
        if job.folder in runs and state_of(job) == "done" and _record(key, job) != record:
            raise UserError(
                f"{job.folder}: holds another result than the record of the same run ({key[0]}, seed {key[1]}) in "
                f"{path}: remove the folder, or that line"
            )
    missing = [(job, record) for _, _, job, record in recorded if state_of(job) == "not started"]
    for job, record in missing:
        job.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(job.folder / "config.yaml", to_yaml(job.config).encode("utf-8"))
        for name in ("environment", "evaluation", "summary"):  # the summary last: it says that the run is done
            write_atomically(job.folder / f"{name}.json", (json.dumps(getattr(record, name)) + "\n").encode())
    return len(missing)


def pack_records(plan: Plan) -> None:
    """Bring the record files up to date with all finished runs; records of runs that are not in the plan stay.

    A folder that holds a run of another configuration by now, another comparison's, gives no record.

    Raises:
        UserError: if a record file, or a file of a finished run, is damaged.
    """
    for path, jobs in _by_file(plan).items():
        old = read_records(path)
        found = {key: _record(key, job) for key, job in jobs.items() if state_of(job) == "done"}
        new = old | {
            key: record
            for key, record in found.items()
            if record != old.get(key) and difference_in_folder(jobs[key]) is None
        }
        if new != old:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _lines(new.values()).encode("utf-8"))


def read_records(path: Path) -> dict[Key, Record]:
    """The records of a file, none where it is absent.

    Raises:
        UserError: if a line is no record, naming it.
    """
    if not path.exists():
        return {}
    records: dict[Key, Record] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = Record(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {number}: is no record of a run ({error}): remove the line") from None
        records[record.name, record.seed] = record
    return records


def _by_file(plan: Plan) -> Mapping[Path, Mapping[Key, Job]]:
    """The runs of each record file; float networks go by what determines them."""
    files: dict[Path, dict[Key, Job]] = {}
    for systems in plan.systems:
        if systems.records is None:
            continue
        floats = {(f"{FLOAT_FOLDER} {job.folder.name}", job.seed): job for job in plan.floats if job.on == systems.name}
        runs = {(job.name, job.seed): job for job in plan.runs if job.on == systems.name}
        files[systems.records] = floats | runs
    return files


def _identity(config: Config) -> dict[str, Any]:
    """What makes it this run; a record outlives new settings whose default changes nothing."""
    return config.model_dump(mode="json", exclude_defaults=True)


def _record(key: Key, job: Job) -> Record:
    summary = read_json(job.folder / "summary.json")
    environment = read_json(job.folder / "environment.json")
    evaluation = read_json(job.folder / "evaluation.json")
    deployed = "integer" if "integer" in evaluation else "fake_quantized"
    return Record(
        name=key[0],
        seed=key[1],
        config=_identity(job.config),
        environment={name: environment.get(name) for name in ENVIRONMENT},
        summary={name: _without(value, "layers", "accumulators") for name, value in summary.items()},
        evaluation={name: _scores(evaluation[name]) for name in ("float", deployed) if name in evaluation},
    )


def _without(value: Any, *names: str) -> Any:
    return {key: each for key, each in value.items() if key not in names} if isinstance(value, dict) else value


def _scores(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    cases = [
        {
            "case_id": case["case_id"],
            "pixel_accuracy": case["pixel_accuracy"],
            "classes": {
                name: {score: scores[score] for score in CLASS_SCORES} for name, scores in case["classes"].items()
            },
        }
        for case in evaluation["cases"]
    ]
    return {"cases": cases}


def _lines(records: Iterable[Record]) -> str:
    """By seed and name, so that a new run is a new line and no other changes."""
    ordered = sorted(records, key=lambda record: (record.seed, record.name))
    return "".join(json.dumps(vars(record), ensure_ascii=False) + "\n" for record in ordered)
