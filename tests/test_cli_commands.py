"""Every command on a finished run, from its folder and from the model file alone; --json prints one object."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_runs import command, finished_run, one_line_error

from quantunet.backends.c.runner import has_compiler

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler")
BOTH = pytest.mark.parametrize("source", ["run", "run/model.safetensors"])


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    """The one JSON object on standard output."""
    status, out, err = command(capsys, *arguments, "--json")
    assert status == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


def summary() -> Any:
    return json.loads((finished_run() / "run" / "summary.json").read_text(encoding="utf-8"))


def test_train_prints_the_summary() -> None:
    printed = json.loads((finished_run() / "stdout").read_text(encoding="utf-8"))
    assert printed == summary()
    progress = (finished_run() / "stderr").read_text(encoding="utf-8")
    assert [phase for phase in ("float", "qat", "finetune") if phase in progress] == ["float", "qat", "finetune"]
    assert "run folder" in progress


def test_eval_of_a_run_repeats_its_test_figures(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "eval", finished_run() / "run")
    assert found["integer"]["dice"] == summary()["quantized"]["dice"]
    assert found["integer"]["mean"]["hd95"]["mean"] == summary()["quantized"]["hd95"]
    assert found["trivial"]["dice"] == summary()["trivial"]["dice"]


@BOTH
def test_eval_on_other_data(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished_run()
    found = as_json(capsys, "eval", folder / source, "--data", folder / "data")
    assert len(found["integer"]["cases"]) == 7
    status, out, _ = command(capsys, "eval", folder / source, "--data", folder / "data")
    assert status == 0
    assert "all background" in out


@BOTH
def test_cost_adds_up(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "cost", finished_run() / source)
    assert found["totals"]["macs"] == sum(row["macs"] for row in found["layers"]) == summary()["cost"]["macs"]
    assert found["totals"]["packed_weight_bytes"] == sum(row["packed_bytes"] for row in found["layers"])
    assert found["model_file_bytes"] == (finished_run() / "run" / "model.safetensors").stat().st_size
    larger = as_json(capsys, "cost", finished_run() / source, "--size", "80x40")
    assert larger["totals"]["macs"] == 2 * found["totals"]["macs"]
    status, out, _ = command(capsys, "cost", finished_run() / source)
    assert status == 0
    assert all(row["name"] in out for row in found["layers"])
    assert f"{found['model_file_bytes']:,} bytes" in out


@needs_compiler
@BOTH
def test_verify_counts_codes(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "verify", finished_run() / source, "--images", "2")
    assert found["backends"]["c"]["differing"] == 0
    assert found["backends"]["c"]["compared"] > 10_000


@needs_compiler
@BOTH
def test_the_exported_project_passes_its_own_test(
    source: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = as_json(capsys, "export", finished_run() / source, "--to", "c", "--out", tmp_path / "c")
    assert {"model.c", "model.h", "Makefile"} <= set(found["files"])
    done = subprocess.run(["make", "-C", tmp_path / "c", "test"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@BOTH
@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("onnx", []),
        ("onnx", ["--set", "opset=25"]),
        ("qonnx", ["--set", "widths=layer"]),
        ("qonnx", ["--set", "dialect=finn"]),
    ],
)
def test_onnx_exports_pass_their_own_test(
    source: str, target: str, options: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = as_json(
        capsys, "export", finished_run() / source, "--to", target, "--out", tmp_path / "m", *options, "--size", "32x48"
    )
    assert found["files"] == ["README.md", "model.onnx", "recorded.npz", "test_model.py"]
    done = subprocess.run([sys.executable, tmp_path / "m" / "test_model.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    images = 1 if source == "run" else 2  # the run has one test image, the file alone takes random codes
    assert f"{images} images, {images * 32 * 48} pixels compared, 0 differing" in done.stdout


def test_verify_with_onnx_and_qonnx(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "verify", finished_run() / "run", "--to", "onnx")["backends"]["onnx"]
    assert (found["differing"], found["images"]) == (0, 1)
    assert found["default_level_pixels"] > 0
    status, out, _ = command(
        capsys, "verify", finished_run() / "run", "--to", "qonnx", "--size", "8x8", "--images", "1"
    )
    assert status == 0
    assert "0 differ" in out
    assert "after channels-last" in out


@pytest.mark.parametrize("target", ["onnx", "qonnx"])
def test_an_absent_package_is_named_with_its_extra(
    target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in [name for name in sys.modules if name.startswith("quantunet.backends.onnx.project")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "quantunet.backends.onnx.model", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    message = one_line_error(
        capsys, "export", finished_run() / "run", "--to", target, "--out", tmp_path / "m", "--size", "32x32"
    )
    assert "pip install 'quantunet[onnx]'" in message
    assert not (tmp_path / "m").exists()


@BOTH
def test_predict_keeps_format_and_geometry(source: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = finished_run()
    picture = folder / "data" / "images" / "phantom_003_slice_00.png"
    pixels = np.asarray(Image.open(picture))
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([pixels[:37, :33], pixels[3:, 7:][:37, :33]]))
    found = as_json(capsys, "predict", folder / source, picture, tmp_path / "stack.tif", "--out", tmp_path / "masks")
    masks = [Path(row["mask"]) for row in found["masks"]]
    assert [path.suffix for path in masks] == [".png", ".tif"]
    assert np.asarray(Image.open(masks[0])).shape == (40, 40)
    assert tifffile.imread(masks[1]).shape == (2, 37, 33), "any size: padding is undone"
    assert set(np.unique(np.asarray(Image.open(masks[0])))) <= {0, 255}, "the values of the masks it learned from"


def test_run_folder_and_model_file_predict_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = finished_run()
    pictures = sorted((folder / "data" / "images").iterdir())
    written = []
    for index, source in enumerate(("run", "run/model.safetensors")):
        found = as_json(capsys, "predict", folder / source, *pictures, "--out", tmp_path / str(index))
        written.append([Path(row["mask"]).read_bytes() for row in found["masks"]])
    assert written[0] == written[1]
    assert len(written[0]) == 7


def test_data_describes_what_is_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = finished_run() / "data"
    found = as_json(capsys, "data", data, "--picture", tmp_path / "examples.png")
    assert found["problems"] == []
    assert (tmp_path / "examples.png").stat().st_size > 1000
    status, out, _ = command(capsys, "data", data, "--picture", tmp_path / "examples.png")
    assert status == 0
    assert "no problems found" in out
