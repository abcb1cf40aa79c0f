"""The term of a budget in the loss: how hard it presses weights, and activations."""

from __future__ import annotations

import pytest
import torch
from quantizer_networks import build_network

from quantunet.nn.prepare import activation_quantizers, weight_quantizers
from quantunet.train.bit_term import ACTIVATION_WEIGHT, bit_term
from quantunet.train.config import BitLossConfig


def pressures(weight: float, fixed: float | None = None) -> tuple[float, float]:
    """Gradients of the weighted term, summed over the widths of all weights, and of all activations."""
    network = build_network({"name": "learned"})
    config = BitLossConfig(fixed_weight=fixed, activation_share=0.1)
    (weight * bit_term("bits", network, config, weight)).backward()
    sums = []
    for quantizers in (weight_quantizers(network), activation_quantizers(network)):
        gradients = [p.grad for quantizer in quantizers.values() for p in quantizer.width_parameters()]
        sums.append(sum(float(each.sum()) for each in gradients if each is not None))
    return sums[0], sums[1]


@pytest.mark.parametrize("weight", [0.01, ACTIVATION_WEIGHT, 3.0, 30.0])
def test_a_steered_term_presses_activations_no_harder_than_at_its_start(weight: float) -> None:
    weights, activations = pressures(weight)
    assert weights == pytest.approx(weight)
    assert activations == pytest.approx(0.1 * min(weight, ACTIVATION_WEIGHT))


def test_a_fixed_weight_presses_both_as_stated() -> None:
    assert pressures(3.0, fixed=3.0) == pytest.approx((3.0, 0.3))


def test_bit_operations_press_both() -> None:
    network = build_network({"name": "learned"})
    network(torch.randn(1, 1, 16, 16))
    bit_term("bops", network, BitLossConfig(), 3.0).backward()
    parameters = [p for each in activation_quantizers(network).values() for p in each.width_parameters()]
    assert all(p.grad is None or float(p.grad) > 0 for p in parameters)
    assert any(p.grad is not None for p in parameters)
