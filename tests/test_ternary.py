"""TernaryNet: weights and tanh against the paper's formulas, the schedule, the integers."""

from __future__ import annotations

import math

import pytest
import torch
from quantizer_networks import build_network, count_codes, frozen_after_training

from quantunet.formats import IntFormat
from quantunet.lower import lower
from quantunet.nn import widths
from quantunet.nn.prepare import all_quantizers
from quantunet.quant.ternary import TernaryActivation, TernaryWeight, ternary_tanh


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_are_the_formula(axis: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 5, 2, 2, dtype=torch.float64).transpose(0, axis)
    channels = weight.shape[axis]
    quantizer = TernaryWeight(channels, axis).double()
    y, codes = quantizer(weight), quantizer.codes(weight)
    for channel in range(channels):
        own = weight.select(axis, channel).flatten().tolist()
        delta = 0.7 * sum(abs(w) for w in own) / len(own)
        large = [abs(w) for w in own if abs(w) > delta]
        alpha = sum(large) / len(large)
        expected = [alpha * math.copysign(1, w) if abs(w) > delta else 0.0 for w in own]
        # both sides sum in float64, in another order
        assert y.select(axis, channel).flatten().tolist() == pytest.approx(expected, rel=1e-14)
        assert float(quantizer.scale[channel]) == pytest.approx(alpha, rel=1e-14)
    assert set(codes.unique().tolist()) == {-1, 0, 1}


def test_weights_gradient_is_straight_through() -> None:
    weight = torch.randn(4, 2, 3, 3, requires_grad=True)
    slope = torch.randn(4, 2, 3, 3)
    (TernaryWeight(4, 0)(weight) * slope).sum().backward()
    assert torch.equal(weight.grad, slope)


def test_an_all_zero_filter_is_finite() -> None:
    quantizer = TernaryWeight(2, 0)
    assert not quantizer(torch.zeros(2, 1, 3, 3)).any()
    assert bool((quantizer.scale > 0).all())


@pytest.mark.parametrize("beta", [3.0, 5.5, 8.0])
def test_tanh_and_its_slope_are_the_formula(beta: float) -> None:
    grid = torch.linspace(-2, 2, 401, dtype=torch.float64, requires_grad=True)
    y = ternary_tanh(grid, beta)
    y.sum().backward()
    for x, value, slope in zip(grid.tolist(), y.tolist(), grid.grad.tolist(), strict=True):
        a, b = math.tanh(2 * beta * x - beta), math.tanh(-2 * beta * x - beta)
        assert value == pytest.approx(a / 2 - b / 2, abs=1e-14)  # float64, another library's tanh
        assert slope == pytest.approx(beta * (1 - a * a) + beta * (1 - b * b), abs=1e-12)


def test_hard_at_inference_smooth_in_training() -> None:
    quantizer = TernaryActivation()
    x = torch.tensor([-9.0, -0.51, -0.5, 0.0, 0.49, 0.51, 3.0])
    assert quantizer.eval()(x).tolist() == [-1, -1, 0, 0, 0, 1, 1]
    assert torch.equal(quantizer.train()(x), ternary_tanh(x, 3.0))


def test_beta_rises_from_three_to_eight() -> None:
    network = build_network({"name": "ternary"})
    found = []
    for share in (0.0, 0.5, 1.0):
        widths.set_progress_(network, share)
        found.append({q.beta for q in all_quantizers(network) if isinstance(q, TernaryActivation)})
    assert found == [{3.0}, {5.5}, {8.0}]


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed"])
@pytest.mark.parametrize("classes", [2, 4])
def test_lowers_to_two_bits(upsampling: str, classes: int) -> None:
    network = frozen_after_training({"name": "ternary"}, upsampling=upsampling, classes=classes)
    graph = lower(network)
    assert all(set(node.weight.flatten().tolist()) <= {-1, 0, 1} for node in graph.weight_nodes())
    assert graph.formats()["encoders.0.conv1"] == IntFormat(2, True, narrow_range=True)
    # scales are floats: ties may fall otherwise, and are counted; on these images none does
    assert count_codes(network).differing == 0


def test_first_and_last_at_eight_bits() -> None:
    network = frozen_after_training({"name": "ternary", "int8_layers": "first_and_last"})
    graph = lower(network)
    bits = {node.name: set(node.weight_bit_width.tolist()) for node in graph.weight_nodes()}
    eight = {name for name, found in bits.items() if found == {8}}
    assert eight == {"encoders.0.conv1", "encoders.0.conv2", "head"}
    assert {*map(tuple, bits.values())} == {(8,), (2,)}
    assert count_codes(network).differing == 0
