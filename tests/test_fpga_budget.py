"""A budget of look-up tables: counted on the design that an export gives, met by a training, refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from graph_examples import unet
from small_runs import command, one_line_error, write_settings, write_small_data

from quantunet import measures
from quantunet.backends.verilog.estimate import estimate
from quantunet.backends.verilog.project import plan_for
from quantunet.errors import UserError
from quantunet.integer_model import IntegerModel


def test_tables_are_those_of_the_exported_design_and_fewer_at_fewer_frames() -> None:
    graph = unet(levels=2, base=8)
    exported = sum(cost.lut for cost in estimate(plan_for(graph, 32, 32, {"fps": "500"})).values())
    assert measures.lut(graph, (32, 32), 500, 100) == exported
    assert measures.lut(graph, (32, 32), 1000, 200) == exported
    assert measures.lut(graph, (32, 32), 5000, 100) > exported
    with pytest.raises(UserError, match=r"^budget lut: fpga.fps 1e\+06: at 100 MHz this design takes at most"):
        measures.lut(graph, (32, 32), 1e6, 100)


def test_a_training_meets_a_budget_of_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = {"qat": {"steps": 40, "learning_rate": 5e-3}, "float_phase": {"steps": 10}, "finetune": {"steps": 4}}
    changes = {"training": {"batch_size": 2, "crop_px": 32} | training, "quantizer": {"weight": {"min_bit_width": 1}}}
    config = write_settings(
        tmp_path / "small.yaml",
        write_small_data(tmp_path / "data"),
        **changes,
        budget="lut=1.1k",
        fpga={"size_px": [64, 64], "fps": 400},
    )
    status, out, error = command(capsys, "train", config, "--out", tmp_path / "run")
    assert status == 0, error
    (budget,) = json.loads((tmp_path / "run" / "summary.json").read_text())["budgets"]
    graph = IntegerModel.load(tmp_path / "run").graph
    assert budget["kind"] == "lut"
    assert budget["text"] == "lut 1.1k"
    assert budget["reached"] == measures.lut(graph, (64, 64), 400, 100)
    assert 0.9 * 1100 < budget["reached"] <= 1100
    assert "of a budget of lut 1.1k" in out
    assert "Look-up tables of the Verilog design" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["budget=lut=100"], "budget lut 100: this network needs lut"),
        (["fpga.fps=1000000"], "budget lut: fpga.fps 1e+06: at 100 MHz this design takes at most"),
        (["fpga.size_px=[33,32]"], "fpga.size_px [33, 32]: both must be multiples of 2"),
        (["fpga.clock_mhz=0"], "fpga.clock_mhz"),
    ],
)
def test_mistakes_are_refused_before_the_training(
    settings: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_settings(tmp_path / "small.yaml", write_small_data(tmp_path / "data"), budget="lut=20k")
    options = [part for setting in settings for part in ("--set", setting)]
    assert named in one_line_error(capsys, "train", config, "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()
