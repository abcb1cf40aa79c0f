"""Budgets: reading them, steering towards them, rounding onto them, refusing the impossible."""

from __future__ import annotations

import math

import pytest

from quantunet.errors import UserError
from quantunet.train.budget import (
    TOLERANCE,
    Budget,
    BudgetController,
    check_feasible,
    parse_budgets,
    rounding_shift,
)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("3bit", Budget("bits", 3)),
        ("2.5 bits", Budget("bits", 2.5)),
        (" 8BIT ", Budget("bits", 8)),
        ("0.8bit", Budget("bits", 0.8)),
        ("bits=2bit", Budget("bits", 2)),
        ("64KiB", Budget("file", 65536)),
        ("64kB", Budget("file", 64000)),
        ("1MiB", Budget("file", 1048576)),
        ("0.5mb", Budget("file", 500000)),
        ("60000B", Budget("file", 60000)),
        ("ram = 128 KiB", Budget("ram", 131072)),
        ("macs=50M", Budget("macs", 50e6)),
        ("bops=2.5G", Budget("bops", 2.5e9)),
        ("macs=1000", Budget("macs", 1000)),
        ("lut=20k", Budget("lut", 20e3)),
    ],
)
def test_budgets_are_read(text: str, budget: Budget) -> None:
    assert parse_budgets(text) == (budget,)


def test_several_budgets_are_read_in_their_order() -> None:
    expected = (Budget("flash", 65536), Budget("ram", 131072), Budget("bits", 1.5), Budget("macs", 5e7))
    assert parse_budgets("flash=64KiB ram=128KiB 1.5bit macs=50M") == expected
    assert parse_budgets("flash=64KiB, ram=128KiB,1.5bits,macs = 50M") == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "3", "bit", "three bit", "-3bit", "0bit", "9bit", "0KiB", "64 apples", "1e3B", "3bit64KiB"),
        *(
            "ram=3bit",
            "bits=64KiB",
            "speed=3M",
            "macs=64KiB",
            "macs=0",
            "lut=3KiB",
            "lut=0",
            "3bit 2bit",
            "ram=1KiB;macs=2M",
        ),
    ],
)
def test_what_is_no_budget_is_named(text: str) -> None:
    with pytest.raises(UserError, match="budget ") as error:
        parse_budgets(text)
    assert repr(text) in str(error.value)
    assert "\n" not in str(error.value)


def test_budgets_print_in_their_unit() -> None:
    assert str(Budget("bits", 2.5)) == "2.5 bit"
    assert str(Budget("file", 65536)) == "64 KiB"
    assert str(Budget("flash", 65536)) == "flash 64 KiB"
    assert str(Budget("macs", 5.5e7)) == "macs 55M"
    assert str(Budget("bops", 2e9)) == "bops 2G"
    assert str(Budget("macs", 90)) == "macs 90"
    assert str(Budget("lut", 20e3)) == "lut 20k"


class Plant:
    """A stand-in for training: widths drift up where accuracy pulls, down where the bit term does, at Adam's speed."""

    def __init__(self, pull: float, rate: float) -> None:
        self.bits, self.pull, self.rate, self.velocity = 8.0, pull, rate, 0.0

    def step(self, weight: float) -> float:
        force = self.pull / self.bits**2 - weight
        self.velocity = 0.9 * self.velocity + 0.1 * force
        self.bits -= self.rate * -math.tanh(4 * self.velocity)
        self.bits = min(max(self.bits, 1.0), 8.0)
        return self.bits


@pytest.mark.parametrize("target", [2.0, 3.0, 5.0])
@pytest.mark.parametrize("pull", [0.3, 3.0, 30.0])
@pytest.mark.parametrize(("steps", "tolerance"), [(300, 0.1), (2000, TOLERANCE)])
def test_controller_brings_a_simulated_plant_onto_the_budget(
    target: float, pull: float, steps: int, tolerance: float
) -> None:
    plant = Plant(pull, rate=min(0.1, 28 / (0.6 * steps)))
    controller = BudgetController(8.0, target, round(0.6 * steps))
    size = 8.0
    tail = []
    for step in range(steps):
        size = plant.step(controller.update(step, size))
        tail.append(size)
    mean = sum(tail[-20:]) / 20
    assert mean == pytest.approx(target, rel=tolerance), "after a short descent the rounding does the rest"


def test_the_plan_falls_from_the_start_to_the_budget_and_stays() -> None:
    controller = BudgetController(8.0, 2.0, 100)
    plan = [controller.planned(step) for step in range(150)]
    assert plan == sorted(plan, reverse=True)
    assert plan[49] == pytest.approx(4.0)
    assert plan[99] == plan[149] == pytest.approx(2.0)


def test_what_widths_do_not_change_is_left_out_of_the_error() -> None:
    controller = BudgetController(1000.0, 1000.0, 1)
    assert controller.error(5, 1000.0) == controller.error(5, 1000.0, fixed=900.0) == 0
    assert controller.error(5, 950.0) == pytest.approx(math.log2(0.95))
    assert controller.error(5, 950.0, fixed=900.0) == pytest.approx(-1)
    assert controller.error(5, 800.0, fixed=900.0) == pytest.approx(math.log2(0.1)), "no less than a hundredth"


def test_the_term_fades_as_the_size_falls_below_its_plan() -> None:
    weights = [BudgetController(4.0, 4.0, 1).update(0, 4.0 * 2**-octaves) for octaves in (0.0, 0.1, 0.2, 0.5)]
    assert weights[0] == pytest.approx(0.3)
    assert 0 < weights[1] < 0.15
    assert weights[2:] == [pytest.approx(0), 0.0]


def test_the_weight_of_the_bit_term_stays_within_its_limits() -> None:
    low, high = BudgetController(8, 2, 10), BudgetController(8, 2, 10)
    for step in range(2000):
        small, large = low.update(step, 1.0), high.update(step, 8.0)
    assert (small, low.log_weight) == (0.0, BudgetController.LIMITS[0]), "off, as long as the size is below"
    assert large == pytest.approx(math.exp(BudgetController.LIMITS[1]))


def of(widths: list[float]):
    return lambda shift: sum(min(max(math.floor(width + shift), 1), 8) for width in widths) / len(widths)


def test_rounding_is_kept_where_it_meets_the_budget() -> None:
    assert rounding_shift(of([2.6, 3.2, 3.4]), 3.0) == 0.5


@pytest.mark.parametrize("target", [1.5, 2.5, 3.0, 4.2, 5.4, 7.0])
def test_shift_comes_nearest_below_the_budget(target: float) -> None:
    widths = [1 + 7 * (i * 0.618 % 1) for i in range(400)]
    shift = rounding_shift(of(widths), target)
    assert target * 0.99 <= of(widths)(shift) <= target


def test_shift_meets_a_budget_that_the_descent_missed_by_far() -> None:
    widths = [7.5 + 0.001 * i for i in range(200)]
    assert of(widths)(rounding_shift(of(widths), 2.0)) <= 2.0


def test_shift_fills_a_budget_below_which_the_descent_went() -> None:
    widths = [2 + i * 0.004 for i in range(200)]
    assert of(widths)(rounding_shift(of(widths), 6.0)) == pytest.approx(6.0, rel=TOLERANCE)
    assert of(widths)(rounding_shift(of(widths), 9.0)) == 8.0, "more than all widths can fill"


def test_an_impossible_budget_is_refused_with_what_is_possible() -> None:
    check_feasible(Budget("file", 2048), 2048.0)
    with pytest.raises(UserError, match=r"budget 1 KiB: this network needs 2 KiB at the least"):
        check_feasible(Budget("file", 1024), 2048.0)
