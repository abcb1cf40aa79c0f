"""A model file is all that is needed to use a model: no torch, no training library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from small_runs import finished_run, subprocess_environment

from quantunet.backends.c.runner import has_compiler

BLOCKED = ("torch", "torchvision", "lightning_fabric", "lightning", "brevitas", "monai", "sklearn", "tensorboard")

SCRIPT = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
        return None

sys.meta_path.insert(0, Blocked())
from quantunet.cli import main

for line in sys.stdin.read().splitlines():
    try:
        main(line.split("|"))
    except SystemExit as stop:
        print("status", line.split("|")[0], stop.code, flush=True)
assert not set({BLOCKED}) & set(sys.modules)
"""


def test_commands_on_a_model_file_need_no_torch(tmp_path: Path) -> None:
    folder = finished_run()
    model = tmp_path / "model.safetensors"
    model.write_bytes((folder / "run" / "model.safetensors").read_bytes())
    picture = next((folder / "data" / "images").iterdir())
    commands = [
        ["eval", model, "--data", folder / "data"],
        ["cost", model],
        ["export", model, "--to", "c", "--out", tmp_path / "c"],
        ["export", model, "--to", "onnx", "--out", tmp_path / "onnx"],
        ["verify", model, "--to", "qonnx", "--set", "passes=no", "--images", "1"],
        ["predict", model, picture, "--out", tmp_path / "masks"],
        ["data", folder / "data", "--picture", tmp_path / "examples.png"],
        ["eval", folder / "run"],
    ]
    if has_compiler():
        commands.append(["verify", model, "--images", "1"])
    lines = "\n".join("|".join(map(str, arguments)) for arguments in commands)
    train = f"train|{folder / 'small.yaml'}|--out|{tmp_path / 'run'}"
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=f"{lines}\n{train}",
        capture_output=True,
        text=True,
        check=False,
        env=subprocess_environment(),
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    statuses = [line for line in result.stdout.splitlines() if line.startswith("status")]
    assert statuses == [f"status {arguments[0]} 0" for arguments in commands] + ["status train 2"]
    errors = [line for line in result.stderr.splitlines() if not line.startswith("no images at hand")]
    assert errors == ["error: training needs torch: pip install 'quantunet[train]'"]
    assert len(list((tmp_path / "masks").iterdir())) == 1
