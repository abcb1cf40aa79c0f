"""Several processes by gloo: the gradients are those of one process with the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from small_runs import subprocess_environment

SCRIPT = Path(__file__).parent / "gradients_of_a_batch.py"


def gradients(processes: int, file: Path) -> dict[str, torch.Tensor]:
    done = subprocess.run(
        [sys.executable, SCRIPT, str(processes), file],
        capture_output=True,
        text=True,
        check=False,
        env=subprocess_environment(),
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(file, weights_only=True)


def test_two_processes_have_the_gradients_of_one_with_the_doubled_batch(tmp_path: Path) -> None:
    one, two = (gradients(processes, tmp_path / f"{processes}.pt") for processes in (1, 2))
    assert one.keys() == two.keys()
    seen = 0
    for name, gradient in one.items():
        assert gradient is not None, name
        scale = gradient.abs().max().clamp_min(1e-8)
        assert torch.allclose(gradient / scale, two[name] / scale, atol=2e-5), name
        seen += int(bool(gradient.any()))
    assert seen > 0.9 * len(one), "weights, biases, widths and ranges"
