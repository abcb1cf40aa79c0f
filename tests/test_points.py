"""One descent, several models: ``train --pareto`` and ``--keep``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SETTINGS, command, one_line_error, write_settings, write_small_data

from quantunet.compare.points import Points
from quantunet.errors import UserError
from quantunet.train.config_file import build_config

VANISHING = {"name": "learned", "weight": {"min_bit_width": 0}}
TRAINING = {**SETTINGS["training"], "qat": {"steps": 60, "learning_rate": 5.0e-3}}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    data = write_small_data(tmp_path / "data")
    return write_settings(tmp_path / "small.yaml", data, quantizer=VANISHING, training=TRAINING)


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def test_every_size_passed_becomes_a_proven_model(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    status, text, _ = command(capsys, "train", config, "--pareto", "4bit, 2bit 1bit", "--keep", "1%", "--out", out)
    assert status == 0
    folders = {4: out / "points" / "4bit", 2: out / "points" / "2bit", 1: out}
    for bits, folder in folders.items():
        summary = summary_of(folder)
        assert summary["budgets"][0]["budget"] == bits
        assert 0.97 * bits <= summary["budgets"][0]["reached"] <= bits
        assert all(proof["differing"] == 0 for proof in summary["proof"]["backends"].values())
        assert set(summary["validation_dice"]) == {"float", "quantized"}
        assert summary["float"] == summary_of(out)["float"], "one float network"
    points = [torch.load(out / "checkpoints" / f"at_{bits}bit.pt", weights_only=True) for bits in (4, 2)]
    assert points[0]["step"] < points[1]["step"], "larger sizes are passed first"
    for bits, folder in list(folders.items())[:2]:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [record for record in map(json.loads, lines) if record["phase"] == "qat"]
        assert records[-1]["step"] == SETTINGS["training"]["float_phase"]["steps"] + 59, "the last steps of QAT too"
        assert records[-1]["sizes"]["bits"] == pytest.approx(bits, rel=0.3), "at its own size"
    assert "smallest that keeps 1 % of the float network's validation Dice: 1bit" in " ".join(text.split())
    table = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    float_row = next(row for row in table["tables"][0]["rows"] if row["kind"] == "float")
    assert (float_row["ratio"], float_row["weight_bits_by_parameter"]) == (1.0, 32.0)
    assert [row["name"] for row in table["tables"][0]["rows"] if row["kind"] == "system"] == ["4bit", "2bit", "1bit"]

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    (folders[2] / "summary.json").unlink()  # as if it had been killed there
    status, _, _ = command(capsys, "train", "--resume", "--out", out)
    assert status == 0
    redone = {path for path in before if path.stat().st_mtime_ns != before[path]}
    assert redone == {folders[2] / "model.safetensors"}


def test_a_point_of_bit_operations_keeps_the_channels_of_its_own_size(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Channels go with bit operations, as many as the smaller budget takes; a point stops at its own limit."""
    out = tmp_path / "run"
    status, _, error = command(capsys, "train", config, "--pareto", "bops=20M bops=8M", "--out", out)
    assert status == 0, error
    point, last = summary_of(out / "points" / "bops20M"), summary_of(out)
    assert (point["budgets"][0]["budget"], last["budgets"][0]["budget"]) == (20e6, 8e6)
    assert last["budgets"][0]["reached"] <= 8e6 < point["budgets"][0]["reached"] <= 20e6
    assert point["bit_width"]["weights_left"] > last["bit_width"]["weights_left"]


def test_the_smallest_good_model_is_named_or_that_there_is_none() -> None:
    def model(ratio: float, dice: float) -> dict[str, Any]:
        return {"size": {"ratio": ratio}, "validation_dice": {"float": 0.8, "quantized": dice}}

    points = Points({"2bit": model(12, 0.81), "1bit": model(20, 0.7995), "small": model(30, 0.7)}, {}, [], {})
    assert points.smallest_that_keeps(1.0) == "2bit"
    assert points.smallest_that_keeps(0.999) == "1bit"
    assert points.smallest_that_keeps(0.8) == "small"
    assert Points({"small": model(30, 0.7)}, {}, [], {}).smallest_that_keeps(0.9) is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--pareto", "1bit 2bit"], "pareto must fall from size to size"),
        (["--pareto", "2bit 64KiB"], "sizes of one kind"),
        (["--pareto", "ram=2KiB ram=1KiB"], "bits, file, flash, bops or lut"),
        (["--pareto", "2bit", "--budget", "3bit"], "all lie above the budget"),
        (["--pareto", "2bit 1apple"], "neither a width"),
        (["--keep", "much"], "--keep 'much' is no share"),
        (["--keep", "120%"], "--keep '120%' is no share"),
        (["--pareto", "3bit 2bit", "--set", "devices=2"], "set devices to 1"),
        (["--pareto", ""], "name two falling sizes"),
    ],
)
def test_mistakes(
    arguments: list[str], named: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = one_line_error(capsys, "train", config, "--out", tmp_path / "run", *arguments)
    assert named in message
    assert not (tmp_path / "run").exists()


def test_points_are_read_from_the_configuration() -> None:
    config = build_config({"data": {"path": "x"}, "pareto": ["64KiB", "32KiB"], "budget": "16KiB"}, {})
    assert [str(point) for point in config.points] == ["64 KiB", "32 KiB"]
    with pytest.raises(UserError, match="all lie above the budget"):
        build_config({"data": {"path": "x"}, "pareto": ["64KiB"], "budget": "64KiB"}, {})
