"""Several settings of one data set in one table: validation chooses, test cases have no say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fake_run import write_fake_run
from small_runs import command, one_line_error, write_settings

from quantunet.compare.cells import cells, columns, conventions, missing_lines
from quantunet.compare.collect import collect
from quantunet.compare.plan import Job, Plan, Systems, build_plan
from quantunet.train.config_file import load_config, to_yaml

DICE = {
    ("fast", "one"): (0.80, 0.70, 4000),  # validation, test, bytes
    ("fast", "two"): (0.60, 0.75, 9000),
    ("gentle", "one"): (0.79, 0.90, 2000),
    ("gentle", "two"): (0.65, 0.60, 8000),
}
"""Validation prefers `one` fast and `two` gentle; by test Dice it would be the other way about."""


def plan_of(folder: Path) -> Plan:
    systems = []
    for setting, rate in (("fast", 1.0e-3), ("gentle", 1.0e-4)):
        path = write_settings(folder / f"{setting}.yaml", folder)
        configs = (
            load_config(path, {"name": name, "quantizer.name": quantizer, "training.qat.learning_rate": rate})
            for name, quantizer in (("one", "uniform"), ("two", "learned"))
        )
        systems.append(Systems(tuple(configs), 2, setting))
    return build_plan(systems, folder / "out")


def finish(job: Job) -> None:
    write_fake_run(job.folder)
    (job.folder / "config.yaml").write_text(to_yaml(job.config))
    if (job.on, job.name) in DICE:
        validation, dice, size = DICE[job.on, job.name]
        summary = json.loads((job.folder / "summary.json").read_text())
        summary["validation_dice"]["quantized"] = validation + 0.01 * job.seed
        summary["quantized"]["dice"] = dice
        summary["size"]["model_file_bytes"] = size
        (job.folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = plan_of(tmp_path)
    for job in (*plan.floats, *plan.runs):
        finish(job)
    return plan


def test_each_system_has_the_setting_that_its_validation_cases_prefer(plan: Plan, tmp_path: Path) -> None:
    (table,) = collect(plan, tmp_path / "out", {}, tuned=True)
    assert table.name == tmp_path.name, "one data set, one name"
    rows = {row.name: row for row in table.rows}
    assert list(rows) == ["all background", "float32", "one", "two"]
    assert (rows["one"].setting, rows["one"].dice) == ("fast", 0.70)
    assert rows["one"].validation_dice == pytest.approx(0.805), "mean over the seeds"
    assert (rows["two"].setting, rows["two"].dice) == ("gentle", 0.60)
    assert rows["float32"].setting == "fast", "of equal ones the first"
    assert [(row.name, row.setting) for row in table.left_out] == [
        ("float32", "gentle"), ("one", "gentle"), ("two", "fast")
    ]  # fmt: skip
    assert rows["one"].points[0].folder == "fast/one/seed_0"


def test_what_beats_a_row_is_a_row_of_the_table(plan: Plan, tmp_path: Path) -> None:
    apart = {table.name: table for table in collect(plan, tmp_path / "out", {})}
    assert list(apart) == [f"{tmp_path.name} (fast)", f"{tmp_path.name} (gentle)"]
    dominated = {row.name: row.dominated_by for row in apart[f"{tmp_path.name} (fast)"].rows}
    assert dominated["two"] is None, "fast, it has the better Dice"
    (table,) = collect(plan, tmp_path / "out", {}, tuned=True)
    assert {row.name: row.dominated_by for row in table.rows}["two"] == "one", "gentle, it has less Dice and more bytes"


def test_the_table_says_which_setting_and_how_it_was_chosen(plan: Plan, tmp_path: Path) -> None:
    (table,) = collect(plan, tmp_path / "out", {}, tuned=True)
    assert columns(table)[0] == "Setting"
    assert [cells(row, table)[0].text for row in table.rows] == ["", "fast", "fast", "gentle"]
    assert all(len(cells(row, table)) == len(columns(table)) for row in table.rows)
    assert "Setting: of fast and gentle the one with which" in conventions(table)
    assert all("Setting" not in columns(each) for each in collect(plan, tmp_path / "out", {}))


def test_a_setting_that_is_not_finished_is_missing_and_not_chosen(plan: Plan, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "out/fast/one/seed_1")
    tables = collect(plan, tmp_path / "out", {}, tuned=True)
    assert {row.name: row.setting for row in tables[0].rows}["one"] == "gentle"
    assert missing_lines(tables) == ["one of fast seed 1: not started"]


def test_nothing_to_choose_from_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    system = tmp_path / "system.yaml"
    system.write_text("name: one\n")
    sets = []
    for name, data, steps in (("fast", tmp_path, 4), ("gentle", tmp_path, 8), ("third", tmp_path / "other", 4)):
        sets.append(tmp_path / f"{name}.yaml")
        sets[-1].write_text(json.dumps({"data": {"path": str(data)}, "training": {"qat": {"steps": steps}}}))
    arguments = ("compare", system, "--out", tmp_path / "out", "--tuned", "--on", sets[0])
    assert "--tuned: no two of --on have the same images and split" in one_line_error(capsys, *arguments)
    assert "--tuned: no two" in one_line_error(capsys, *arguments, "--on", sets[2])
    message = one_line_error(capsys, *arguments, "--on", sets[1], "--seeds", "3,1")
    assert "settings of one data set need as many seeds each, these have: fast 3, gentle 1" in message
    assert not (tmp_path / "out").exists()
    status, out, _ = command(capsys, *arguments, "--on", sets[1], "--seeds", "1", "--only-table", "--json")
    tables = json.loads(out)["tables"]
    assert status == 0
    assert [table["name"] for table in tables] == [tmp_path.name]
