"""Fixed point of 1908.01073: the paper's formula number by number, its true levels, its gradient, its integers."""

from __future__ import annotations

import math

import pytest
import torch
from quantizer_networks import count_codes, frozen_after_training

from quantunet.lower import LoweringError, lower
from quantunet.nn import widths
from quantunet.quant.fixed_point import FixedPointQuantizer, levels, to_fixed_point
from quantunet.train.build import build_float_network, build_quantized_network
from quantunet.train.config import NetworkConfig, QuantizerConfig

WEIGHTS = ((0, 2), (0, 4), (0, 8), (8, 8))
ACTIVATIONS = ((2, 0), (4, 0), (6, 0), (8, 0), (8, 8))


def q(i: int, f: int) -> dict[str, int]:
    return {"integer_bits": i, "fractional_bits": f}


def by_hand(value: float, i: int, f: int) -> float:
    """The paper's two lines, on one number."""

    def quantize(x: float, n: int) -> float:
        return math.floor(min(max(x, 0), 2**n - 1) * 2**n + 0.5) / 2**n

    sign = (value > 0) - (value < 0)
    whole = math.floor(abs(value))
    return sign * quantize(abs(value) - whole, f) + sign * quantize(whole, i)


@pytest.mark.parametrize(("i", "f"), [*WEIGHTS, *ACTIVATIONS, (1, 3)])
def test_forward_is_the_formula(i: int, f: int) -> None:
    grid = torch.arange(-5, 5, 1 / 64, dtype=torch.float64)
    grid = torch.cat((grid, torch.tensor([254.5, 255.999, 256.25, 300.3, -1000.0], dtype=torch.float64)))
    expected = torch.tensor([by_hand(float(v), i, f) for v in grid], dtype=torch.float64)
    assert torch.equal(to_fixed_point(grid, i, f), expected)
    assert torch.equal(FixedPointQuantizer(None, 1, True, **q(i, f))(grid), expected)


def test_weights_above_one_wrap_and_activations_are_cut_off() -> None:
    weight = FixedPointQuantizer(1, 0, True, **q(0, 4))
    assert weight(torch.tensor([0.99, 1.0, 1.25, -2.5])).tolist() == [1.0, 0.0, 0.25, -0.5]
    activation = FixedPointQuantizer(None, 1, False, **q(4, 0))
    assert activation(torch.tensor([-3.0, 0.999, 1.0, 14.9, 99.0])).tolist() == [0, 0, 1, 14, 15]
    saturated = FixedPointQuantizer(1, 0, True, **q(0, 4), saturate=True)
    assert saturated(torch.tensor([0.99, 1.0, 1.25, -2.5])).tolist() == [0.9375, 0.9375, 0.9375, -1.0]
    rounded = FixedPointQuantizer(None, 1, False, **q(4, 0), saturate=True)
    assert rounded(torch.tensor([-3.0, 0.5, 14.9, 99.0])).tolist() == [0, 1, 15, 15]


@pytest.mark.parametrize(
    ("i", "f", "signed", "saturate", "count", "bits"),
    [
        (0, 2, True, False, 9, 4),
        (0, 4, True, False, 33, 6),
        (0, 8, True, False, 513, 10),
        (8, 8, True, False, 131073, 18),
        (4, 0, True, False, 31, 5),
        (6, 0, True, False, 127, 7),
        (2, 0, False, False, 4, 2),
        (6, 0, False, False, 64, 6),
        (8, 0, False, False, 256, 8),
        (0, 4, True, True, 32, 5),
        (0, 8, True, True, 512, 9),
        (8, 8, False, True, 65536, 16),
    ],
)
def test_true_levels_and_width(i: int, f: int, signed: bool, saturate: bool, count: int, bits: int) -> None:
    quantizer = FixedPointQuantizer(None, 1, signed, **q(i, f), saturate=saturate)
    assert quantizer.levels == levels(i, f, signed, saturate) == count
    assert int(quantizer.bit_width) == bits
    step = 2.0 ** -(f + 1)
    values = torch.arange(-(2.0 ** (i + 1)) - 1, 2.0 ** (i + 1) + 1, step, dtype=torch.float64)
    assert len(quantizer(values).unique()) == count, "every level is reached, and no other"


def test_gradients() -> None:
    x = torch.tensor([-3.3, -0.2, 0.0, 0.4, 1.7, 40.0], requires_grad=True)
    FixedPointQuantizer(1, 0, True, **q(0, 4))(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1] * 6, "straight through, wrapped or not"
    for saturate, expected in ((False, [0, 0, 0, 1, 1, 1]), (True, [0, 0, 1, 1, 1, 0])):
        x.grad = None
        FixedPointQuantizer(None, 1, False, **q(4, 0), saturate=saturate)(x).sum().backward()
        assert x.grad.tolist() == expected, "the ReLU, and the bound where it saturates"


@pytest.mark.parametrize("saturate", [False, True])
@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
@pytest.mark.parametrize(("weight", "activation"), [((0, 2), (2, 0)), ((0, 4), (6, 0)), ((0, 4), (8, 0))])
def test_lowers_code_for_code(
    weight: tuple[int, int], activation: tuple[int, int], upsampling: str, saturate: bool
) -> None:
    section = {"name": "fixed_point", "weight": q(*weight), "activation": q(*activation), "saturate": saturate}
    network = frozen_after_training(section, upsampling=upsampling)
    counted = count_codes(network)
    assert counted.compared > 25_000
    assert counted.differing == 0
    assert all(node.requantize is None or node.requantize.is_shift_only for node in lower(network).weight_nodes())


def test_every_published_combination_builds_and_says_its_bits(capsys: pytest.CaptureFixture[str]) -> None:
    float_network = build_float_network(NetworkConfig(base_channels=2, levels=2), 1, 2, seed=0)
    table, lowered = [], 0
    for weight in WEIGHTS:
        for activation in ACTIVATIONS:
            config = QuantizerConfig.model_validate(
                {"name": "fixed_point", "weight": q(*weight), "activation": q(*activation)}
            )
            network = build_quantized_network(float_network, config, [torch.randn(2, 1, 16, 16)])
            bits = widths.weight_bits(network)
            table.append(f"w{weight[0]}.{weight[1]} a{activation[0]}.{activation[1]}: {bits:g} bits a weight")
            if bits <= 8 and activation != (8, 8):
                lower(network)
                lowered += 1
            else:
                with pytest.raises(LoweringError, match=r"-bit codes|fractional bits wrap"):
                    lower(network)
    with capsys.disabled():
        print(f"\n{len(table)} combinations, {lowered} have an integer form: {'; '.join(table[::5])}")
    assert (len(table), lowered) == (20, 8)


def test_what_has_no_integer_form_is_named() -> None:
    section = {"name": "fixed_point", "weight": q(0, 4), "activation": q(4, 0)}
    with pytest.raises(LoweringError, match="interpolation that truncates"):
        lower(frozen_after_training(section, upsampling="bilinear"))
    with pytest.raises(LoweringError, match="fractional bits wrap"):
        lower(frozen_after_training(section | {"activation": q(2, 2)}))
    with pytest.raises(ValueError, match=r"Q0\.0 has no value but zero"):
        FixedPointQuantizer(None, 1, True, **q(0, 0))
