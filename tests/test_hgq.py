"""HGQ: the gradient of the fractional bits is minus ln2 times the rounding error."""

from __future__ import annotations

import math

import pytest
import torch
from quantizer_networks import count_codes, frozen_after_training

from quantunet.lower import lower
from quantunet.nn import widths
from quantunet.quant.hgq import HgqQuantizer


def test_forward_and_gradients_are_the_formula() -> None:
    weight = (torch.randn(3, 2, 3, 3) * torch.tensor([0.1, 1.0, 7.0]).view(3, 1, 1, 1)).requires_grad_()
    made = HgqQuantizer(3, 0, True, bit_width=4)
    made.calibrate(weight)
    fraction = made.width_source.detach()
    assert fraction.tolist() == (4 - 1 - torch.ceil(torch.log2(weight.abs().flatten(1).amax(1)))).tolist()
    step = torch.exp2(-fraction).view(3, 1, 1, 1)
    top = 2.0**3 - 1  # the largest of four signed bits; only it can be exceeded, by half a step at the most
    expected = torch.floor(weight.detach() / step + 0.5).clamp(-top - 1, top) * step
    y = made(weight)
    assert torch.equal(y, expected)
    slope = torch.randn_like(expected)
    (y * slope).sum().backward()
    inside = ((expected - weight).abs() <= step / 2).float().detach()
    by_hand = (-math.log(2) * (expected - weight.detach()) * slope * inside).sum((1, 2, 3))
    assert torch.allclose(made.width_source.grad, by_hand, atol=1e-5)  # float32 sums in another order
    assert torch.equal(weight.grad, slope * inside)


def test_integer_bits_follow_the_weights_until_the_width_is_frozen() -> None:
    weight = torch.tensor([0.9, -0.3]).view(1, 1, 1, 2)
    made = HgqQuantizer(1, 0, True, bit_width=5)
    made.calibrate(weight)
    assert made.soft_bit_width.tolist() == [5]
    made.train()(weight * 4)
    assert made.soft_bit_width.tolist() == [7], "as many fractional bits, two more integer bits"
    assert made.scale.tolist() == [2.0**-4]
    made.freeze_bit_width_(-2.0)
    made(weight * 100)
    assert (made.bit_width.tolist(), made.scale.tolist()) == ([5], [2.0**-2])


def test_what_exceeds_calibration_saturates() -> None:
    made = HgqQuantizer(None, 1, False, bit_width=3)
    made.calibrate(torch.linspace(0, 1, 100))
    x = torch.tensor([-1.0, 0.5, 3.0], requires_grad=True)
    y = made(x)
    assert y.tolist() == [0, 0.5, 0.875]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 0]


@pytest.mark.parametrize("per", ["channel", "layer"])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed"])
def test_lowers_code_for_code(upsampling: str, per: str) -> None:
    network = frozen_after_training({"name": "hgq", "per": per}, upsampling=upsampling)
    assert widths.weight_bits(network) < 6
    assert all(node.requantize is None or node.requantize.is_shift_only for node in lower(network).weight_nodes())
    assert count_codes(network).differing == 0
