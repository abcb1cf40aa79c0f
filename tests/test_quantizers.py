"""Our learned quantizer behind the interface that all quantizers share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from quantunet.quant.fake_quant import fake_quantize
from quantunet.quant.quantizers import LearnedPowerOfTwo


def of_weights(**options: object) -> LearnedPowerOfTwo:
    return LearnedPowerOfTwo(4, 0, True, **options)  # pyright: ignore[reportArgumentType]


def weights() -> Tensor:
    """(4, 3, 3, 3) with channels of very different magnitude."""
    torch.manual_seed(0)
    return torch.randn(4, 3, 3, 3) * torch.tensor([0.01, 0.3, 1.0, 40.0]).view(4, 1, 1, 1)


@pytest.mark.parametrize("axis", [0, 1])
def test_calibration_covers_the_largest_weight_of_each_channel(axis: int) -> None:
    quantizer = LearnedPowerOfTwo(4, axis, True)
    w = weights().transpose(0, axis)
    quantizer.calibrate(w)
    largest = w.abs().transpose(0, axis).flatten(1).amax(1)
    limits = quantizer.scale * 128
    assert bool((largest <= limits).all())
    assert bool((largest > limits / 2).all()), "and by no more than a factor of two"
    assert bool(((quantizer(w) - w).abs().transpose(0, axis).flatten(1).amax(1) <= quantizer.scale).all())


def test_calibration_of_activations_ignores_one_outlier_in_ten_thousand() -> None:
    quantizer = LearnedPowerOfTwo(None, 1, False)
    x = torch.rand(1, 1, 100, 100)
    x[0, 0, 0, 0] = 1e6
    quantizer.calibrate(x)
    assert float(quantizer.scale) == 2.0**-8


@pytest.mark.parametrize("channels", [4, None])
def test_a_narrow_fixed_width_is_calibrated_to_the_least_squared_error(channels: int | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 8, 9, 9) * (weights()[:, :1, :1, :1] if channels else 1.0)
    quantizer = LearnedPowerOfTwo(channels, 0, True, bit_width=2, trainable=False)
    quantizer.calibrate(x)
    chosen = quantizer.range_exponent.detach().clone()
    errors = (quantizer(x) - x).square().flatten(1).sum(1)
    for octaves in (-2, -1, 1, 2):
        quantizer.range_exponent.data.copy_(chosen + octaves)
        others = (quantizer(x) - x).square().flatten(1).sum(1)
        assert bool((errors <= others).all() if channels else errors.sum() <= others.sum())
    covering = LearnedPowerOfTwo(channels, 0, True, bit_width=8, trainable=False)
    covering.calibrate(x)
    assert bool((chosen < covering.range_exponent).all()), "to cover all would leave most of them zero"


def test_calibration_of_an_all_zero_tensor_is_finite() -> None:
    for quantizer, x in ((of_weights(), torch.zeros(4, 1, 3, 3)), (LearnedPowerOfTwo(None, 1, False), torch.zeros(9))):
        quantizer.calibrate(x)
        assert bool(torch.isfinite(quantizer.exponent).all())
        assert not quantizer(torch.zeros(4, 1, 3, 3)).any()


def test_forward_is_codes_times_scale() -> None:
    quantizer, w = of_weights(bit_width=3), weights()
    quantizer.calibrate(w)
    assert torch.equal(quantizer(w), quantizer.codes(w) * quantizer.along_channels(quantizer.scale))
    assert set(quantizer.codes(w).unique().tolist()) <= set(range(-4, 4))
    same = fake_quantize(w, quantizer.exponent.view(4, 1, 1, 1), torch.full((4, 1, 1, 1), 3.0), True)
    assert torch.equal(quantizer(w), same)


def test_raise_scale_only_raises() -> None:
    quantizer = of_weights()
    quantizer.set_exponent_(torch.tensor([-3.0, 2.0, -3.0, -3.0]))
    quantizer.raise_scale_(torch.tensor([0.25, 0.25, 0.3, 0.0]))
    assert quantizer.scale.tolist() == [0.25, 4.0, 0.5, 0.125]
    quantizer.raise_scale_(torch.tensor(0.5))
    assert quantizer.scale.tolist() == [0.5, 4.0, 0.5, 0.5]


def test_projection_keeps_widths_within_their_bounds() -> None:
    quantizer = of_weights(min_bit_width=2, max_bit_width=6)
    quantizer.width.data = torch.tensor([-3.0, 2.5, 9.0, 6.1])
    quantizer.project_()
    assert quantizer.width.tolist() == [2.0, 2.5, 6.0, 6.0]


def test_widths_round_in_use_and_freeze_as_asked() -> None:
    quantizer = of_weights(min_bit_width=2, max_bit_width=7)
    quantizer.width.data = torch.tensor([2.4, 2.5, 4.9, 7.0])
    assert quantizer.bit_width.tolist() == [2, 3, 5, 7]
    assert quantizer.soft_bit_width.tolist() == pytest.approx([2.4, 2.5, 4.9, 7.0])
    assert quantizer.frozen_bit_width(0.5).tolist() == [2, 3, 5, 7]
    assert quantizer.frozen_bit_width(0.05).tolist() == [2, 2, 4, 7]
    assert quantizer.frozen_bit_width(-8).tolist() == [2, 2, 2, 2]
    assert quantizer.frozen_bit_width(1.4).tolist() == [3, 3, 6, 7]
    assert quantizer.bit_width.tolist() == [2, 3, 5, 7], "asking changes nothing"
    quantizer.freeze_bit_width_(0.05)
    assert quantizer.bit_width.tolist() == [2, 2, 4, 7]
    assert quantizer.width_parameters() == []
    assert [*quantizer.parameters()] == quantizer.scale_parameters()
    quantizer.freeze_bit_width_(-8)
    assert quantizer.bit_width.tolist() == [2, 2, 4, 7], "what is frozen stays"


def test_one_width_for_groups_of_channels() -> None:
    quantizer = LearnedPowerOfTwo(5, 0, True, min_bit_width=0, group_size=2)
    assert quantizer.width.shape == (3,)
    quantizer.width.data = torch.tensor([4.0, 0.2, 3.0])
    assert quantizer.bit_width.tolist() == [4, 4, 0, 0, 3]
    assert quantizer.frozen_bit_width(torch.tensor([0.0, 1.0, 0.6])).tolist() == [4, 4, 1, 1, 3]
    assert quantizer.by_width(quantizer.bit_width).tolist() == [4, 0, 3]
    assert quantizer.averaged(torch.tensor([1.0, 3.0, 5.0, 6.0, 9.0])).tolist() == [2.0, 2.0, 5.5, 5.5, 9.0]
    quantizer(torch.randn(5, 2, 3, 3)).square().sum().backward()
    assert quantizer.width.grad is not None
    quantizer.silence_(1)
    assert quantizer.bit_width.tolist() == [0, 0, 0, 0, 3]
    quantizer.silence_(4)
    assert quantizer.bit_width.tolist() == [0, 0, 1, 1, 0], "the widest group stays"
    quantizer.freeze_bit_width_(0.5)
    assert quantizer.bit_width.tolist() == [0, 0, 1, 1, 0]


def test_one_width_for_all_channels() -> None:
    quantizer = of_weights(group_size=None)
    w = weights()
    quantizer.calibrate(w)
    assert quantizer.width.shape == ()
    assert quantizer.exponent.shape == (4,)
    assert quantizer.bit_width.shape == (4,)
    quantizer(w).square().sum().backward()
    assert quantizer.width.grad is not None
    assert quantizer.width.grad.shape == ()
    shared = float(quantizer.width.grad)
    separate = of_weights()
    separate.calibrate(w)
    separate(w).square().sum().backward()
    assert shared == pytest.approx(float(separate.width.grad.sum()), rel=1e-5)  # float32 sums in another order
    quantizer.freeze_bit_width_(-3.2)
    assert quantizer.bit_width.tolist() == [4, 4, 4, 4]


def test_fixed_widths_are_not_trained() -> None:
    quantizer = of_weights(bit_width=5, trainable=False)
    assert quantizer.width_parameters() == []
    assert len(quantizer.scale_parameters()) == 1
    quantizer.freeze_bit_width_(-8)
    assert quantizer.bit_width.tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("frozen", [False, True])
def test_state_survives_a_round_trip(frozen: bool) -> None:
    quantizer, w = of_weights(), weights()
    quantizer.calibrate(w)
    quantizer.width.data = torch.tensor([1.0, 3.3, 5.7, 8.0])
    other = of_weights()
    if frozen:
        quantizer.freeze_bit_width_(0.5)
        other.freeze_bit_width_(0.5)
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other(w), quantizer(w))
    assert torch.equal(other.bit_width, quantizer.bit_width)


def test_double_precision_changes_no_code() -> None:
    quantizer, w = of_weights(bit_width=4), weights()
    quantizer.calibrate(w)
    codes = quantizer.codes(w)
    assert torch.equal(nn.Module.double(quantizer).codes(w.double()).float(), codes)  # pyright: ignore
