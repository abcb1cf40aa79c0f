"""From run folders to the rows of the table: whatever is finished counts, whatever is missing is named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantunet.compare.plan import Job, Plan, Systems, state_of
from quantunet.compare.statistics import GATES, PairedChange, keeps, paired_change, t_interval95
from quantunet.compare.table import DataTable, Kind, Row, SeedPoint, gate_name, with_dominators
from quantunet.compare.tuning import best_by_validation
from quantunet.errors import UserError
from quantunet.report.tables import case_value
from quantunet.summary import is_simulated
from quantunet.train.config import Config


@dataclass(frozen=True)
class _Finished:
    job: Job
    summary: dict[str, Any]
    evaluation: dict[str, Any]


def collect(plan: Plan, out: Path, failed: Mapping[Path, str], *, tuned: bool = False) -> list[DataTable]:
    """The tables of ``plan``, one a data set, from what lies in its folders; ``failed`` says why a run is missing.

    Args:
        tuned: data sets with the same cases are settings of one table, which has each system as its validation cases
            prefer it.

    Raises:
        UserError: if a finished run's file is damaged, naming it; or as `group_by_data`.
    """
    groups = group_by_data(plan.systems, tuned=tuned)
    names = [_data_name(settings[0][1][0]) for settings in groups]
    tables = []
    for settings, name in zip(groups, names, strict=True):
        systems, configs = settings[0]
        table = name if names.count(name) == 1 else f"{name} ({systems.name or configs[0].name + ' …'})"
        each = [(systems.name, _table(table, configs, systems, plan, out, failed)) for systems, configs in settings]
        tables.append(best_by_validation(each) if len(each) > 1 else each[0][1])
    return tables


def group_by_data(systems: Sequence[Systems], *, tuned: bool) -> list[list[tuple[Systems, list[Config]]]]:
    """For each table its settings, one where ``tuned`` is not asked for: systems, and their configurations.

    Raises:
        UserError: if ``tuned`` finds no two settings of one data set, or such with other numbers of seeds.
    """
    tables: dict[object, list[tuple[Systems, list[Config]]]] = {}
    for place, each in enumerate(systems):
        same_data: dict[str, list[Config]] = {}
        for config in each.configs:
            same_data.setdefault(_data_identity(config), []).append(config)
        for identity, configs in same_data.items():
            tables.setdefault(identity if tuned else (place, identity), []).append((each, configs))
    if tuned and all(len(settings) == 1 for settings in tables.values()):
        raise UserError("--tuned: no two of --on have the same images and split, so there is nothing to choose from")
    for settings in tables.values():
        counts = {each.name: each.seeds for each, _ in settings}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise UserError(f"--seeds: settings of one data set need as many seeds each, these have: {listed}")
    return list(tables.values())


def to_json(tables: Sequence[DataTable]) -> list[dict[str, Any]]:
    """Everything as plain dicts, lists and numbers."""
    return json.loads(json.dumps([asdict(table) for table in tables]))


def _data_identity(config: Config) -> str:
    """What makes two configurations' test cases the same: normalisation, training slices, neighbours play no part."""
    apart = {"normalization", "foreground_slices_only_in_training", "neighbour_slices"}
    data = config.data.model_dump(mode="json", exclude=apart)
    return json.dumps(data, sort_keys=True)


def _data_name(config: Config) -> str:
    return config.data.path.name if config.data.path is not None else "data"


def _table(
    name: str, configs: Sequence[Config], systems: Systems, plan: Plan, out: Path, failed: Mapping[Path, str]
) -> DataTable:
    rows, floats = [], []
    users: list[tuple[Job, ...]] = []
    for config in configs:
        jobs = plan.jobs(systems, config.name)
        own_floats = tuple(plan.float_run(job) for job in jobs)
        users.append(own_floats)
        if own_floats not in [jobs for jobs, _ in floats]:
            floats.append((own_floats, config))
        if config.quantizer.name != "float":  # those are the float row
            rows.append(_row(config.name, "system", jobs, out, failed))
    rows = with_dominators(rows)
    floats.sort(key=lambda each: -users.count(each[0]))  # the one that most systems start from needs no addition
    float_rows = [
        _row(f"float32 of {config.name}" if place else "float32", "float", jobs, out, failed)
        for place, (jobs, config) in enumerate(floats)
    ]
    finished = [each for jobs, _ in floats for each in _finished(jobs)]
    finished = finished or [each for config in configs for each in _finished(plan.jobs(systems, config.name))]
    trivial = [_trivial_row(finished[0])] if finished else []
    return DataTable(
        name=name,
        distance_unit=finished[0].summary["float"].get("distance_unit", "px") if finished else "px",
        test_cases=finished[0].summary["data"]["cases"]["test"] if finished else None,
        rows=(*trivial, *float_rows, *rows),
    )


def _finished(jobs: Sequence[Job]) -> list[_Finished]:
    return [
        _Finished(job, read_json(job.folder / "summary.json"), read_json(job.folder / "evaluation.json"))
        for job in jobs
        if state_of(job) == "done"
    ]


def read_json(path: Path) -> dict[str, Any]:
    """A file of a finished run.

    Raises:
        UserError: if it is absent or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}): remove its run folder and compare again") from None


def _row(name: str, kind: Kind, jobs: Sequence[Job], out: Path, failed: Mapping[Path, str]) -> Row:
    finished = _finished(jobs)
    done = {each.job.folder for each in finished}
    missing = {job.seed: failed.get(job.folder, state_of(job)) for job in jobs if job.folder not in done}
    summaries = [_float_part(each.summary) if kind == "float" else each.summary for each in finished]
    quality = [summary["quantized" if kind == "system" else "float"] for summary in summaries]
    dice = [float(each["dice"]) for each in quality]
    float_dice = [float(summary["float"]["dice"]) for summary in summaries]
    one_ci95 = quality[0].get("dice_ci95") if len(quality) == 1 else None
    sizes, costs = [s.get("size", {}) for s in summaries], [s.get("cost", {}) for s in summaries]
    widths = [summary.get("bit_width", {}) for summary in summaries]
    stored = [size.get("model_file_bytes") or size.get("formula_bytes") for size in sizes]
    return Row(
        name=name,
        kind=kind,
        quantizer=jobs[0].config.quantizer.name if kind == "system" else None,
        simulated=any(is_simulated(summary) for summary in summaries),
        seeds=tuple(each.job.seed for each in finished),
        dice=_mean(dice),
        dice_ci95=t_interval95(dice) or ((one_ci95[0], one_ci95[1]) if one_ci95 else None),
        dice_interval="t over seeds" if len(dice) > 1 else "bootstrap over cases" if one_ci95 else None,
        change=_change(finished) if kind == "system" else None,
        hd95=_mean([each.get("hd95") for each in quality]),
        pixel_accuracy=_mean([each.get("pixel_accuracy") for each in quality]),
        weight_bits_by_layer=_mean([width.get("weights_by_layer") for width in widths]),
        weight_bits_by_parameter=_mean([width.get("weights_by_parameter") for width in widths]),
        activation_bits=_mean([width.get("activations") for width in widths]),
        packed_bytes=_mean([size.get("packed_weight_bytes") for size in sizes]),
        file_bytes=_mean([size.get("model_file_bytes") for size in sizes]),
        stored_bytes=_mean(stored),
        ratio=_mean([size.get("ratio") for size in sizes]),
        bops=_mean([cost.get("bops") for cost in costs]),
        dominated_by=None,  # known once all rows are
        keeps={
            gate_name(gate): keeps(float(np.mean(dice)), float(np.mean(float_dice)), gate)
            for gate in GATES
            if kind == "system" and dice
        },
        time_s=_mean([summary.get("time_s", {}).get("total") for summary in summaries]),
        missing=missing,
        validation_dice=_mean(
            [each.get("validation_dice", {}).get("quantized" if kind == "system" else "float") for each in summaries]
        ),
        points=tuple(
            SeedPoint(each.job.seed, value, size, cost.get("bops"), _relative(each.job.folder, out))
            for each, value, size, cost in zip(finished, dice, stored, costs, strict=True)
        ),
    )


def _float_part(summary: dict[str, Any]) -> dict[str, Any]:
    """Sizes of the float network alone, where the run went on to an integer model and counted only that one."""
    if "quantized" not in summary:
        return summary
    whole_bytes = summary["size"]["float32_bytes"]
    return summary | {
        "bit_width": dict.fromkeys(("weights_by_layer", "weights_by_parameter", "activations"), 32.0),
        "size": {"formula_bytes": whole_bytes, "packed_weight_bytes": None, "ratio": 1.0},
        "cost": {},
        "time_s": {"total": summary["time_s"].get("float")},
    }


def _trivial_row(finished: _Finished) -> Row:
    trivial = finished.summary["trivial"]
    nothing: dict[str, Any] = dict.fromkeys(Row.__dataclass_fields__)
    return Row(
        **nothing
        | {
            "name": "all background",
            "kind": "trivial",
            "simulated": False,
            "seeds": (),
            "dice": trivial["dice"],
            "dice_ci95": None,
            "hd95": trivial.get("hd95"),
            "pixel_accuracy": trivial["pixel_accuracy"],
            "keeps": {},
            "missing": {},
            "points": (),
        }
    )


def _change(finished: Sequence[_Finished]) -> PairedChange | None:
    """Deployed (or, where simulated, fake-quantized) Dice minus the float network's, by case and seed."""
    scores, references = [], []
    for each in finished:
        deployed = each.evaluation.get("integer") or each.evaluation["fake_quantized"]
        scores.append(dice_by_case(deployed))
        references.append(dice_by_case(each.evaluation["float"]))
    return paired_change(scores, references)


def dice_by_case(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Dice of one predictor's cases, by case id, of its part of an ``evaluation.json``."""
    return {str(case["case_id"]): float(case_value(case, "dice")) for case in evaluation["cases"]}


def _mean(values: Sequence[Any]) -> float | None:
    """The mean, or None where there is no value or one is missing."""
    return float(np.mean(values)) if values and all(value is not None for value in values) else None


def _relative(folder: Path, out: Path) -> str:
    return folder.relative_to(out).as_posix()
