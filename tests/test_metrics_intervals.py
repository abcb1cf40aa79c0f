"""Bootstrap intervals: known cases, SciPy's own, coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from quantunet.metrics.intervals import bootstrap_ci95, paired_difference_ci95


def test_known_cases():
    assert bootstrap_ci95([0.7, 0.7, 0.7]) == pytest.approx((0.7, 0.7), abs=1e-15)  # a mean of three may round
    assert bootstrap_ci95([0.7]) is None
    low, high = bootstrap_ci95([0.0, 1.0])  # pyright: ignore[reportGeneralTypeIssues]
    assert (low, high) == (0.0, 1.0)  # each mean 0 and 1 has probability 1/4


def test_same_seed_same_interval():
    values = np.random.default_rng(3).random(40)
    assert bootstrap_ci95(values, seed=1) == bootstrap_ci95(values, seed=1)
    assert bootstrap_ci95(values, seed=1) != bootstrap_ci95(values, seed=2)


def test_agrees_with_scipy():
    values = np.random.default_rng(0).normal(0.8, 0.1, 30)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, random_state=0)
    # Two Monte-Carlo runs of 10,000: the quantile's standard error is about 2 % of the interval's width.
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert bootstrap_ci95(values) == pytest.approx(theirs.confidence_interval, abs=0.1 * width)


def test_covers_the_true_mean_about_95_times_of_100():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_ci95(rng.normal(0, 1, 40), seed=i, resamples=1000) for i in range(300)]
    covered = sum(low <= 0 <= high for low, high in intervals)  # pyright: ignore[reportGeneralTypeIssues]
    assert 0.90 < covered / 300 < 0.98  # 40 values: slightly under 95 %; +- 2.5 points is two standard errors


def test_blocks_cover_all_resamples():
    values = np.random.default_rng(0).random(1500)  # 10,000 x 1500 is drawn in several blocks
    low, high = bootstrap_ci95(values)  # pyright: ignore[reportGeneralTypeIssues]
    assert 0.4 < low < values.mean() < high < 0.6


def test_paired_difference_removes_the_spread_between_cases():
    reference = np.linspace(0.2, 0.9, 20)
    values = reference - 0.01
    mean, ci95 = paired_difference_ci95(list(values), list(reference))
    assert mean == pytest.approx(-0.01, abs=1e-12)  # subtraction of rounded decimals
    assert ci95 == pytest.approx((-0.01, -0.01), abs=1e-12)


def test_mistakes_are_named():
    for wrong in ([], [[0.1, 0.2]], [0.1, float("nan")]):
        with pytest.raises(ValueError, match="at least one finite number"):
            bootstrap_ci95(wrong)
    with pytest.raises(ValueError, match="2 values against 1"):
        paired_difference_ci95([1, 2], [1])
