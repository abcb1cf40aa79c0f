"""Fake quantization: codes equal those of the integer formats, gradients equal the module's formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from quantunet.arith import saturate, shift_round_half_up
from quantunet.formats import IntFormat
from quantunet.quant.fake_quant import fake_quantize, integer_bounds, integer_codes, round_half_up, round_ste

WIDTHS = range(1, 9)
SIGNS = (True, False)


def grid(step: float) -> Tensor:
    """Multiples of a quarter step, ties included, far beyond the bounds of 8 bits."""
    return torch.arange(-1200, 1201, dtype=torch.float64) * step / 4


def expected_codes(x: Tensor, exponent: int, output: IntFormat) -> np.ndarray:
    """By ``arith`` alone: x is a multiple of a quarter step."""
    quarters = (x.numpy() * 2.0 ** (2 - exponent)).astype(np.int64)
    return saturate(shift_round_half_up(quarters, 2), output)


@pytest.mark.parametrize("signed", SIGNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_equals_the_integer_formats(signed: bool, dtype: torch.dtype) -> None:
    compared = 0
    for bit_width in WIDTHS:
        for exponent in (-9, 0, 3):
            output = IntFormat(bit_width, signed)
            x = grid(2.0**exponent)
            expected = expected_codes(x, exponent, output)
            for shape in ((), (1, 1, 1, 1)):
                ranges = [torch.full(shape, float(value), dtype=dtype) for value in (exponent, bit_width)]
                y = fake_quantize(x.to(dtype).view(1, 1, 1, -1), *ranges, signed).flatten()
                assert np.array_equal(y.double().numpy() / 2.0**exponent, expected)
            scale, width = torch.tensor(2.0**exponent), torch.tensor(float(bit_width))
            assert np.array_equal(integer_codes(x, scale, width, signed).numpy(), expected)
            compared += expected.size
    assert compared == 8 * 3 * 2401


@pytest.mark.parametrize("signed", SIGNS)
def test_bounds_equal_the_integer_formats(signed: bool) -> None:
    widths = torch.arange(1.0, 9.0)
    low, high = integer_bounds(widths, signed)
    formats = [IntFormat(width, signed) for width in WIDTHS]
    assert low.tolist() == [fmt.q_min for fmt in formats]
    assert high.tolist() == [fmt.q_max for fmt in formats]


def test_ranges_are_rounded_half_up_before_use() -> None:
    x = torch.linspace(-3, 3, 101).view(1, 1, 1, -1)
    for exponent, rounded in ((-2.5, -2), (-2.51, -3), (-1.6, -2), (0.49, 0)):
        for width, bits in ((2.5, 3), (2.49, 2), (4.0, 4)):
            soft = fake_quantize(x, torch.tensor(exponent), torch.tensor(width), True)
            hard = fake_quantize(x, torch.tensor(float(rounded)), torch.tensor(float(bits)), True)
            by_channel = fake_quantize(x, torch.full((1, 1, 1, 1), exponent), torch.full((1, 1, 1, 1), width), True)
            assert torch.equal(soft, hard)
            assert torch.equal(soft, by_channel)


def test_rounding_is_half_up_and_its_gradient_the_identity() -> None:
    x = torch.tensor([-1.5, -0.5, -0.4, 0.5, 1.5, 2.4], requires_grad=True)
    assert round_half_up(x).tolist() == [-1, 0, 0, 1, 2, 2]
    (round_ste(x) * torch.arange(6.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 2, 3, 4, 5]


def gradients_by_hand(x: float, grad: float, exponent: int, width: int, signed: bool) -> tuple[float, float, float]:
    """(d/dx, d/de, d/db) of one element, from the formulas of the module's text."""
    scale, output = 2.0**exponent, IntFormat(width, signed)
    rounded = math.floor(x / scale + 0.5)
    y = scale * min(max(rounded, output.q_min), output.q_max)
    if output.q_min <= rounded <= output.q_max:
        return grad, grad * math.log(2) * (y - x), 0.0
    if rounded > output.q_max:
        slope = scale * 2 ** (width - int(signed))
    else:
        slope = -scale * 2 ** (width - 1) if signed else 0.0
    return 0.0, grad * math.log(2) * y, grad * math.log(2) * slope


@pytest.mark.parametrize("signed", SIGNS)
@pytest.mark.parametrize("width", WIDTHS)
def test_gradients_equal_the_formulas(width: int, signed: bool) -> None:
    generator = torch.Generator().manual_seed(width)
    exponents = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)
    shape = (3, 2, 4, 5)
    span = 2.0 ** (exponents + width).view(3, 1, 1, 1)  # about as many values clipped as not
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * span
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    by_hand = torch.zeros(3, *shape, dtype=torch.float64)
    for index in np.ndindex(shape):
        values = gradients_by_hand(float(x[index]), float(grad[index]), int(exponents[index[0]]), width, signed)
        for part, value in enumerate(values):
            by_hand[(part, *index)] = value
    expected = by_hand.sum((2, 3, 4))
    widths = torch.full((3,), float(width), dtype=torch.float64)

    leaves = [x.clone().requires_grad_(), *(r.view(3, 1, 1, 1).clone().requires_grad_() for r in (exponents, widths))]
    fake_quantize(*leaves, signed).backward(grad)
    close = {"rtol": 1e-12, "atol": 1e-9}  # float64 sums in another order
    assert torch.equal(leaves[0].grad, by_hand[0])
    torch.testing.assert_close(leaves[1].grad.flatten(), expected[1], **close)
    torch.testing.assert_close(leaves[2].grad.flatten(), expected[2], **close)

    for channel in range(3):  # per tensor, one channel at a time
        leaves = [t.clone().requires_grad_() for t in (x[channel : channel + 1], exponents[channel], widths[channel])]
        fake_quantize(*leaves, signed).backward(grad[channel : channel + 1])
        assert torch.equal(leaves[0].grad[0], by_hand[0, channel])
        torch.testing.assert_close(leaves[1].grad, expected[1, channel], **close)
        torch.testing.assert_close(leaves[2].grad, expected[2, channel], **close)


@pytest.mark.parametrize("signed", SIGNS)
@pytest.mark.parametrize("by_channel", [False, True])
def test_memory_layout_changes_nothing(signed: bool, by_channel: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 5, 7, generator=generator, dtype=torch.float64) * 4
    wide = torch.randn(2, 11, 5, 7, generator=generator, dtype=torch.float64)
    shape = (1, 6, 1, 1) if by_channel else ()
    reference = None
    for x_format in (torch.contiguous_format, torch.channels_last):
        for grad_format in (torch.contiguous_format, torch.channels_last):
            # what backward of a concatenation hands on: a slice of a wider gradient
            for slice_of_wider in (False, True):
                grad = wide[:, 3:9].contiguous(memory_format=grad_format)
                if slice_of_wider:
                    grad = wide.contiguous(memory_format=grad_format)[:, 3:9]
                    assert not grad.is_contiguous()
                leaves = [
                    x.clone(memory_format=x_format).requires_grad_(),
                    torch.full(shape, -0.3, dtype=torch.float64, requires_grad=True),
                    torch.full(shape, 3.2, dtype=torch.float64, requires_grad=True),
                ]
                y = fake_quantize(*leaves, signed)
                y.backward(grad)
                found = [y.detach(), *(leaf.grad for leaf in leaves)]
                reference = reference or found
                assert torch.equal(found[0], reference[0])
                assert torch.equal(found[1], reference[1])
                for a, b in zip(found[2:], reference[2:], strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)  # sums in another order


def test_gradient_through_a_real_concatenation() -> None:
    a, b = (torch.randn(1, 3, 4, 4, dtype=torch.float64).mul_(3).requires_grad_() for _ in range(2))
    exponent, width = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-1.0, 3.0))
    weight = torch.randn(1, 6, 4, 4, dtype=torch.float64)
    joined = torch.cat((fake_quantize(a, exponent, width, False), fake_quantize(b, exponent, width, False)), 1)
    (joined * weight).sum().backward()
    together = [t.grad.clone() for t in (a, b, exponent, width)]
    both = torch.cat((a, b), 1).detach().requires_grad_()
    exponent.grad = width.grad = None
    (fake_quantize(both, exponent, width, False) * weight).sum().backward()
    assert torch.equal(torch.cat(together[:2], 1), both.grad)
    torch.testing.assert_close(together[2], exponent.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together[3], width.grad, rtol=1e-12, atol=1e-12)


def test_the_gradient_widens_where_values_are_clipped_in_vain() -> None:
    """Descent on |y - x| makes a too narrow range wider: the sign of the width's gradient is right."""
    x = torch.linspace(-4, 4, 200)
    exponent, width = torch.tensor(-2.0), torch.tensor(2.0, requires_grad=True)
    (fake_quantize(x, exponent, width, True) - x).square().sum().backward()
    assert float(width.grad) < 0


@pytest.mark.parametrize("signed", [True, False])
def test_half_precision_keeps_type_codes_and_gradients(signed: bool) -> None:
    """Mixed precision hands over bfloat16, of 8 significant bits: enough for codes of 5 bits, exactly."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn((2, 4, 16, 16), generator=generator).bfloat16()
    results = []
    for kind in (torch.bfloat16, torch.float32):
        x = values.to(kind, copy=True).requires_grad_()
        exponent, width = torch.tensor(-4.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
        y = fake_quantize(x, exponent, width, signed)
        assert y.dtype == kind
        (y * values.to(kind)).sum(dtype=torch.float32).backward()
        gradients = [torch.empty(()) if each.grad is None else each.grad.float() for each in (x, exponent, width)]
        results.append((y.detach().float(), gradients[0], gradients[1].item(), gradients[2].item()))
    (y16, x16, exponent16, width16), (y32, x32, exponent32, width32) = results
    assert torch.equal(y16, y32)
    assert torch.equal(x16, x32)
    # each product is rounded to 8 bits before the float32 sum
    assert exponent16 == pytest.approx(exponent32, rel=0.02)
    assert width16 == pytest.approx(width32, rel=0.02)


@pytest.mark.parametrize("signed", SIGNS)
def test_gradients_depend_neither_on_layout_nor_on_parts(signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor is taken in parts as it lies in memory; its gradient may lie otherwise, a slice has gaps."""
    torch.manual_seed(0)
    values, upstream = torch.randn(3, 6, 10, 10, dtype=torch.float64), torch.randn(3, 6, 10, 10, dtype=torch.float64)
    wide = torch.randn(3, 12, 10, 10, dtype=torch.float64)
    wide[:, ::2] = values
    last = torch.channels_last

    def gradients(x: Tensor, given: Tensor) -> list[Tensor]:
        leaf, ranges = x.requires_grad_(), [torch.tensor(value, requires_grad=True) for value in (-2.0, 3.0)]
        return list(torch.autograd.grad(fake_quantize(leaf, *ranges, signed), [leaf, *ranges], given))

    expected = gradients(values.clone(), upstream)
    monkeypatch.setattr("quantunet.quant.fake_quant.PART", 256)  # the last part is shorter
    for x in (values.clone(), values.to(memory_format=last), wide[:, ::2].detach()):
        for given in (upstream, upstream.contiguous(memory_format=last)):
            found = gradients(x, given)
            assert torch.equal(found[0], expected[0])
            torch.testing.assert_close(found[1:], expected[1:], rtol=1e-6, atol=0)
