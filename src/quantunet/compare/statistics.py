"""What the table says of several runs: intervals over seeds, paired tests over cases, gates, the Pareto front."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from quantunet.metrics.intervals import bootstrap_ci95

GATES = (0.99, 0.999)
"""Shares of the float network's Dice that a quantized one is asked to keep."""


@dataclass(frozen=True)
class PairedChange:
    """Change of a score against its own float network, by case.

    Args:
        mean: over the cases; of each case the mean over the seeds.
        ci95: bootstrap interval over the cases; None for a single case.
        p: two-sided Wilcoxon signed-rank over the cases; None where no case changed.
        cases, seeds: how many; ``cases`` is the n of interval and test.
    """

    mean: float
    ci95: tuple[float, float] | None
    p: float | None
    cases: int
    seeds: int


def t_interval95(values: Sequence[float]) -> tuple[float, float] | None:
    """``mean ± t(0.975, n - 1) s / sqrt(n)`` of the mean of ``values``, one a seed; None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    half = float(stats.t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    mean = float(np.mean(values))
    return mean - half, mean + half


def paired_change(
    scores: Sequence[Mapping[str, float]], references: Sequence[Mapping[str, float]]
) -> PairedChange | None:
    """Change of ``scores`` against ``references``, each by case id, one mapping a seed, in the same order of seeds.

    The case is the unit: the same case under three seeds is no three cases, so its changes are averaged first. Cases
    that some seed lacks (splits by seed) count with the seeds they have. None where there is no pair.

    Raises:
        ValueError: if the numbers of seeds differ, or a seed's scores and references name different cases.
    """
    if len(scores) != len(references):
        raise ValueError(f"{len(scores)} seeds of scores against {len(references)} of references")
    by_case: dict[str, list[float]] = {}
    for score, reference in zip(scores, references, strict=True):
        if score.keys() != reference.keys():
            raise ValueError(f"different cases: {', '.join(sorted(score.keys() ^ reference.keys())[:3])} in one only")
        for case_id, value in score.items():
            by_case.setdefault(case_id, []).append(value - reference[case_id])
    if not by_case:
        return None
    differences = [float(np.mean(values)) for values in by_case.values()]
    return PairedChange(
        mean=float(np.mean(differences)),
        ci95=bootstrap_ci95(differences),
        p=wilcoxon_p(differences),
        cases=len(differences),
        seeds=len(scores),
    )


def wilcoxon_p(differences: Sequence[float]) -> float | None:
    """Two-sided Wilcoxon signed-rank test that ``differences`` are symmetric about 0; zeros are left out."""
    moved = [value for value in differences if value != 0.0]
    if not moved:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few or tied values: n stands beside p in every table
        return float(stats.wilcoxon(moved).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def keeps(score: float, reference: float, share: float) -> bool:
    """Whether ``score`` is at least ``share`` of ``reference``."""
    return score >= share * reference


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points (cost, score) that no other point beats: none costs as little or less and scores as much
    or more, one of them strictly. In the order of cost; of equal points the first.
    """
    front: list[int] = []
    best = -math.inf
    for place in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[place][1] > best:
            front.append(place)
            best = points[place][1]
    return front


def dominator(points: Sequence[tuple[float, float]], place: int) -> int | None:
    """Place of the best-scoring point that dominates point ``place`` of (cost, score): it costs no more and scores no
    less, one of them strictly. None on the front.
    """
    cost, score = points[place]
    others = [i for i, (c, s) in enumerate(points) if c <= cost and s >= score and (c, s) != (cost, score)]
    return max(others, key=lambda i: (points[i][1], -points[i][0]), default=None)
