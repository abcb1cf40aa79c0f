"""BitPruning and FracBits: the mixture of two widths, its gradient, the frozen grid."""

from __future__ import annotations

import pytest
import torch
from quantizer_networks import count_codes, frozen_after_training

from quantunet.lower import lower
from quantunet.nn import widths
from quantunet.quant.interpolated import InterpolatedQuantizer

GRID = torch.linspace(-3, 3, 241)


def on_grid(x: torch.Tensor, top: float, bits: int, signed: bool) -> torch.Tensor:
    """Q(x, n), written out."""
    levels = 2 ** (bits - 1) if signed else 2**bits
    step = 2.0**top / levels
    low, high = (-levels, levels - 1) if signed else (0, levels - 1)
    return torch.floor(x / step + 0.5).clamp(low, high) * step


def quantizer(width: float, signed: bool = True, top: float = 1.0) -> InterpolatedQuantizer:
    made = InterpolatedQuantizer(None, 1, signed)
    made.top.data.fill_(top)
    made.set_bit_width_(torch.tensor(width))
    return made


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("width", [1.0, 1.25, 2.0, 3.7, 7.5, 8.0])
def test_forward_and_width_gradient_are_the_formula(width: float, signed: bool) -> None:
    made = quantizer(width, signed)
    lower_width = max(1, -int(-width // 1) - 1)
    share = width - lower_width
    below, above = (on_grid(GRID, 1.0, n, signed) for n in (lower_width, lower_width + 1))
    y = made(GRID)
    # (1 - a) p + a q in float32
    assert torch.allclose(y, (1 - share) * below + share * above, atol=1e-6)
    slope = torch.linspace(0.5, 2, len(GRID))
    (y * slope).sum().backward()
    assert made.width_source.grad is not None
    assert float(made.width_source.grad) == pytest.approx(float(((above - below) * slope).sum()), rel=1e-4, abs=1e-4)


def test_value_gradient_passes_inside_the_range() -> None:
    x = GRID.clone().requires_grad_()
    quantizer(3.5)(x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad[(x > -2) & (x < 1.5)] == 1).all())
    assert bool((x.grad[(x < -2.5) | (x > 2.1)] == 0).all())


def test_freezing_leaves_one_grid_over_the_same_range() -> None:
    made = quantizer(4.6)
    assert int(made.bit_width) == 5
    made.freeze_bit_width_(0.0)
    assert int(made.bit_width) == 4
    assert float(made.scale) == 2.0 / 8
    assert torch.equal(made(GRID), on_grid(GRID, 1.0, 4, True))
    assert made.width_parameters() == []
    other = quantizer(8.0)
    other.freeze_bit_width_(0.5)
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(GRID), made(GRID))


def test_projection_keeps_the_bounds() -> None:
    made = InterpolatedQuantizer(3, 0, True, min_bit_width=2, max_bit_width=6, bit_width=6)
    made.width_source.data = torch.tensor([0.5, 3.25, 9.0])
    made.project_()
    assert made.width_source.tolist() == [2, 3.25, 6]


@pytest.mark.parametrize("per", ["channel", "layer"])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed"])
def test_lowers_code_for_code(upsampling: str, per: str) -> None:
    network = frozen_after_training({"name": "interpolated", "per": per}, upsampling=upsampling)
    assert widths.weight_bits(network) < 6
    assert all(node.requantize is None or node.requantize.is_shift_only for node in lower(network).weight_nodes())
    assert count_codes(network).differing == 0
