"""The run folder: whole files, one writer, what survives."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

from quantunet.errors import UserError
from quantunet.train.run_dir import RESUME_FILE, RunDir


def test_tensors_and_values_come_back(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", resume=False)
    state = {"phase": "qat", "step": 3, "network": {"a": torch.randn(2, 3)}, "best": {"dice": 0.5, "state": None}}
    run.save_tensors(RESUME_FILE, state)
    loaded = run.load_tensors(RESUME_FILE)
    assert loaded is not None
    assert torch.equal(loaded["network"].pop("a"), state["network"].pop("a"))
    assert loaded == state
    assert run.load_tensors("checkpoints/other.pt") is None
    run.close()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path, resume=False)
    run.save_tensors(RESUME_FILE, {"a": torch.zeros(100)})
    path = tmp_path / RESUME_FILE
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"resume\.pt: is damaged"):
        run.load_tensors(RESUME_FILE)
    run.close()


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "pwned"),)

    run = RunDir(tmp_path / "run", resume=False)
    (tmp_path / "run" / "checkpoints").mkdir()
    torch.save({"phase": Payload()}, tmp_path / "run" / RESUME_FILE)
    with pytest.raises(UserError, match="is damaged"):
        run.load_tensors(RESUME_FILE)
    assert not (tmp_path / "pwned").exists()
    run.close()


def test_two_writers_in_one_folder(tmp_path: Path) -> None:
    first = RunDir(tmp_path, resume=False)
    with pytest.raises(UserError, match="another process is training in it"):
        RunDir(tmp_path, resume=True)
    first.close()
    RunDir(tmp_path, resume=True).close()


def test_a_folder_with_a_run_in_it_is_left_alone(tmp_path: Path) -> None:
    run = RunDir(tmp_path, resume=False)
    run.write_text("config.yaml", "a: 1\n")
    run.close()
    with pytest.raises(UserError, match="holds a run already: continue it with --resume"):
        RunDir(tmp_path, resume=False)
    RunDir(tmp_path, resume=True).close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        RunDir(tmp_path / "file" / "run", resume=False)


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in (".partial-123-summary.json", "checkpoints/.partial-77-resume.pt"):
        (tmp_path / name).write_bytes(b"half")
    RunDir(tmp_path, resume=True).close()
    assert not list(tmp_path.rglob(".partial-*"))


def test_json_holds_no_nan(tmp_path: Path) -> None:
    run = RunDir(tmp_path, resume=False)
    run.write_json("summary.json", {"a": [1.5, math.nan, {"b": math.inf}], "c": "ü"})
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == {
        "a": [1.5, None, {"b": None}],
        "c": "ü",
    }
    run.close()


def test_metrics_written_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    run = RunDir(tmp_path, resume=False)
    run.forget_metrics_after(0)
    for step in range(5):
        run.log({"phase": "float", "step": step, "loss": math.nan if step == 1 else 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "float", "st')  # cut short by the kill
    run.forget_metrics_after(3)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert lines[1]["loss"] is None
    run.close()
