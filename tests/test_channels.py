"""Channels go by importance and cost, until operations and memory fit; sizes by formula are those of the real model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SETTINGS, command, write_settings, write_small_data

from quantunet import measures
from quantunet.lower import lower
from quantunet.nn import widths
from quantunet.nn.layers import conv_layers
from quantunet.nn.prepare import freeze_bit_widths_, weight_quantizers
from quantunet.nn.removal import remove_channels_
from quantunet.nn.unet import UNet, Upsampling
from quantunet.quant.quantizers import LearnedPowerOfTwo
from quantunet.train.budget import CHANNEL_KINDS, Budget, Kind
from quantunet.train.build import build_float_network, build_quantized_network
from quantunet.train.channels import drop_channels_, drop_groups_, mac_costs, ram_costs, update_importance_
from quantunet.train.config import NetworkConfig, QuantizerConfig
from quantunet.train.size import Measures, Sizes

SIZE = (32, 48)
MEASURE = {
    "ram": measures.ram_bytes,
    "macs": measures.macs,
    "bops": measures.bops,
    "latency": measures.latency_ms,
    "lut": lambda graph, size: measures.lut(graph, size, None, 100.0),
}


def network(upsampling: Upsampling = "nearest") -> UNet:
    """Channels that may vanish, widths of 0 to 8 bits, importances of their own."""
    torch.manual_seed(0)
    config = NetworkConfig(base_channels=6, levels=3, upsampling=upsampling)
    images = torch.randn(2, 1, *SIZE)
    quantizer = QuantizerConfig.model_validate({"weight": {"min_bit_width": 0}})
    net = build_quantized_network(build_float_network(config, 1, 2, 0), quantizer, [images])
    for each in weight_quantizers(net).values():
        assert isinstance(each, LearnedPowerOfTwo)
        each.width.data.uniform_(0.6, 6)
        if each.importance is not None:
            each.importance.uniform_(0.1, 1)
    net(images)
    return net


def quantizer_of(net: UNet, name: str) -> LearnedPowerOfTwo:
    quantizer = weight_quantizers(net)[name]
    assert isinstance(quantizer, LearnedPowerOfTwo)
    return quantizer


def importance_of(net: UNet, name: str) -> torch.Tensor:
    importance = quantizer_of(net, name).importance
    assert importance is not None
    return importance


def amount(kind: Kind, net: UNet) -> float:
    graph = lower(net, {"image_size": list(SIZE)})
    return measures.file_bytes(graph) if kind == "file" else MEASURE[kind](graph, SIZE)


MEASURES = Measures(
    amount,
    lambda net: measures.peak_tensors(lower(net), SIZE),
    lambda net: measures.latency_savings(lower(net), SIZE),
)


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed"])
def test_a_channel_costs_what_its_removal_saves(upsampling: Upsampling) -> None:
    net = network(upsampling)
    costs = mac_costs(net)
    before = amount("macs", net)
    for name, layer in conv_layers(net).items():
        if name == "head":
            assert layer.weight_quantizer is not None
            assert not layer.weight_quantizer.can_vanish
            continue
        smaller = copy.deepcopy(net)
        weight_quantizers(smaller)[name].silence_(1)
        assert remove_channels_(smaller) == 1
        assert costs[name] == before - amount("macs", smaller), name


def test_memory_of_a_channel_is_that_of_all_copies_of_it() -> None:
    net, (_, width) = network(), SIZE
    rings = measures.peak_tensors(lower(net), SIZE)
    assert rings["ups.0"] == 1 * width * 12
    assert rings["concat.1"] == 3 * width * 18
    assert rings["encoders.0.conv2"] == 20 * width * 6
    costs = ram_costs(net, rings)
    # its own ring, the pooled one of half the width, and the joined one
    assert costs["encoders.0.conv2"] == 20 * width + 3 * width // 2 + 3 * width
    before = amount("ram", net)
    quantizer_of(net, "encoders.0.conv2").silence_(1)
    assert remove_channels_(net) == 1
    # rings are aligned, and the expanded filters of the next layers shrink too
    assert before - amount("ram", net) == pytest.approx(costs["encoders.0.conv2"], abs=200)


def test_the_group_goes_whose_importance_is_least_for_what_it_saves() -> None:
    net, name = network(), "encoders.1.conv1"
    layer, importance = conv_layers(net)[name], importance_of(net, name)
    kept, others = importance.sort().values[4:].tolist(), importance_of(net, "encoders.0.conv1")
    others.fill_(1.0)
    importance.div_(1e3)
    options = {name: [(4, 1.0), (1, 1e-9)], "encoders.0.conv1": [(1, 1.0)]}
    drop_groups_(net, lambda: options if layer.conv.out_channels == len(kept) + 4 else {})
    assert sorted(importance_of(net, name).tolist()) == pytest.approx([value / 1e3 for value in kept])


def test_importance_is_the_squared_first_order_change_of_the_loss() -> None:
    net, name = network(), "encoders.0.conv1"
    importance_of(net, name).zero_()
    net(torch.randn(2, 1, *SIZE)).square().mean().backward()
    update_importance_(net)
    weight, bias = conv_layers(net)[name].conv.weight, conv_layers(net)[name].conv.bias
    assert weight.grad is not None
    assert bias is not None
    assert bias.grad is not None
    change = (weight * weight.grad).sum((1, 2, 3)) + bias * bias.grad
    assert torch.allclose(importance_of(net, name), change.square() / 20)
    assert quantizer_of(net, "head").importance is None


def test_the_least_important_channels_go_first_and_one_of_each_layer_stays() -> None:
    net, name = network(), "encoders.1.conv1"
    kept = importance_of(net, name).sort().values[-5:].tolist()
    layer = conv_layers(net)[name]
    drop_channels_(net, lambda: {name: 1.0} if layer.conv.out_channels > 5 else {})
    assert sorted(importance_of(net, name).tolist()) == kept
    drop_channels_(net, lambda: dict.fromkeys(conv_layers(net), 1.0))  # what can never fit
    assert [layer.conv.out_channels for layer in conv_layers(net).values()] == [1] * 11


@pytest.mark.parametrize(
    "budgets",
    [["ram"], ["macs"], ["latency"], ["ram", "macs", "latency"], ["bops"], ["lut"], ["file"], ["bits", "macs"]],
)
def test_freezing_meets_the_budgets(budgets: list[Kind]) -> None:
    net = network()
    quantizer_of(net, "encoders.0.conv1").width.data[0] = 0.1
    whole = Sizes([Budget(kind, 1e12) for kind in budgets], net, MEASURES)
    limits = [Budget(budget.kind, 0.6 * whole.now(budget)) for budget in whole.budgets]
    sizes = Sizes(limits, net, MEASURES)
    freeze_bit_widths_(net, sizes.freezing())
    remove_channels_(net)
    sizes.refresh(net)
    for budget in limits:
        real = widths.weight_bits(net) if budget.kind == "bits" else amount(budget.kind, net)
        assert sizes.now(budget) == pytest.approx(real, rel=1e-6)
        assert real <= budget.amount
        if budget.kind not in CHANNEL_KINDS:
            assert real >= 0.97 * budget.amount, "what is allowed is used"


def test_sizes_by_formula_are_those_of_the_model_as_widths_change() -> None:
    net = network()
    sizes = Sizes([Budget("bits", 1), Budget("file", 1), Budget("bops", 1), Budget("macs", 1)], net, MEASURES)
    for name in weight_quantizers(net):
        quantizer_of(net, name).width.data.sub_(1.2)
    net(torch.zeros(1, 1, 8, 8))  # another image size does not matter
    widths.project_(net)
    smaller = copy.deepcopy(net)
    assert remove_channels_(smaller) > 10
    for budget in sizes.budgets:
        real = widths.weight_bits(smaller) if budget.kind == "bits" else amount(budget.kind, smaller)
        # biases and header of removed channels are measured again at the next refresh
        assert sizes.now(budget) == pytest.approx(real, rel=0.1 if budget.kind == "file" else 1e-6)


@pytest.mark.parametrize(("kind", "power"), [("bops", 1 / 3), ("lut", 1 / (3 * 0.75))])
def test_channels_do_a_third_of_a_descent_of_bit_operations(kind: Kind, power: float) -> None:
    """Operations, weight bits and activation bits are its factors; tables go with its power of .75."""
    net = network()
    whole = Sizes([Budget("macs", 1), Budget(kind, 1)], net, MEASURES)
    macs, most = (whole.now(budget) for budget in whole.budgets)
    limit = Sizes([Budget(kind, most / 10)], net, MEASURES).limit_operations_()
    assert limit is not None
    assert limit.kind == "macs"
    assert limit.amount == pytest.approx(macs * 0.1**power, rel=1e-6)
    assert Sizes([Budget(kind, 2 * most)], net, MEASURES).limit_operations_() is None
    assert Sizes([Budget(kind, most / 10), Budget("macs", macs / 2)], net, MEASURES).limit_operations_() is None
    assert Sizes([Budget("file", 1)], net, MEASURES).limit_operations_() is None


def test_no_channel_goes_before_its_importance_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = []

    def watched(net: UNet, *arguments: Any) -> None:
        known.append(all(float(importance_of(net, name).max()) > 0 for name in list(weight_quantizers(net))[:-1]))
        drop_channels_(net, *arguments)

    monkeypatch.setattr("quantunet.train.size.drop_channels_", watched)
    training = {**SETTINGS["training"], "qat": {"steps": 44, "learning_rate": 5e-3}}
    config = write_settings(
        tmp_path / "small.yaml", write_small_data(tmp_path / "data"), budget="macs=140k", training=training
    )
    status, _, error = command(capsys, "train", config, "--out", tmp_path / "run")
    assert status == 0, error
    assert known == [True] * 3, "after 20 and 40 steps, and at the freezing"


@pytest.mark.parametrize("floor", [0, 1])
def test_a_budget_of_bit_operations_removes_channels_where_they_may_vanish(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], floor: int
) -> None:
    training = {**SETTINGS["training"], "qat": {"steps": 24, "learning_rate": 5e-3}}
    config = write_settings(
        tmp_path / "small.yaml",
        write_small_data(tmp_path / "data"),
        budget="bops=8M",
        quantizer={"weight": {"min_bit_width": floor}},
        training=training,
    )
    status, output, error = command(capsys, "train", config, "--out", tmp_path / "run")
    assert status == 0, error
    assert ("channels go too, down to macs" in output + error) == (floor == 0)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert [each["kind"] for each in summary["budgets"]] == ["bops"], "the limit of operations is none of the user's"
    assert summary["budgets"][0]["reached"] <= 8e6
    assert (summary["bit_width"]["weights_left"] < 1) == (floor == 0)
