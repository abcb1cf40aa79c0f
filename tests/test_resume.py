"""Killed at random moments and resumed: the same weights, metrics and model file, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SETTINGS, subprocess_environment, write_settings, write_small_data

SCRIPT = Path(__file__).parent / "kill_and_resume.py"
STEPS = 12 + 14 + 8


def settings(**training: Any) -> dict[str, Any]:
    """Every step validates, and no phase stops early, so that all steps are there to be compared."""
    phases = {name: {**SETTINGS["training"][name], "patience": None} for name in ("float_phase", "finetune")}
    return {**SETTINGS["training"], **phases, "validate_every": 1, **training}


def same_tensors(a: Any, b: Any) -> bool:
    """Whether two states are equal bit for bit."""
    return a.keys() == b.keys() and all(
        x.dtype == b[name].dtype and x.shape == b[name].shape and x.numpy().tobytes() == b[name].numpy().tobytes()
        for name, x in a.items()
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in record.items() if key != "time_s"} for record in records]


@pytest.mark.parametrize(
    ("quantizer", "budget", "qat_steps", "kills"),
    [
        ({"name": "learned"}, "2KiB", 14, 9),
        ({"name": "learned", "weight": {"bit_width": 1, "min_bit_width": 0}}, "0.4bit macs=90k", 44, 5),
        ({"name": "brevitas"}, "4bit", 14, 4),
    ],
    ids=["learned", "vanishing", "brevitas"],
)
def test_killed_and_resumed_runs_end_bit_equal(
    quantizer: dict[str, Any],
    budget: str,
    qat_steps: int,
    kills: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_small_data(tmp_path / "data")
    qat = {**SETTINGS["training"]["qat"], "steps": qat_steps}
    config = write_settings(
        tmp_path / "small.yaml", data, quantizer=quantizer, budget=budget, training=settings(qat=qat)
    )
    steps = STEPS - SETTINGS["training"]["qat"]["steps"] + qat_steps
    result = subprocess.run(
        [sys.executable, SCRIPT, config, tmp_path, str(steps), str(kills), "5"],
        capture_output=True,
        text=True,
        check=False,
        env=subprocess_environment(),
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    struck = json.loads(result.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\n{quantizer['name']}: killed at {', '.join(struck)}")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for name in ("float.pt", "qat.pt", "final.pt"):
        states = [torch.load(folder / "checkpoints" / name, weights_only=True) for folder in (whole, killed)]
        assert same_tensors(*states), name
    assert metrics(whole) == metrics(killed)
    assert len(metrics(whole)) == steps
    assert (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    channels = len(torch.load(whole / "checkpoints" / "qat.pt", weights_only=True)["decoders.0.conv1.conv.weight"])
    assert channels < 2 if "weight" in quantizer else channels == 2, "removed before the freezing"
    assert len(struck) >= kills - 1
    assert {place.split(":")[0] for place in struck} == {"float", "qat", "finetune"}
    assert not [path.name for path in killed.rglob(".*") if path.name != ".lock"], "no temporary file is left behind"
