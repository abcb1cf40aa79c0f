"""Runs without an integer model: the float baseline, and a network that has no integer form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_runs import skip_what_changes_no_weight, write_settings, write_small_data

from quantunet import pipeline
from quantunet.compare.cells import MISSING, cells, columns, conventions, label
from quantunet.compare.collect import collect
from quantunet.compare.plan import Systems, build_plan
from quantunet.ir.graph import IntegerGraph
from quantunet.ir.layer_table import layer_table, totals
from quantunet.lower import LoweringError, lower
from quantunet.nn.layers import conv_layers
from quantunet.nn.unet import UNet
from quantunet.report.page import write_report
from quantunet.summary import network_summary
from quantunet.train.build import build_float_network, build_quantized_network
from quantunet.train.config import NetworkConfig, QuantizerConfig
from quantunet.train.config_file import load_config


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    skip_what_changes_no_weight(monkeypatch)
    monkeypatch.setattr(pipeline, "write_report", write_report)
    return monkeypatch


def quantized(upsampling: Any) -> tuple[UNet, IntegerGraph]:
    network = build_float_network(
        NetworkConfig(base_channels=3, levels=3, upsampling=upsampling), in_channels=2, classes=3, seed=0
    )
    images = [torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(1))]
    network = build_quantized_network(network, QuantizerConfig(), images)
    generator = torch.Generator().manual_seed(2)
    for layer in conv_layers(network).values():
        width = layer.weight_quantizer.width  # pyright: ignore
        width.data = torch.randint(1, 9, width.shape, generator=generator).float()  # pyright: ignore
    return network, lower(network, {})


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed"])
def test_the_formula_counts_what_the_integer_graph_counts(upsampling: str) -> None:
    network, graph = quantized(upsampling)
    found = network_summary(network, (32, 48), whole_bytes=1000)
    rows = layer_table(graph, 32, 48)
    whole = totals(graph, rows, 32, 48)
    assert found["size"]["packed_weight_bytes"] == whole.packed_weight_bytes
    assert found["cost"]["macs"] == whole.macs
    assert found["cost"]["bops"] == pytest.approx(whole.bops, rel=1e-12)  # float sums of mean widths against integers
    assert found["bit_width"]["weights_by_parameter"] == pytest.approx(whole.weight_bits_by_parameter, rel=1e-12)
    assert found["bit_width"]["weights_by_layer"] == pytest.approx(whole.weight_bits_by_layer, rel=1e-12)
    assert found["bit_width"]["activations"] == whole.activation_bits
    for row, layer in zip(rows, found["bit_width"]["layers"], strict=True):
        assert (row.name, row.op, row.macs, row.packed_bytes) == tuple(
            layer[key] for key in ("name", "op", "macs", "packed_bytes")
        )
        assert layer["activation"] == row.activation_bits
    assert found["size"]["formula_bytes"] == whole.packed_weight_bytes + 4 * whole.biases


def test_a_layer_left_in_float_counts_32_bits() -> None:
    network, _ = quantized("nearest")
    before = network_summary(network, (16, 16), whole_bytes=1000)
    head = network.head
    head.weight_quantizer = None
    after = network_summary(network, (16, 16), whole_bytes=1000)
    packed = before["bit_width"]["layers"][-1]["packed_bytes"]
    gained = 4 * head.conv.weight.numel() - packed
    assert after["size"]["packed_weight_bytes"] - before["size"]["packed_weight_bytes"] == gained
    assert after["bit_width"]["layers"][-1]["weight"] == 32
    network.decoders[0].conv2.activation_quantizer = None  # pyright: ignore
    last = network_summary(network, (16, 16), whole_bytes=1000)
    assert last["bit_width"]["layers"][-1]["activation"] == 32
    assert last["bit_width"]["activations"] > after["bit_width"]["activations"]


def test_the_float_baseline_has_a_whole_summary_and_report(tmp_path: Path, no_compiler: pytest.MonkeyPatch) -> None:
    config = write_settings(tmp_path / "c.yaml", write_small_data(tmp_path / "data"), quantizer={"name": "float"})
    quiet = Console(quiet=True)
    summary = pipeline.run_training(load_config(config), tmp_path / "run", resume=False, console=quiet)
    assert summary is not None
    assert summary["integer"] is False
    assert "quantized" not in summary
    assert summary["bit_width"]["weights_by_parameter"] == 32
    assert summary["size"]["formula_bytes"] == summary["size"]["float32_bytes"]
    assert summary["size"]["ratio"] == 1
    assert summary["cost"]["bops"] == 1024 * summary["cost"]["macs"] > 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "float baseline" in page
    assert "integer model is what is handed over" not in page
    assert page.count("Integer model") == 0


def test_a_network_without_an_integer_form_is_simulated(tmp_path: Path, no_compiler: pytest.MonkeyPatch) -> None:
    def cannot(*_: Any) -> IntegerGraph:
        raise LoweringError("layer head is not quantized")

    no_compiler.setattr(pipeline, "lower", cannot)
    data = write_small_data(tmp_path / "data")
    for budget in ("5KiB", None):  # a budget in bytes is measured on the lowered network, or by formula
        config = load_config(write_settings(tmp_path / "c.yaml", data, budget=budget, name=f"sim_{budget}"))
        plan = build_plan([Systems((config,), seeds=1)], tmp_path / "out")
        folder = plan.runs[0].folder
        summary = pipeline.run_training(config, folder, resume=False, console=Console(quiet=True))
        assert summary is not None
        assert summary["integer"] is False
        assert summary["quantized"] == summary["fake_quantized"]
        assert summary["size"]["model_file_bytes"] is None
        assert summary["size"]["ratio"] == summary["size"]["float32_bytes"] / summary["size"]["formula_bytes"]
        assert not (folder / "model.safetensors").exists()
        evaluation = json.loads((folder / "evaluation.json").read_text())
        assert "integer" not in evaluation
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "Simulated: this network has no integer form" in page
        assert "Integer model" not in page
        (table,) = collect(plan, tmp_path / "out", {})
        row = table.rows[-1]
        assert row.simulated
        assert label(row).endswith("(simulated)")
        assert "Simulated:" in conventions(table)
        texts = dict(zip(columns(table), cells(row, table), strict=True))
        assert texts["File bytes"].text == MISSING
        assert texts["File bytes"].note == f"formula {summary['size']['formula_bytes']:,}"
        assert row.stored_bytes == summary["size"]["formula_bytes"]
