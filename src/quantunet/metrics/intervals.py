"""95 % bootstrap intervals of a mean over cases: the case is what is drawn again, never the pixel.

The percentile interval is a little too narrow where cases are few (below about ten): print the number of cases with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

_BLOCK = 1_000_000  # drawn values held at once: 8 MB, however many cases there are


def bootstrap_ci95(values: ArrayLike, seed: int = 0, resamples: int = 10_000) -> tuple[float, float] | None:
    """Percentile interval (2.5 %, 97.5 %) of the mean of ``values``, one value a case.

    Returns None for a single value: one case says nothing of the spread between cases.

    Raises:
        ValueError: if ``values`` is empty, not one-dimensional, or holds a value that is not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"values of shape {sample.shape} must be a list of at least one finite number, one a case")
    if sample.size == 1:
        return None
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _BLOCK // sample.size)
    for start in range(0, resamples, step):
        drawn = generator.integers(0, sample.size, size=(min(step, resamples - start), sample.size))
        means[start : start + step] = sample[drawn].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def paired_difference_ci95(
    values: Sequence[float], reference: Sequence[float], seed: int = 0, resamples: int = 10_000
) -> tuple[float, tuple[float, float] | None]:
    """Mean of ``values - reference``, both of the same cases in the same order, and its 95 % interval.

    Pairing removes the spread between easy and hard cases, which the two share.

    Raises:
        ValueError: if the lengths differ, or as `bootstrap_ci95` does.
    """
    if len(values) != len(reference):
        raise ValueError(f"{len(values)} values against {len(reference)} references: they must be the same cases")
    difference = np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    return float(difference.mean()) if difference.size else 0.0, bootstrap_ci95(difference, seed, resamples)
