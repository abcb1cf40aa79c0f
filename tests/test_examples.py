"""The examples run as they stand, and say what they should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from small_runs import finished_run, subprocess_environment

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str | Path) -> str:
    result = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=subprocess_environment(),
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_example_has_a_test() -> None:
    names = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert names == ["predict_in_python.py", "quantize_in_python.py"]


def test_quantize_in_python() -> None:
    assert re.search(r"^0 of [\d,]{7} codes differ", run("quantize_in_python.py"), re.MULTILINE)


def test_predict_in_python() -> None:
    assert "foreground" in run("predict_in_python.py", finished_run() / "run")
    image = next((finished_run() / "data" / "images").iterdir())
    assert f"{image.stem}: 40x40 pixels" in run("predict_in_python.py", finished_run() / "run", image)
