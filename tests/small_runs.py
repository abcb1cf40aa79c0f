"""Tiny trainings for tests: a small phantom in a folder, a few steps, the command line in process."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from quantunet.data.phantom import write_phantom

CASE_PATTERN = "(phantom_[0-9]+)"

SETTINGS: dict[str, Any] = {
    "network": {"base_channels": 2, "levels": 2},
    "budget": "4bit",
    "training": {
        "batch_size": 2,
        "crop_px": 32,
        "validate_every": 5,
        "checkpoint_every": 4,
        "float_phase": {"steps": 12, "learning_rate": 1.0e-2},
        "qat": {"steps": 14, "learning_rate": 5.0e-3},
        "finetune": {"steps": 8},
    },
    "accelerator": "cpu",
}
"""One or two seconds of training."""


def write_small_data(folder: Path, cases: int = 7, slices: int = 1, size: int = 40) -> Path:
    """Images and masks of the phantom, a few small ones."""
    return write_phantom(folder, cases=cases, slices=slices, size=size)


def write_settings(path: Path, folder: Path, /, **changes: Any) -> Path:
    """A configuration file of ``SETTINGS``, with top-level keys replaced by ``changes``."""
    content = {"name": "small", "data": {"path": str(folder), "case_pattern": CASE_PATTERN}, **SETTINGS, **changes}
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return path


def command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of ``quantunet ARGUMENTS``, run in this process."""
    from quantunet.cli import main

    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    code = stop.value.code
    return (code if isinstance(code, int) else 0 if code is None else 1), out, err


def one_line_error(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The message of a user's mistake: status 2, exactly one line on stderr, nothing like a traceback."""
    status, _, err = command(capsys, *arguments)
    assert status == 2, (status, err)
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err
    assert err.endswith("\n"), err
    assert "Traceback" not in err
    return err


def subprocess_environment() -> dict[str, str]:
    """One thread, so that sums are added in the same order in every process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "120"}


def run_command(*arguments: str | Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """``quantunet ARGUMENTS`` in a process of its own."""
    script = Path(sys.executable).parent / "quantunet"
    return subprocess.run(
        [script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        env=subprocess_environment(),
    )


def skip_what_changes_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report and no C compiler: they take most of a small run's time, and have tests of their own."""
    from quantunet import integer_model, pipeline

    monkeypatch.setattr(pipeline, "write_report", lambda folder: None)
    monkeypatch.setattr(pipeline, "has_compiler", lambda: False)
    monkeypatch.setattr(integer_model, "has_compiler", lambda: False)


def finished_run() -> Path:
    """A folder that holds data/, small.yaml and run/, a whole run of the command line with report and C; made once."""
    folder, result = _run_once()
    assert result.returncode == 0, result.stderr[-2000:]
    return folder


@cache
def _run_once() -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = Path(tempfile.mkdtemp(prefix="quantunet-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    config = write_settings(folder / "small.yaml", write_small_data(folder / "data"))
    result = run_command("train", config, "--out", folder / "run", "--json")
    (folder / "stdout").write_text(result.stdout, encoding="utf-8")
    (folder / "stderr").write_text(result.stderr, encoding="utf-8")
    return folder, result
