"""Systems on data sets: what a merge does, what it refuses, and the folders and tables of a comparison over several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from real_data import real_data
from small_runs import CASE_PATTERN, SETTINGS, command, one_line_error, skip_what_changes_no_weight, write_small_data

from quantunet.compare.plan import Systems, build_plan
from quantunet.data import check_no_leak, read_dataset, split_cases
from quantunet.errors import UserError
from quantunet.train.config_file import build_config, load_config, load_on, merge, to_yaml

CONFIGS = Path(__file__).parents[1] / "configs"
DATA = {"data": {"path": "phantom"}, "network": {"levels": 3, "base_channels": 4}, "training": {"qat": {"steps": 9}}}


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return path


def test_the_system_rules_key_by_key(tmp_path: Path) -> None:
    system = {
        "name": "s",
        "quantizer": {"name": "uniform"},
        "network": {"levels": 2},
        "training": {"qat": {"learning_rate": 0.1}},
        "data": {"crop_px": [32, 32]},
    }
    config = load_on(write(tmp_path / "s.yaml", system), write(tmp_path / "d.yaml", DATA), {"seed": 2})
    expected = {
        "name": "s",
        "quantizer": {"name": "uniform"},
        "network": {"levels": 2, "base_channels": 4},
        "training": {"qat": {"steps": 9, "learning_rate": 0.1}},
        "data": {"path": "phantom", "crop_px": [32, 32]},
        "seed": 2,
    }
    assert config == build_config(expected, {})


def test_a_system_may_train_its_float_network_longer_than_the_data_set_says(tmp_path: Path) -> None:
    data = {**DATA, "training": {"float_phase": {"steps": 30}}}
    system = {"name": "s", "training": {"float_phase": {"more_steps": 12}}}
    config = load_on(write(tmp_path / "s.yaml", system), write(tmp_path / "d.yaml", data))
    assert config.training.float_phase.steps == 42
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == config, "the sum is what a run folder holds"


def test_a_merge_changes_neither_side() -> None:
    base, over = {"a": {"b": [1]}, "c": 1}, {"a": {"d": {"e": 2}}, "c": {"f": 3}}
    merged = merge(base, over)
    assert merged == {"a": {"b": [1], "d": {"e": 2}}, "c": {"f": 3}}
    merged["a"]["b"].append(2)
    merged["a"]["d"]["e"] = 0
    assert (base, over) == ({"a": {"b": [1]}, "c": 1}, {"a": {"d": {"e": 2}}, "c": {"f": 3}})


@pytest.mark.parametrize(
    ("system", "data", "message"),
    [
        ({"name": "s", "data": {"path": "phantom"}}, DATA, "names its own data.path, so it cannot run --on"),
        ({"name": "s"}, {"network": {"levels": 3}}, "has no data.path, which the file of a data set needs"),
        ({"name": "s"}, {**DATA, "budget": "2bit"}, "budget belongs to a system, not to a data set: leave it out"),
        ({"name": "s", "netwrk": {}}, DATA, "unknown key 'netwrk' (did you mean 'network'?)"),
        ({"name": "s", "network": {"levels": 1}}, DATA, "network.levels = 1"),
        (
            {"name": "s", "training": {"float_phase": {"more_steps": -1}}},
            DATA,
            "training.float_phase: more_steps -1 is no number of steps that could be added to steps 1500",
        ),
    ],
)
def test_mistakes_are_one_line_that_names_the_file(
    system: dict[str, Any], data: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        load_on(write(tmp_path / "s.yaml", system), write(tmp_path / "d.yaml", data))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_mistakes_of_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system, data = write(tmp_path / "s.yaml", {"name": "s"}), write(tmp_path / "d.yaml", DATA)
    assert "names no data: say on what it runs" in one_line_error(capsys, "compare", system, "--out", tmp_path)
    assert "needs a configuration of a system" in one_line_error(capsys, "train", "--on", data)
    twice = ("compare", system, "--on", data, "--on", data, "--out", tmp_path)
    assert "two files are named 'd'" in one_line_error(capsys, *twice)
    other = write(tmp_path / "e.yaml", DATA)
    both = ("compare", system, "--on", data, "--on", other, "--out", tmp_path / "out")
    assert "--data names one folder" in one_line_error(capsys, *both, "--data", tmp_path)
    assert "3 numbers for 2 data set(s)" in one_line_error(capsys, *both, "--seeds", "3,1,1")
    for seeds in ("0", "many", "3,", "-1", "1.5"):
        assert "give a number from 1, or one for each --on" in one_line_error(capsys, *both, f"--seeds={seeds}")
    assert not (tmp_path / "out").exists()


def test_each_data_set_has_a_folder_and_its_own_seeds(tmp_path: Path) -> None:
    configs = [load_on(write(tmp_path / f"{n}.yaml", {"name": n}), write(tmp_path / "d.yaml", DATA)) for n in "ab"]
    plan = build_plan([Systems(tuple(configs), 2, "em"), Systems(tuple(configs), 1, "gm")], tmp_path / "out")
    folders = [job.folder.relative_to(tmp_path / "out").as_posix() for job in plan.runs]
    assert folders == ["em/a/seed_0", "em/b/seed_0", "gm/a/seed_0", "gm/b/seed_0", "em/a/seed_1", "em/b/seed_1"]
    assert sorted(job.folder.relative_to(tmp_path / "out").parts[:2] for job in plan.floats) == [
        ("em", "float"), ("em", "float"), ("gm", "float")
    ]  # fmt: skip
    assert [job.seed for job in plan.jobs(plan.systems[0], "b")] == [0, 1]
    assert plan.runs[2].label == "a seed 0 on gm"
    alone = build_plan([Systems(tuple(configs), 1)], tmp_path / "out")
    assert alone.runs[0].folder == tmp_path / "out" / "a" / "seed_0"
    named = configs[0].model_copy(update={"name": "float"})
    with pytest.raises(UserError, match="the folder of the float networks"):
        build_plan([Systems((named,), 1)], tmp_path / "out")


def test_a_comparison_over_two_data_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_compare import spawn_here

    from quantunet.compare import schedule

    skip_what_changes_no_weight(monkeypatch)
    monkeypatch.setattr(schedule, "spawn", spawn_here)
    system = write(tmp_path / "uniform.yaml", {"name": "uniform", "quantizer": {"name": "uniform"}, "budget": None})
    arguments: list[str | Path] = ["compare", system]
    for name, size in (("small", 40), ("large", 48)):
        folder = write_small_data(tmp_path / f"{name}_images", size=size)
        content = {
            "data": {"path": str(folder), "case_pattern": CASE_PATTERN},
            **{key: SETTINGS[key] for key in ("network", "training", "accelerator")},
        }
        arguments += ["--on", write(tmp_path / f"{name}.yaml", content)]
    out = tmp_path / "out"
    status, text, err = command(capsys, *arguments, "--seeds", "2,1", "--out", out, "--json")
    assert status == 0, err
    tables = json.loads(text)["tables"]
    assert [(table["name"], table["rows"][-1]["seeds"]) for table in tables] == [
        ("small_images", [0, 1]), ("large_images", [0])
    ]  # fmt: skip
    assert (out / "small" / "uniform" / "seed_1" / "summary.json").exists()
    assert (out / "large" / "uniform" / "seed_0" / "summary.json").exists()
    page = (out / "compare.html").read_text(encoding="utf-8")
    assert "small/uniform/seed_0/report.html" in page
    assert (out / "compare.md").read_text(encoding="utf-8").count("| uniform |") == 2
    # the folder of one data set is what the same command makes with that data set alone, so either may go on
    status, text, err = command(
        capsys, "compare", system, "--on", tmp_path / "small.yaml", "--seeds", "2", "--out", out / "small", "--json"
    )
    assert status == 0, err
    assert json.loads(text)["tables"][0]["rows"][-1] == tables[0]["rows"][-1] | {
        "points": [
            {**point, "folder": point["folder"].removeprefix("small/")} for point in tables[0]["rows"][-1]["points"]
        ]
    }


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("em", (20, 4, 6)),
        ("gm", (4, 2, 2)),  # volumes of 3, 1 and 2 subjects
        ("lgg", (5, 2, 3)),
        ("nih", (40, 9, 12)),
        ("ultrasound", (41, 10, 40)),
    ],
)
def test_the_data_sets_split_as_their_files_say(name: str, counts: tuple[int, int, int]) -> None:
    config = load_on(CONFIGS / "baselines" / "float32.yaml", CONFIGS / "data" / f"{name}.yaml").data
    assert config.path is not None
    config = config.model_copy(update={"path": real_data(config.path.name)})
    dataset = read_dataset(config)
    split = split_cases(dataset, config.split)
    check_no_leak(dataset, split)
    assert (len(split.train), len(split.validation), len(split.test)) == counts
    assert not [line for line in dataset.problems if "cuts off" in line]
