"""The main job, end to end, on a tiny phantom: every file, every figure, every quantizer."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import (
    SETTINGS,
    command,
    finished_run,
    one_line_error,
    run_command,
    skip_what_changes_no_weight,
    write_settings,
    write_small_data,
)

from quantunet.integer_model import IntegerModel
from quantunet.train.config_file import load_config
from quantunet.train.run_dir import RunDir

FILES = (
    "config.yaml",
    "environment.json",
    "split.json",
    "metrics.jsonl",
    "model.safetensors",
    "report.html",
    "summary.json",
    "evaluation.json",
    "checkpoints/float.pt",
    "checkpoints/qat.pt",
    "checkpoints/final.pt",
    "checkpoints/resume.pt",
)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def settings(**training: Any) -> dict[str, Any]:
    return {**SETTINGS["training"], **training}


def test_the_run_folder_holds_everything() -> None:
    run = finished_run() / "run"
    assert [name for name in FILES if not (run / name).is_file()] == []
    for name in ("float.pt", "qat.pt", "final.pt", "resume.pt"):
        torch.load(run / "checkpoints" / name, weights_only=True)
    assert load_config(run / "config.yaml") == load_config(finished_run() / "small.yaml")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["phase"] for line in lines] == sorted((line["phase"] for line in lines), key="float qat finetune".find)
    assert all(a["step"] < b["step"] for a, b in pairwise(lines))
    environment = read(run / "environment.json")
    assert environment["packages"]["torch"]
    assert len(environment["data"]) > 0
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")


def test_the_summary_has_the_documented_schema() -> None:
    run = finished_run() / "run"
    summary = read(run / "summary.json")
    assert set(summary["data"]) >= {"name", "cases", "foreground_fraction"}
    assert set(summary["data"]["cases"]) == {"train", "val", "test"}
    metrics = {"dice", "dice_ci95", "iou", "hd95", "pixel_accuracy"}
    assert set(summary["float"]) >= metrics
    assert set(summary["quantized"]) >= {*metrics, "differing_pixels", "pixels"}
    assert set(summary["trivial"]) >= {"pixel_accuracy"}
    bits = summary["bit_width"]
    assert set(bits) >= {"weights_by_layer", "weights_by_parameter", "activations", "layers"}
    assert len(bits["layers"]) == 7
    for row in bits["layers"]:
        assert set(row) >= {"name", "weight", "activation", "parameters", "macs", "packed_bytes"}
    assert set(summary["cost"]) >= {"macs", "bops", "peak_activation_bytes"}
    assert set(summary["time_s"]) >= {"float", "qat", "total"}


def test_stated_sizes_are_lengths_of_real_files() -> None:
    run = finished_run() / "run"
    size = read(run / "summary.json")["size"]
    assert size["model_file_bytes"] == (run / "model.safetensors").stat().st_size
    assert size["payload_bytes"] + size["header_bytes"] == size["model_file_bytes"]
    float_state = torch.load(run / "checkpoints" / "float.pt", weights_only=True)
    parameters = sum(t.numel() for name, t in float_state.items() if "running" not in name and "batches" not in name)
    assert size["float32_bytes"] == 4 * parameters
    assert size["ratio"] == size["float32_bytes"] / size["model_file_bytes"]


def test_the_proof_finds_no_differing_code() -> None:
    summary = read(finished_run() / "run" / "summary.json")
    backends = summary["proof"]["backends"]
    assert "fake_quantized" in backends
    for name, counts in backends.items():
        assert counts["differing"] == 0, name
        assert counts["compared"] > 10_000, name
    assert summary["quantized"]["differing_pixels"] == 0
    assert summary["fake_quantized"]["dice"] == summary["quantized"]["dice"]
    assert all(row["bit_width"] <= 32 for row in summary["proof"]["accumulators"])


def test_test_cases_take_no_part_in_training() -> None:
    split = read(finished_run() / "run" / "split.json")
    parts = [set(split[name]) for name in ("train", "validation", "test")]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert sum(map(len, parts)) == 7


def train_quietly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, config: Path, out: Path, *more: str
) -> dict[str, Any]:
    skip_what_changes_no_weight(monkeypatch)
    status, stdout, stderr = command(capsys, "train", config, "--out", out, "--json", *more)
    assert status == 0, stderr
    assert "Traceback" not in stderr
    return json.loads(stdout)


@pytest.mark.parametrize("quantizer", ["learned", "uniform", "brevitas", "float"])
def test_every_quantizer_trains(
    quantizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_small_data(tmp_path / "data")
    weight = {"weight": {"bit_width": 3}} if quantizer == "uniform" else {}
    config = write_settings(tmp_path / "c.yaml", data, quantizer={"name": quantizer, **weight}, budget="3bit")
    summary = train_quietly(capsys, monkeypatch, config, tmp_path / "run")
    if quantizer == "float":
        assert "quantized" not in summary
        assert not (tmp_path / "run" / "model.safetensors").exists()
        assert "holds no model.safetensors" in one_line_error(capsys, "cost", tmp_path / "run")
        return
    assert summary["proof"]["backends"]["fake_quantized"]["differing"] == 0 or quantizer == "brevitas"
    bits = summary["bit_width"]["weights_by_parameter"]
    if quantizer == "uniform":
        assert bits == 3
    else:
        assert bits <= 3 * 1.03


@pytest.mark.parametrize(("budget", "unit"), [("2.4KiB", 2.4 * 1024), ("2.5bit", 2.5), ("5bit", 5.0)])
def test_budgets_are_met_within_three_per_cent(
    budget: str, unit: float, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_small_data(tmp_path / "data")
    network = {"base_channels": 4, "levels": 2}
    plan = settings(qat={"steps": 200, "learning_rate": 5.0e-3}, float_phase={"steps": 4}, finetune={"steps": 2})
    config = write_settings(tmp_path / "c.yaml", data, network=network, budget=budget, training=plan)
    summary = train_quietly(capsys, monkeypatch, config, tmp_path / "run")
    reached = summary["size"]["model_file_bytes"] if unit > 8 else summary["bit_width"]["weights_by_parameter"]
    with capsys.disabled():
        print(f"\nbudget {budget}: reached {reached:.4g} of {unit:.4g} ({100 * (reached / unit - 1):+.1f} %)")
    assert 0.97 <= reached / unit <= 1.03


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_settings(tmp_path / "c.yaml", write_small_data(tmp_path / "data"))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_quietly(capsys, monkeypatch, config, tmp_path / name, "--set", f"seed={seed}")
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert models[0] == models[1] != models[2]
    states = [torch.load(tmp_path / name / "checkpoints" / "final.pt", weights_only=True) for name in "ab"]
    for name, tensor in states[0].items():
        assert tensor.numpy().tobytes() == states[1][name].numpy().tobytes(), name


def test_three_classes_and_colour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for index in range(7):
        mask = np.zeros((36, 44), np.uint8)
        mask[4:16, 4 + index : 20] = 80
        mask[20:34, 20:40] = 160
        image = rng.integers(0, 60, (36, 44, 3)) + mask[..., None] * np.array([1, 0, 0.5])
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(tmp_path / "data" / "images" / f"p{index}.png")
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"p{index}.png")
    config = write_settings(
        tmp_path / "c.yaml",
        tmp_path / "data",
        data={"path": str(tmp_path / "data"), "classes": {"organ": [80], "tumour": [160]}},
        bit_loss={"weighting": "macs"},
        network={"base_channels": 3, "levels": 3, "upsampling": "transposed"},
    )
    summary = train_quietly(capsys, monkeypatch, config, tmp_path / "run")
    assert summary["data"]["class_names"] == ["background", "organ", "tumour"]
    assert summary["proof"]["backends"]["fake_quantized"]["differing"] == 0
    model = IntegerModel.load(tmp_path / "run")
    assert model.graph.input.channels == 3
    assert model.graph.weight_nodes()[-1].weight.shape[0] == 3
    status, _, _ = command(
        capsys, "predict", tmp_path / "run", tmp_path / "data/images/p3.png", "--out", tmp_path / "masks"
    )
    assert status == 0
    (written,) = (tmp_path / "masks").iterdir()
    assert set(np.unique(np.asarray(Image.open(written)))) <= {0, 80, 160}, "the mask files' own values"


@pytest.mark.parametrize(
    "changes",
    [
        {"bit_loss": {"fixed_weight": 0.25, "weighting": "layers"}, "budget": None},
        {"precision": "bf16-mixed"},
        {"quantizer": {"name": "learned", "per": "layer"}, "network": {"base_channels": 2, "upsampling": "bilinear"}},
        {"training": settings(float_phase={"steps": 40, "patience": 1}, finetune={"steps": 0})},
    ],
    ids=["fixed-lambda", "bf16", "by-layer-bilinear", "early-stop"],
)
def test_other_ways_to_train(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_settings(tmp_path / "c.yaml", write_small_data(tmp_path / "data"), **changes)
    summary = train_quietly(capsys, monkeypatch, config, tmp_path / "run")
    assert summary["proof"]["backends"]["fake_quantized"]["differing"] == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    if "bit_loss" in changes:
        assert {line["bit_loss_weight"] for line in lines if line["phase"] == "qat"} == {0.25}
    if "training" in changes:
        assert max(line["step"] for line in lines if line["phase"] == "float") < 39


def test_two_runs_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_settings(tmp_path / "c.yaml", write_small_data(tmp_path / "data"))
    busy = RunDir(tmp_path / "run", resume=False)
    assert "another process is training in it" in one_line_error(capsys, "train", config, "--out", tmp_path / "run")
    busy.close()
    folder = finished_run() / "run"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    message = one_line_error(capsys, "train", finished_run() / "small.yaml", "--out", folder)
    assert "holds a run already: continue it with --resume" in message
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


def test_two_processes_by_the_same_command(tmp_path: Path) -> None:
    data = write_small_data(tmp_path / "data")
    config = write_settings(
        tmp_path / "c.yaml", data, training=settings(float_phase={"steps": 6}, qat={"steps": 6}, finetune={"steps": 4})
    )
    result = run_command("train", config, "--out", tmp_path / "run", "--json", "--set", "devices=2")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "Warning" not in result.stderr
    summary = json.loads(result.stdout)  # one object: the second process prints nothing
    assert summary["proof"]["backends"]["fake_quantized"]["differing"] == 0
    assert [name for name in FILES if not (tmp_path / "run" / name).is_file()] == []
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps)), "one process writes"
