"""Differentiable Quantization: step and range are trained, the width follows."""

from __future__ import annotations

import math

import pytest
import torch
from quantizer_networks import count_codes, frozen_after_training

from quantunet.lower import lower
from quantunet.nn import widths
from quantunet.quant.dq import DifferentiableQuantizer

GRID = torch.linspace(-3.007, 3.011, 241)  # on no bound of any quantizer below


def quantizer(signed: bool, bits: int, step: float, power_of_two: bool = False) -> DifferentiableQuantizer:
    made = DifferentiableQuantizer(None, 1, signed, power_of_two=power_of_two)
    made.step.data.fill_(math.log2(step))
    made.width_source.data.copy_(torch.log2(torch.tensor(step * (2 ** (bits - signed) - 1))))
    return made


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("bits", "step"), [(3, 0.3), (4, 0.17), (2, 1.1)])
def test_forward_and_gradients_are_the_formula(bits: int, step: float, signed: bool) -> None:
    made = quantizer(signed, bits, step)
    q_max = step * (2 ** (bits - signed) - 1)
    low = -q_max if signed else 0.0
    x = GRID.clone().requires_grad_()
    y = made(x)
    expected = (torch.floor(GRID / step + 0.5) * step).clamp(low, q_max)
    assert torch.allclose(y, expected, atol=1e-6)  # the step is a power of two to a float32 exponent
    slope = torch.linspace(0.5, 2, len(GRID))
    (y * slope).sum().backward()
    # inside: rounded, not clipped; the last half step still rounds to the largest code
    inside = ((GRID - low + step / 2) >= 0) & ((GRID - q_max - step / 2) <= 0)
    by_step = ((expected - GRID) * slope)[inside].sum() / step  # dy/dd = (y - x) / d
    by_range = (expected.sign() * slope)[~inside].sum()  # dy/dq_max = sign(x)
    assert x.grad is not None
    assert made.step.grad is not None
    assert made.width_source.grad is not None
    assert torch.equal(x.grad, slope * inside)
    assert float(made.step.grad) == pytest.approx(float(by_step) * step * math.log(2), rel=1e-4)
    assert float(made.width_source.grad) == pytest.approx(float(by_range) * q_max * math.log(2), rel=1e-4)


@pytest.mark.parametrize("signed", [True, False])
def test_the_width_is_inferred(signed: bool) -> None:
    for step, q_max in ((0.1, 0.7), (0.25, 1.75), (0.5, 9.0), (0.3, 0.4)):
        made = DifferentiableQuantizer(None, 1, signed, power_of_two=False)
        made.step.data.fill_(math.log2(step))
        made.width_source.data.fill_(math.log2(q_max))
        width = math.log2(q_max / step + 1) + signed
        assert float(made.soft_bit_width.detach()) == pytest.approx(width, abs=1e-5)  # float32 logarithms
        least = 2 if signed else 1
        assert int(made.bit_width) == max(least, math.floor(width + 0.5))


def test_both_learn_from_the_bit_term() -> None:
    made = quantizer(True, 6, 0.1)
    made.soft_bit_width.sum().backward()
    assert made.step.grad is not None
    assert made.width_source.grad is not None
    assert float(made.step.grad) < 0 < float(made.width_source.grad), "fewer bits: a coarser step, a smaller range"


def test_freezing_keeps_the_range() -> None:
    made = quantizer(True, 7, 0.25, power_of_two=True)
    made.freeze_bit_width_(-2.5)
    assert int(made.bit_width) == 4
    assert float(made.scale) == 2.0
    assert made(torch.tensor([99.0])).tolist() == [14.0], "beside 15.75 of seven bits"


def test_projection_keeps_the_bounds() -> None:
    made = DifferentiableQuantizer(3, 0, True, min_bit_width=3, max_bit_width=6, bit_width=6)
    made.width_source.data += torch.tensor([-20.0, -1.5, 4.0])
    middle = float((made.step + made.width_source)[0].detach())
    made.project_()
    assert float((made.step + made.width_source)[0].detach()) == pytest.approx(middle), "too few bits: both give way"
    above = float((made.width_source[2] - made.width_source[1]).detach())
    assert above == pytest.approx(5.5), "too many: the range stays"
    assert made.bit_width.tolist() == [3, 5, 6]
    assert made.soft_bit_width.tolist() == pytest.approx([3, math.log2(31 * 2**-1.5 + 1) + 1, 6], abs=1e-5)


@pytest.mark.parametrize("power_of_two", [True, False])
@pytest.mark.parametrize("per", ["channel", "layer"])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed"])
def test_lowers(upsampling: str, per: str, power_of_two: bool) -> None:
    section = {"name": "dq", "per": per, "power_of_two": power_of_two}
    network = frozen_after_training(section, upsampling=upsampling)
    assert widths.weight_bits(network) < 6
    nodes = lower(network).weight_nodes()
    assert all(node.requantize is None or node.requantize.is_shift_only for node in nodes) == power_of_two
    # float steps may differ where a sum falls on a tie, and are counted; on these images none does
    assert count_codes(network).differing == 0
