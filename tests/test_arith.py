from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantunet.arith import MAX_SHIFT, multiplier_and_shift, requantize, saturate, shift_round_half_up
from quantunet.formats import INT32, IntFormat

ACC = st.integers(INT32.q_min, INT32.q_max)


def round_half_up(value: Fraction) -> int:
    """The rule itself, in exact rational numbers."""
    return floor(value + Fraction(1, 2))


def clamp(value: int, output: IntFormat) -> int:
    return min(max(value, output.q_min), output.q_max)


@pytest.mark.parametrize("shift", range(1, 9))
def test_every_tie_goes_up(shift):
    odd_halves = np.arange(-41, 42, 2, dtype=np.int64) << (shift - 1)
    expected = [(half + 1) // 2 for half in range(-41, 42, 2)]
    assert shift_round_half_up(odd_halves, shift).tolist() == expected


def test_examples_of_the_specification():
    values = np.array([-6, -5, -3, -2, -1, 0, 1, 2, 3, 5, 6], np.int64)
    assert shift_round_half_up(values, 1).tolist() == [-3, -2, -1, -1, 0, 0, 1, 1, 2, 3, 3]
    assert shift_round_half_up(values, 2).tolist() == [-1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 2]
    assert shift_round_half_up(values, -2).tolist() == [4 * value for value in values.tolist()]


@settings(max_examples=300)
@given(ACC, st.integers(-31, MAX_SHIFT))
@example(INT32.q_min, -31)
@example(INT32.q_max, -31)
@example(INT32.q_min, MAX_SHIFT)
@example(INT32.q_max, 31)
@example(INT32.q_min, 32)
def test_shift_equals_rational_arithmetic(value, shift):
    expected = round_half_up(Fraction(value) / Fraction(2) ** shift)
    assert shift_round_half_up(np.array([value], np.int64), shift).tolist() == [expected]


@settings(max_examples=400)
@given(ACC, st.integers(0, 2**31 - 1), st.integers(0, MAX_SHIFT), st.integers(1, 32), st.booleans())
@example(INT32.q_min, 2**31 - 1, MAX_SHIFT, 32, True)
@example(INT32.q_max, 2**31 - 1, MAX_SHIFT, 32, True)
@example(INT32.q_min, 2**31 - 1, 0, 32, True)
@example(INT32.q_max, 2**31 - 1, 0, 32, False)
@example(INT32.q_max, 0, 0, 8, True)
def test_requantize_equals_rational_arithmetic(acc, multiplier, shift, bit_width, signed):
    output = IntFormat(bit_width, signed)
    expected = clamp(round_half_up(Fraction(acc * multiplier, 2**shift)), output)
    assert requantize(np.array([acc], np.int64), multiplier, shift, output).tolist() == [expected]


@given(ACC, st.integers(-31, -1))
def test_requantize_shifts_left_and_saturates(acc, shift):
    output = IntFormat(8, True)
    assert requantize(np.array([acc], np.int64), 1, shift, output).tolist() == [clamp(acc << -shift, output)]


def test_multipliers_and_shifts_go_by_channel():
    acc = np.full((1, 3, 2, 2), 5, np.int64)
    multiplier = np.array([1, 3, 2**30])[None, :, None, None]
    shift = np.array([1, 1, 31])[None, :, None, None]
    codes = requantize(acc, multiplier, shift, IntFormat(8, True))
    assert codes[0, :, 0, 0].tolist() == [3, 8, 3]


def test_saturate_keeps_codes_and_clamps_the_rest():
    values = np.array([-9, -8, -7, 0, 7, 8], np.int64)
    assert saturate(values, IntFormat(4, True)).tolist() == [-8, -8, -7, 0, 7, 7]
    assert saturate(values, IntFormat(4, True, narrow_range=True)).tolist() == [-7, -7, -7, 0, 7, 7]
    assert saturate(values, IntFormat(3, False)).tolist() == [0, 0, 0, 0, 7, 7]


@settings(max_examples=500)
@given(st.floats(2.0**-31, 2.0**30, exclude_min=True, exclude_max=True, allow_subnormal=False))
@example(np.nextafter(1.0, 0.0))
@example(np.nextafter(2.0**-31, 1.0))
@example(np.nextafter(2.0**30, 0.0))
@example(1 - 2.0**-32)
def test_multiplier_and_shift_is_nearer_than_2_to_minus_30(ratio):
    multiplier, shift = multiplier_and_shift(ratio)
    assert (multiplier == 1 and -31 <= shift <= MAX_SHIFT) or (2**30 <= multiplier < 2**31 and 0 <= shift <= MAX_SHIFT)
    error = abs(Fraction(multiplier) / Fraction(2) ** shift / Fraction(ratio) - 1)
    assert error < Fraction(1, 2**30)


@pytest.mark.parametrize("exponent", range(-31, 30))
def test_powers_of_two_are_exact_shifts(exponent):
    assert multiplier_and_shift(2.0**exponent) == (1, -exponent)


@given(ACC, st.floats(2.0**-60, 2.0**-31))
@example(INT32.q_min, 2.0**-32)
@example(INT32.q_max, 2.0**-32)
@example(INT32.q_min, float(np.nextafter(2.0**-32, 1.0)))
def test_tiny_ratios_give_what_the_exact_ratio_gives(acc, ratio):
    """The multiplier's own error may move a result only where the exact value is within it of a tie."""
    multiplier, shift = multiplier_and_shift(ratio)
    got = requantize(np.array([acc], np.int64), multiplier, shift, IntFormat(8, True)).tolist()[0]
    exact = Fraction(acc) * Fraction(ratio)
    assert abs(got - exact) <= Fraction(1, 2) + abs(exact) * Fraction(1, 2**29)


def test_ratios_that_move_no_accumulator_are_zero():
    assert multiplier_and_shift(2.0**-32) == (0, 0)
    assert multiplier_and_shift(2.0**-40) == (0, 0)
    assert multiplier_and_shift(5e-324) == (0, 0)


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf"), 2.0**30])
def test_ratios_that_are_no_ratio_are_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        multiplier_and_shift(ratio)


def test_the_tables_of_the_specification():
    spec = (Path(__file__).parents[1] / "docs" / "integer_ir.md").read_text()
    tables = [[cell.strip() for cell in line.strip("|").split("|")] for line in spec.splitlines() if line[:1] == "|"]
    (values,) = [list(map(int, cells[1:])) for cells in tables if cells[0] == "v"]
    shifted = [(int(cells[0][-2]), cells[1:]) for cells in tables if cells[0].startswith("shift_round")]
    for shift, expected in shifted:
        assert shift_round_half_up(np.array(values), shift).tolist() == list(map(int, expected))
    requantized = [cells for cells in tables if len(cells) == 5 and cells[0].lstrip("-").isdigit()]
    for acc, multiplier, shift, output, expected in requantized:
        codes = requantize(np.array([int(acc)]), int(multiplier), int(shift), IntFormat.parse(output))
        assert codes.tolist() == [int(expected)]
    assert (len(shifted), len(requantized)) == (2, 7)
