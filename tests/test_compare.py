"""A comparison of tiny runs: skip, share, resume, refuse, and a table whose numbers are the summaries'."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from small_runs import (
    SETTINGS,
    command,
    one_line_error,
    skip_what_changes_no_weight,
    subprocess_environment,
    write_settings,
    write_small_data,
)

from quantunet.compare import job as job_module
from quantunet.compare import schedule
from quantunet.compare.plan import Systems, build_plan, float_config, float_key
from quantunet.train.config_file import load_config, to_yaml

UNIFORM = {"name": "uniform", "weight": {"bit_width": 5}}
SHORT = {
    **SETTINGS["training"],
    "validate_every": 30,
    "checkpoint_every": 50,
    "float_phase": {"steps": 150, "learning_rate": 1.0e-2},
    "qat": {"steps": 40, "learning_rate": 2.0e-3},
    "finetune": {"steps": 20},
}
"""Enough for a Dice above 0."""
NETWORK = {"base_channels": 4, "levels": 3}


class _Ended:
    """Stands for a process that has run to its end already."""

    pid = 0

    def __init__(self, status: int) -> None:
        self.returncode = status

    def poll(self) -> int:
        return self.returncode

    def terminate(self) -> None:
        pass

    def wait(self) -> None:
        pass


def spawn_here(arguments: Sequence[str], environment: Mapping[str, str]) -> Any:
    """The job in this process: the same code, without the seconds that importing torch takes."""
    log = (Path(arguments[0]) / schedule.LOG_FILE).open("a")
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        return _Ended(job_module.main(list(arguments)))


@pytest.fixture(scope="module")
def in_process() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        skip_what_changes_no_weight(patch)
        patch.setattr(schedule, "spawn", spawn_here)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as ``train`` below, which must give the same bytes; and no faster with more
        yield patch
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("limit", "at_once", "threads"), [("", 2, "4"), ("3", 2, "3"), ("6", 2, "4"), ("1", 9, "1")])
def test_a_job_has_its_share_of_the_threads_and_one_variable_limits_all_libraries(
    limit: str, at_once: int, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_cores", lambda: 8)
    for name in schedule.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if limit:
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
    environment = schedule.job_environment(at_once)
    assert {environment[name] for name in schedule.THREAD_VARIABLES} == {threads}
    assert environment["PATH"] == os.environ["PATH"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, in_process: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two configurations x two seeds, and a float one; the names of the runs that trained a float network."""
    folder = tmp_path_factory.mktemp("compare")
    data = write_small_data(folder / "data", cases=9)
    split = {"path": str(data), "case_pattern": "(phantom_[0-9]+)", "split": {"test": 0.4}}
    configs = [
        write_settings(
            folder / "learned.yaml", data, name="learned", data=split, training=SHORT, network=NETWORK, budget="6bit"
        ),
        write_settings(
            folder / "uniform.yaml",
            data,
            name="uniform",
            data=split,
            training=SHORT,
            network=NETWORK,
            quantizer=UNIFORM,
        ),
    ]
    trained: list[Path] = []
    genuine = job_module.run_training

    def counting(config: Any, out: Path, **options: Any) -> Any:
        trained.append(out)
        return genuine(config, out, **options)

    in_process.setattr(job_module, "run_training", counting)
    lines: list[str] = []
    from quantunet.compare.run import compare

    systems = Systems(tuple(load_config(path) for path in configs), seeds=2)
    result = compare([systems], folder / "out", at_once=1, say=lines.append)
    return {"folder": folder, "configs": configs, "result": result, "trained": trained, "lines": lines}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_run_is_there_and_each_float_network_was_trained_once(compared: dict[str, Any]) -> None:
    out = compared["folder"] / "out"
    runs = [out / name / f"seed_{seed}" for name in ("learned", "uniform") for seed in (0, 1)]
    floats = sorted((out / "float").glob("[0-9a-f]*"))
    assert len(floats) == 2
    assert sorted(compared["trained"]) == sorted([*runs, *floats])
    assert compared["result"].failed == {}
    for run in runs:
        summary = read(run / "summary.json")
        assert load_config(run / "config.yaml").seed == int(run.name[-1])
        assert summary["time_s"]["float_shared"] is True
        source = out / "float" / read(run / "checkpoints" / "float_from.json")["float_run"]
        assert summary["time_s"]["float"] == read(source / "summary.json")["time_s"]["float"]
        assert summary["time_s"]["total"] > summary["time_s"]["qat"]
        assert (run / "checkpoints" / "float.pt").read_bytes() == (source / "checkpoints" / "float.pt").read_bytes()
        phases = [json.loads(line)["phase"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert list(dict.fromkeys(phases)) == ["float", "qat", "finetune"], "the report shows the whole course"


def test_a_shared_float_network_changes_nothing(
    compared: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = command(capsys, "train", compared["configs"][0], "--out", tmp_path / "alone", "--set", "seed=1")
    assert status == 0, err
    models = [
        folder / "model.safetensors" for folder in (tmp_path / "alone", compared["folder"] / "out/learned/seed_1")
    ]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_the_table_has_the_values_of_the_summaries(compared: dict[str, Any]) -> None:
    out = compared["folder"] / "out"
    with (out / "compare.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["system"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["all background", "float32", "learned", "uniform"]
    for name in ("learned", "uniform"):
        summaries = [read(out / name / f"seed_{seed}" / "summary.json") for seed in (0, 1)]
        row = rows[name]
        assert float(row["dice"]) == np.mean([s["quantized"]["dice"] for s in summaries])
        assert float(row["hd95"]) == np.mean([s["quantized"]["hd95"] for s in summaries])
        assert float(row["file_bytes"]) == np.mean([s["size"]["model_file_bytes"] for s in summaries])
        assert float(row["bops"]) == np.mean([s["cost"]["bops"] for s in summaries])
        assert row["seeds"] == "0 1"
        assert row["dice_interval"] == "t over seeds"
        assert float(row["dice_low"]) <= float(row["dice"]) <= float(row["dice_high"])
        differences: dict[str, list[float]] = {}
        for seed in (0, 1):
            evaluation = read(out / name / f"seed_{seed}" / "evaluation.json")
            for after, before in zip(evaluation["integer"]["cases"], evaluation["float"]["cases"], strict=True):
                dice = [case["classes"]["foreground"]["dice"] for case in (after, before)]
                differences.setdefault(after["case_id"], []).append(dice[0] - dice[1])
        assert float(row["change"]) == pytest.approx(np.mean([np.mean(d) for d in differences.values()]), abs=1e-15)
        assert int(row["change_cases"]) == len(differences) >= 3
        ratio = float(row["dice"]) / np.mean([s["float"]["dice"] for s in summaries])
        assert row["keeps_99"] == str(bool(ratio >= 0.99))
        other = rows["uniform" if name == "learned" else "learned"]
        smaller, better = (
            float(other["stored_bytes"]) <= float(row["stored_bytes"]),
            float(other["dice"]) >= float(row["dice"]),
        )
        assert row["dominated_by"] == (other["system"] if smaller and better else "")
    assert float(rows["uniform"]["weight_bits_by_parameter"]) == 5
    assert max(float(row["dice"]) for row in rows.values()) > 0.1, "a table of zeros would prove nothing"
    floats = [read(path) for path in (out / "float").glob("*/summary.json")]
    assert float(rows["float32"]["dice"]) == pytest.approx(np.mean([s["float"]["dice"] for s in floats]), abs=1e-15)
    assert float(rows["float32"]["stored_bytes"]) == floats[0]["size"]["float32_bytes"]
    assert float(rows["all background"]["pixel_accuracy"]) == floats[0]["trivial"]["pixel_accuracy"]


def test_every_form_of_the_table_is_written(compared: dict[str, Any]) -> None:
    out = compared["folder"] / "out"
    text = (out / "compare.md").read_text(encoding="utf-8")
    assert "| learned |" in text
    assert "t-interval" in text
    assert "(compare_data.png)" in text
    assert (out / "compare_data.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "compare_data.svg").read_text(encoding="utf-8")
    latex = (out / "compare.tex").read_text(encoding="utf-8")
    assert latex.count(r"\begin{tabular}") == 1
    assert not re.search(r"(?<!\\)_", latex.split("booktabs}", 1)[1]), "an underscore that LaTeX would take for itself"
    page = (out / "compare.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "default-src 'none'" in page
    assert 'href="learned/seed_0/report.html"' in page
    assert not re.search(r"(src|href)=\"(?!#|data:|learned/|uniform/|float/)", page), "an address outside the folder"
    assert [table["name"] for table in read(out / "compare.json")["tables"]] == ["data"]


def test_what_is_done_is_not_done_again(compared: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    trained = len(compared["trained"])
    status, out, err = command(
        capsys, "compare", *compared["configs"], "--seeds", "2", "--out", compared["folder"] / "out", "--json"
    )
    assert status == 0, err
    assert len(compared["trained"]) == trained
    content = json.loads(out)
    assert content["missing"] == []
    assert [row["name"] for row in content["tables"][0]["rows"]] == ["all background", "float32", "learned", "uniform"]


def test_missing_runs_are_listed(compared: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    trained = len(compared["trained"])
    status, out, err = command(
        capsys, "compare", *compared["configs"], "--seeds", "3", "--out", compared["folder"] / "out", "--only-table"
    )
    assert status == 0, err
    assert len(compared["trained"]) == trained
    assert "missing: learned seed 2: not started" in out
    assert "missing: uniform seed 2: not started" in out
    assert "learned [2 of 3" in out


def test_another_configuration_in_a_folder_is_refused(
    compared: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read(compared["configs"][0])
    content["training"] = {**content["training"], "qat": {"steps": 7}}
    changed = tmp_path / "changed.yaml"
    changed.write_text(json.dumps(content))
    message = one_line_error(capsys, "compare", changed, "--seeds", "2", "--out", compared["folder"] / "out")
    assert "holds a run of another configuration (training.qat.steps is 40 there, 7 here)" in message
    twice = [compared["configs"][0]] * 2
    assert "two configurations are named 'learned'" in one_line_error(capsys, "compare", *twice, "--out", tmp_path)


def test_a_failing_run_is_one_line_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], in_process: pytest.MonkeyPatch
) -> None:
    data = write_small_data(tmp_path / "data")
    good = write_settings(tmp_path / "good.yaml", data, training=SHORT, quantizer=UNIFORM, name="good")
    tight = write_settings(tmp_path / "tight.yaml", data, training=SHORT, budget="0.1KiB", name="tight")
    lost = write_settings(tmp_path / "lost.yaml", tmp_path / "nowhere", training=SHORT, name="lost")
    status, out, err = command(capsys, "compare", tight, lost, good, "--seeds", "1", "--out", tmp_path / "out")
    assert status == 1
    assert "Traceback" not in out + err
    flat = " ".join(out.split())
    assert re.search(r"tight seed 0: failed: .*budget", flat)
    assert re.search(r"lost seed 0: not tried: its float network of lost seed 0 failed", flat)
    assert "good seed 0: done" in flat
    assert "missing: tight seed 0 on data: failed" in flat
    content = read(tmp_path / "out" / "compare.json")
    assert [table["name"] for table in content["tables"]] == ["data", "nowhere"]
    assert content["tables"][0]["rows"][-1]["dice_interval"] in ("bootstrap over cases", None)  # one seed


def test_what_determines_the_float_network(tmp_path: Path) -> None:
    base = write_settings(tmp_path / "a.yaml", tmp_path, training=SHORT)
    key = float_key(load_config(base))
    for same in ({"quantizer.name": "uniform"}, {"budget": "2bit"}, {"training.qat.steps": 9}, {"name": "other"}):
        assert float_key(load_config(base, same)) == key, same
    for other in ({"seed": 1}, {"network.levels": 3}, {"loss.dice": 2.0}, {"training.float_phase.steps": 9},
                  {"training.crop_px": 48}, {"augmentation.noise": 0.0}, {"data.split": {"seed": 3}}):  # fmt: skip
        assert float_key(load_config(base, other)) != key, other
    config = float_config(load_config(base))
    assert config.quantizer.name == "float"
    both = (load_config(base), load_config(base, {"name": "b", "budget": "2bit"}))
    plan = build_plan([Systems(both, seeds=3)], tmp_path / "out")
    assert (len(plan.runs), len(plan.floats)) == (6, 3)
    assert [job.config.data.split.fold for job in plan.runs] == [0] * 6
    by_seed = load_config(base, {"data.split": {"fold": "seed"}})
    assert float_key(by_seed.with_seed(0)) == key, "fold 0 is the split without folds"
    plan = build_plan([Systems((by_seed,), seeds=3)], tmp_path / "out")
    assert [(job.seed, job.config.data.split.fold) for job in plan.runs] == [(0, 0), (1, 1), (2, 2)]


def test_killed_and_repeated(tmp_path: Path, in_process: pytest.MonkeyPatch) -> None:
    """The comparison is killed during a run: the run ends with it, and the next comparison goes on from there."""
    data = write_small_data(tmp_path / "data")
    long = {**SETTINGS["training"], "float_phase": {"steps": 2}, "qat": {"steps": 150}, "checkpoint_every": 10}
    config = write_settings(tmp_path / "c.yaml", data, name="slow", training=long, quantizer=UNIFORM)
    (float_job,) = build_plan([Systems((load_config(config),), seeds=1)], tmp_path / "out").floats
    float_job.folder.mkdir(parents=True)
    (float_job.folder / "config.yaml").write_text(to_yaml(float_job.config))
    job_module.ensure_float_network(float_job.folder, Console(quiet=True))
    arguments = [
        Path(sys.executable).parent / "quantunet",
        "compare",
        config,
        "--seeds",
        "1",
        "--out",
        tmp_path / "out",
    ]
    environment = {**subprocess_environment(), "CC": "no-such-compiler"}
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = tmp_path / "out" / "slow" / "seed_0"
    limit = time.monotonic() + 300  # on a busy machine the start alone takes a minute
    while not (run / "checkpoints" / "resume.pt").exists() or torch_phase(run) != ("qat", True):
        assert time.monotonic() < limit
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "summary.json").exists()
    time.sleep(2.5)  # the run notices within a second that its parent is gone
    result = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout + (run / "log.txt").read_text()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert (run / "log.txt").read_text().count("run folder") == 2
    assert (run / "report.html").exists()


def torch_phase(run: Path) -> tuple[str, bool]:
    """The phase of the run's last checkpoint, and whether it has made steps in it."""
    state = torch.load(run / "checkpoints" / "resume.pt", weights_only=True)
    return state["phase"], "step" in state
