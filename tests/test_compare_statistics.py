"""Intervals, paired tests, gates and the front of a comparison, on numbers worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from quantunet.compare.statistics import dominator, keeps, paired_change, pareto_front, t_interval95, wilcoxon_p


def test_t_interval() -> None:
    assert t_interval95([0.8]) is None
    low, high = t_interval95([0.8, 0.81, 0.82]) or (0.0, 0.0)
    half = 4.302652729911275 * 0.01 / 3**0.5  # t(0.975, 2), of any table
    assert (low, high) == pytest.approx((0.81 - half, 0.81 + half), abs=1e-12)  # floating-point rounding only


def test_a_change_averages_the_seeds_of_a_case_first() -> None:
    change = paired_change([{"a": 0.9, "b": 0.5}, {"b": 0.7, "a": 0.9}], [{"a": 0.8, "b": 0.6}, {"a": 0.8, "b": 0.6}])
    assert change is not None
    assert change.mean == pytest.approx(0.05)  # a: +0.1, b: (-0.1 + 0.1) / 2
    assert (change.cases, change.seeds) == (2, 2)
    assert change.ci95 == pytest.approx((0.0, 0.1))
    assert paired_change([], []) is None
    with pytest.raises(ValueError, match="different cases"):
        paired_change([{"a": 1.0}], [{"b": 1.0}])
    with pytest.raises(ValueError, match="seeds"):
        paired_change([{"a": 1.0}], [])


def test_wilcoxon_counts_sign_patterns() -> None:
    """Six cases that all fall: 2 of the 2^6 sign patterns are as extreme."""
    falls = [-0.01, -0.02, -0.03, -0.04, -0.05, -0.06]
    assert wilcoxon_p(falls) == pytest.approx(2 / 64)
    assert wilcoxon_p([0.0, 0.0]) is None
    signed = [1.0, -2.0, 3.0, 4.0]
    observed = abs(sum(signed))
    patterns = [sum(s * abs(v) for s, v in zip(signs, signed, strict=True))
                for signs in itertools.product((-1, 1), repeat=4)]  # fmt: skip
    assert wilcoxon_p(signed) == pytest.approx(np.mean([abs(p) >= observed for p in patterns]))


@pytest.mark.parametrize(
    ("score", "reference", "share", "kept"),
    [(0.792, 0.8, 0.99, True), (0.7919, 0.8, 0.99, False), (0.7992, 0.8, 0.999, True), (0.81, 0.8, 0.999, True),
     (0.0, 0.0, 0.99, True)],
)  # fmt: skip
def test_gates(score: float, reference: float, share: float, kept: bool) -> None:
    assert keeps(score, reference, share) is kept


def test_front_of_hand_made_points() -> None:
    points = [(4.0, 0.9), (1.0, 0.5), (2.0, 0.8), (2.0, 0.7), (3.0, 0.8), (8.0, 0.9), (0.5, 0.2)]
    assert pareto_front(points) == [6, 1, 2, 0]
    assert pareto_front([]) == []
    assert pareto_front([(1.0, 0.5), (1.0, 0.5)]) == [0]


def test_front_is_what_no_other_point_dominates() -> None:
    rng = np.random.default_rng(0)
    points = [(float(c), float(s)) for c, s in rng.integers(0, 12, (60, 2))]
    front = {points[i] for i in pareto_front(points)}

    def dominated(p: tuple[float, float]) -> bool:
        return any(c <= p[0] and s >= p[1] and (c, s) != p for c, s in points)

    assert front == {p for p in points if not dominated(p)}


def test_a_dominator_costs_no_more_and_scores_no_less() -> None:
    points = [(4.0, 0.9), (1.0, 0.5), (2.0, 0.8), (2.0, 0.7), (3.0, 0.8), (8.0, 0.9), (2.0, 0.8)]
    assert [dominator(points, place) for place in range(7)] == [None, None, None, 2, 2, 0, None]
    front = {points[place] for place in pareto_front(points)}
    assert {point for place, point in enumerate(points) if dominator(points, place) is None} == front
