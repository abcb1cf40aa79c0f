"""Every published system: its YAML loads, a tiny run goes end to end, the full-size ones take two steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from quantizer_networks import build_network
from small_runs import SETTINGS, command, one_line_error, skip_what_changes_no_weight, write_settings, write_small_data

from quantunet.errors import UserError
from quantunet.losses import segmentation_loss
from quantunet.lower import LoweringError, lower
from quantunet.nn import widths
from quantunet.nn.layers import UpsampleBilinear, conv_layers
from quantunet.nn.prepare import activation_quantizers, weight_quantizers
from quantunet.nn.unet import UNet
from quantunet.train.build import build_float_network, build_quantized_network
from quantunet.train.config import Config
from quantunet.train.config_file import build_config, load_config, load_on, read_mapping
from quantunet.train.optim import build_optimizer

CONFIGS = Path(__file__).parents[1] / "configs"
BASELINES = sorted((CONFIGS / "baselines").glob("*.yaml"))
DATA_SETS = sorted((CONFIGS / "data").glob("*.yaml"))
EM = CONFIGS / "data" / "em.yaml"
PUBLISHED = sorted((CONFIGS / "published").glob("*.yaml"))
SIMULATED = {"fixed_point_w0.8_a8.0", "fixed_point_w8.8_a8.8", "fixed_point_w0.4_a6.0_as_published"}
"""Baselines without an integer form."""


def test_every_baseline_runs_on_every_data_set() -> None:
    assert {path.stem for path in DATA_SETS} == {"em", "gm", "lgg", "nih", "nih_gentle", "ultrasound"}
    assert len(BASELINES) >= 25
    for data in DATA_SETS:
        configs = [load_on(path, data) for path in BASELINES]
        assert [config.name for config in configs] == [path.stem for path in BASELINES]
        assert {config.quantizer.name for config in configs} == {
            "learned", "brevitas", "interpolated", "dq", "hgq", "uniform", "fixed_point", "ternary", "binary", "float"
        }  # fmt: skip
        first = configs[0]
        for config in configs:
            assert config.data == first.data
            if config.name == "float32_as_long":
                phases = first.training.float_phase, first.training.qat, first.training.finetune
                assert config.training.float_phase.steps == sum(phase.steps for phase in phases)
            else:
                assert config.training.float_phase == first.training.float_phase
            assert config.network.base_channels == first.network.base_channels
            budget = [
                part for part in config.name.split("_") if config.quantizer.learns_widths and part.endswith("bit")
            ]
            assert config.budget in (*budget, None)
            assert (config.budget is not None) == (config.quantizer.learns_widths and "small" not in config.name)


def test_the_settings_of_a_data_set_differ_in_the_rates_of_the_quantized_phases_alone() -> None:
    first, gentle = (load_on(BASELINES[0], CONFIGS / "data" / f"{name}.yaml") for name in ("nih", "nih_gentle"))
    phases = {
        name: getattr(first.training, name).model_copy(update={"learning_rate": 2.0e-4}) for name in ("qat", "finetune")
    }
    assert gentle == first.model_copy(update={"training": first.training.model_copy(update=phases)})


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_a_baseline_holds_only_what_makes_the_system(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not set(read_mapping(path)) & {"data", "seed"}
    message = one_line_error(capsys, "train", path)
    assert f"{path}: names no data: say on what it runs with --on configs/data/NAME.yaml" in message


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_every_baseline_builds_steps_and_lowers_or_says_why_not(path: Path) -> None:
    config = load_on(path, EM)
    if config.quantizer.name == "float":
        return
    section = config.network.model_copy(update={"base_channels": 2})
    torch.manual_seed(0)
    float_network = build_float_network(section, 1, 2, seed=0)
    side = 2 * float_network.size_multiple
    network = build_quantized_network(float_network, config.quantizer, [torch.randn(2, 1, side, side)])
    take_steps(network, config, side, steps=2)
    if config.name in SIMULATED:
        with pytest.raises(LoweringError):
            lower(network.eval())
    else:
        lower(network.eval())


def take_steps(network: UNet, config: Config, side: int, steps: int) -> list[float]:
    """Optimizer steps of the QAT phase on noise; the losses."""
    network.train()
    optimizer = build_optimizer(network, 1e-3, 0.0, 0.05)
    losses = []
    for step in range(steps):
        widths.set_progress_(network, step / steps)
        images = torch.randn(2, 1, side, side)
        total = segmentation_loss(network(images), (images[:, 0] > 0).long(), config.loss.bce, config.loss.dice).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        widths.project_(network)
        losses.append(total.item())
    assert all(torch.isfinite(torch.tensor(losses)))
    return losses


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_full_size_networks_take_two_steps(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(path)
    float_network = build_float_network(config.network, 1, 2, seed=0)
    parameters = sum(parameter.numel() for parameter in float_network.parameters())
    expected = {"fixed_point_w0.4_a6.0": 4_837_249}  # as 1908.01073's code has it
    assert parameters == expected.get(path.stem, parameters)
    if path.stem == "quantunet_brevitas":
        assert len(conv_layers(float_network)) == 23
    side = float_network.size_multiple
    network = build_quantized_network(float_network, config.quantizer, [torch.randn(2, 1, side, side)])
    del float_network
    losses = take_steps(network, config, side, steps=2)
    with capsys.disabled():
        print(f"\n{path.stem}: {parameters} parameters, losses {losses[0]:.3f}, {losses[1]:.3f}")


RUNS: dict[str, dict[str, Any]] = {
    "fixed_point": {
        "weight": {"integer_bits": 0, "fractional_bits": 4},
        "activation": {"integer_bits": 6, "fractional_bits": 0},
    },
    "ternary": {},
    "binary": {},
    "interpolated": {},
    "dq": {"power_of_two": False},
    "hgq": {},
}


def run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    quantizer: dict[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """The summary of a tiny run on the phantom."""
    skip_what_changes_no_weight(monkeypatch)
    config = write_settings(folder / "small.yaml", write_small_data(folder / "data"), quantizer=quantizer, **more)
    status, stdout, stderr = command(capsys, "train", config, "--out", folder / "run", "--json")
    assert status == 0, stderr
    return json.loads(stdout)


@pytest.mark.parametrize("name", RUNS)
def test_a_tiny_run_ends_in_an_integer_model(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = run(capsys, monkeypatch, tmp_path, {"name": name, **RUNS[name]})
    assert summary["size"]["model_file_bytes"] == (tmp_path / "run" / "model.safetensors").stat().st_size
    counted = summary["proof"]["backends"]["fake_quantized"]
    assert counted["compared"] > 10_000
    # scales of these two are floats: a sum may fall on a tie; here at most one code in ten thousand may differ
    allowed = counted["compared"] // 10_000 if name in ("ternary", "dq") else 0
    assert counted["differing"] <= allowed
    if name in ("interpolated", "dq", "hgq"):
        assert summary["bit_width"]["weights_by_parameter"] <= 4 * 1.03, "the budget of 4 bits"


def test_post_training_quantization_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {**SETTINGS["training"], "qat": {"steps": 0}, "finetune": {"steps": 0}}
    summary = run(capsys, monkeypatch, tmp_path, {"name": "uniform"}, training=training, budget=None)
    assert summary["proof"]["backends"]["fake_quantized"]["differing"] == 0
    assert summary["bit_width"]["weights_by_parameter"] == 8
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert {record["phase"] for record in records} == {"float"}


def test_the_published_order_is_reported_as_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = {**SETTINGS["network"], "order": "conv_relu_bn", "upsampling": "bilinear", "head_kernel": 3}
    quantizer = {"name": "fixed_point", **RUNS["fixed_point"], "float_layers": "first_and_last"}
    summary = run(capsys, monkeypatch, tmp_path, quantizer, network=network, budget=None)
    assert summary["integer"] is False
    assert summary["size"]["model_file_bytes"] is None
    by_layer = {row["name"]: row["weight"] for row in summary["bit_width"]["layers"]}
    assert by_layer["encoders.0.conv1"] == by_layer["head"] == 32
    assert by_layer["encoders.1.conv1"] == 6
    assert 0 <= summary["quantized"]["dice"] <= 1


def test_what_stays_float_in_the_published_order() -> None:
    network = build_network(
        {"name": "fixed_point", **RUNS["fixed_point"], "float_layers": "first_and_last"},
        order="conv_relu_bn",
        upsampling="bilinear",
        head_kernel=3,
    )
    assert network.input.activation_quantizer is None
    quantized = set(weight_quantizers(network))
    assert set(conv_layers(network)) - quantized == {"encoders.0.conv1", "encoders.0.conv2", "head"}
    assert set(activation_quantizers(network)) == quantized
    assert all(quantizer.signed for quantizer in activation_quantizers(network).values()), "batch norm has both signs"
    assert all(m.activation_quantizer is None for m in network.modules() if isinstance(m, UpsampleBilinear))
    assert all(layer.norm is not None for name, layer in conv_layers(network).items() if name != "head")
    with pytest.raises(LoweringError, match="input is not quantized"):
        lower(network)
    with pytest.raises(LoweringError, match=r"encoders\.0\.conv1 has a batch norm that is not folded"):
        lower(build_network({"name": "uniform"}, order="conv_relu_bn"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"quantizer.name": "fixed_point"}, "fixed_point needs weight.integer_bits and weight.fractional_bits"),
        ({"quantizer.float_layers": "first_and_last", "quantizer.int8_layers": "first_and_last"}, "exclude each other"),
        ({"network.channels": [4, 8]}, "channels names 2 levels and levels is 4"),
        ({"network.order": "relu_first"}, "conv_relu_bn"),
        ({"quantizer.name": "dorefa"}, "quantizer.name"),
    ],
)
def test_mistakes_are_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        build_config({"data": {"path": "phantom"}}, overrides)


def test_a_mistake_is_one_line_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_settings(tmp_path / "small.yaml", tmp_path, quantizer={"name": "fixed_point"})
    assert "fixed_point needs weight.integer_bits" in one_line_error(capsys, "train", config, "--out", tmp_path / "run")
