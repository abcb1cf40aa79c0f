"""Records of finished runs: the same table from them as from the run folders, and nothing of another configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fake_run import write_fake_run
from small_runs import one_line_error, write_settings

from quantunet.compare.collect import collect, to_json
from quantunet.compare.plan import Plan, Systems, build_plan, has_float_network, state_of
from quantunet.compare.records import pack_records, read_records, unpack_records
from quantunet.errors import UserError
from quantunet.train.config import Config
from quantunet.train.config_file import load_config, to_yaml
from quantunet.train.run_dir import FLOAT_FILE


@pytest.fixture
def configs(tmp_path: Path) -> tuple[Config, ...]:
    base = write_settings(tmp_path / "a.yaml", tmp_path)
    return load_config(base, {"name": "one"}), load_config(base, {"name": "two", "quantizer.name": "uniform"})


def plan_in(out: Path, configs: tuple[Config, ...], seeds: int = 2) -> Plan:
    return build_plan([Systems(configs, seeds, records=out.parent / "records" / "set.jsonl")], out)


def finish(plan: Plan) -> None:
    """Every run folder as a training leaves it."""
    for job in (*plan.floats, *plan.runs):
        write_fake_run(job.folder)
        (job.folder / "config.yaml").write_text(to_yaml(job.config))
        (job.folder / FLOAT_FILE).parent.mkdir()
        (job.folder / FLOAT_FILE).write_bytes(b"network")


def test_the_table_from_records_is_that_of_the_runs(tmp_path: Path, configs: tuple[Config, ...]) -> None:
    plan = plan_in(tmp_path / "runs", configs)
    finish(plan)
    pack_records(plan)
    table = to_json(collect(plan, tmp_path / "runs", {}))
    there = plan_in(tmp_path / "elsewhere", configs)
    assert unpack_records(there) == len(plan.runs) + len(plan.floats) == 6
    assert all(state_of(job) == "done" for job in there.runs)
    assert to_json(collect(there, tmp_path / "elsewhere", {})) == table
    assert unpack_records(there) == 0, "once"
    assert not any(has_float_network(job.folder) for job in there.floats), "a new system trains it again"
    assert all(has_float_network(job.folder) for job in plan.floats)


def test_records_grow_line_by_line(tmp_path: Path, configs: tuple[Config, ...]) -> None:
    plan = plan_in(tmp_path / "runs", configs)
    finish(plan)
    shutil.rmtree(plan.runs[-1].folder)
    pack_records(plan)
    file = tmp_path / "records" / "set.jsonl"
    before = file.read_text().splitlines()
    assert len(before) == 5
    write_fake_run(plan.runs[-1].folder)
    (plan.runs[-1].folder / "config.yaml").write_text(to_yaml(plan.runs[-1].config))
    pack_records(plan)
    after = file.read_text().splitlines()
    assert set(before) < set(after)
    assert len(after) == 6
    assert all("accumulators" not in line and '"layers"' not in line for line in after)
    other = plan_in(tmp_path / "other", (configs[0].model_copy(update={"name": "three"}),))
    pack_records(other)
    assert file.read_text().splitlines() == after, "runs that are not in the plan stay"


def test_a_record_of_another_configuration_is_no_run_of_this_one(tmp_path: Path, configs: tuple[Config, ...]) -> None:
    plan = plan_in(tmp_path / "runs", configs)
    finish(plan)
    pack_records(plan)
    changed = configs[0].model_copy(update={"budget": "2bit"})
    there = plan_in(tmp_path / "elsewhere", (changed, configs[1]))
    unpack_records(there)
    states = {(job.name, job.seed): state_of(job) for job in there.runs}
    assert states == {("one", 0): "not started", ("one", 1): "not started", ("two", 0): "done", ("two", 1): "done"}


def test_a_run_that_another_comparison_put_in_its_place_gives_no_record(
    tmp_path: Path, configs: tuple[Config, ...]
) -> None:
    plan = plan_in(tmp_path / "runs", configs)
    finish(plan)
    pack_records(plan)
    before = (tmp_path / "records" / "set.jsonl").read_bytes()
    folder = plan.runs[0].folder
    (folder / "config.yaml").write_text(to_yaml(configs[0].model_copy(update={"budget": "2bit"})))
    summary = folder / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"validation_dice": 0.125}))
    pack_records(plan)
    assert (tmp_path / "records" / "set.jsonl").read_bytes() == before


def test_a_run_that_is_recorded_with_another_result_is_named(tmp_path: Path, configs: tuple[Config, ...]) -> None:
    plan = plan_in(tmp_path / "runs", configs)
    finish(plan)
    pack_records(plan)
    assert unpack_records(plan) == 0
    summary = plan.runs[0].folder / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"validation_dice": 0.125}))
    before = (tmp_path / "records" / "set.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"another result than the record .*one, seed 0.*set\.jsonl: remove the folder"):
        unpack_records(plan)
    assert (tmp_path / "records" / "set.jsonl").read_bytes() == before


def test_a_damaged_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "compare.jsonl"
    config = write_settings(tmp_path / "a.yaml", tmp_path, name="a")
    for text in ("{}\n", "no json\n", json.dumps({"name": "a"}) + "\n", "[1]\n"):
        file.write_text(text)
        message = one_line_error(
            capsys, "compare", config, "--records", tmp_path, "--only-table", "--out", tmp_path / "o"
        )
        assert f"{file}, line 1: is no record of a run" in message
    assert read_records(tmp_path / "absent.jsonl") == {}
