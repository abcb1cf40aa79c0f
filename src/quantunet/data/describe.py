"""What is in a dataset: counts, shapes, spacing, classes and their share, intensities, problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from quantunet.data.sample import PARTS, Dataset, Sample
from quantunet.data.split import Split


def describe(dataset: Dataset, split: Split | None = None) -> dict[str, Any]:
    """The dataset as a JSON object, with the parts of ``split`` when one is given.

    Fractions are of pixels, 0 to 1; spacing in mm; intensities in the files' own unit.
    """
    shapes = Counter("x".join(map(str, sample.image.shape[1:])) for sample in dataset.samples)
    spacings = Counter(
        "x".join(f"{length:.3g}" for length in sample.spacing_mm) if sample.spacing_mm else "unknown"
        for sample in dataset.samples
    )
    described: dict[str, Any] = {
        "name": dataset.name,
        "reader": dataset.reader,
        "source": dataset.source,
        "cases": len(dataset.case_ids),
        **({"patients": patients} if (patients := len(set(dataset.group_of.values()))) < len(dataset.case_ids) else {}),
        "samples": len(dataset.samples),
        "channels": dataset.channels,
        "shapes": dict(shapes.most_common()),
        "spacing_mm": dict(spacings.most_common()),
        "classes": {name: list(v) for name, v in zip(dataset.class_names, dataset.class_values, strict=True)},
        "foreground_fraction": foreground_fractions(dataset.samples, dataset.class_names),
        "empty_masks": sum(sample.mask is not None and not sample.mask.any() for sample in dataset.samples),
        "intensity": _intensity(dataset.samples),
        **({"in_plane": dataset.in_plane.to_json()} if dataset.in_plane else {}),
        "problems": list(dataset.problems),
        "hints": list(dataset.hints),
    }
    if split is not None:
        described["split"] = {}
        for part in PARTS:
            case_ids = getattr(split, part)
            samples = dataset.of_cases(case_ids)
            described["split"][part] = {
                "cases": len(case_ids),
                "samples": len(samples),
                "foreground_fraction": foreground_fractions(samples, dataset.class_names),
                "case_ids": list(case_ids),
            }
    return described


def foreground_fractions(samples: Sequence[Sample], class_names: Sequence[str]) -> dict[str, float]:
    """Share of all pixels by foreground class; samples without a mask do not count; empty without any."""
    counts, pixels = np.zeros(len(class_names), np.int64), 0
    for sample in samples:
        if sample.mask is not None:
            counts += np.bincount(sample.mask.reshape(-1), minlength=len(class_names))
            pixels += sample.mask.size
    if pixels == 0:
        return {}
    return {name: float(count / pixels) for name, count in zip(class_names[1:], counts[1:], strict=True)}


def _intensity(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Smallest and largest value by channel, and the medians of the images' 1st and 99th percentile."""
    low = np.min([sample.image.min(axis=(1, 2)) for sample in samples], axis=0)
    high = np.max([sample.image.max(axis=(1, 2)) for sample in samples], axis=0)
    some = samples[:: max(1, len(samples) // 200)]  # percentiles sort the pixels: 200 images say enough
    p1, p99 = np.median([np.percentile(sample.image, (1, 99), axis=(1, 2)) for sample in some], axis=0)
    return {"min": low.tolist(), "max": high.tolist(), "p1": p1.tolist(), "p99": p99.tolist()}
