"""A picture of examples: images with the contours of their classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantunet.data.nifti_file import is_nifti
from quantunet.data.sample import Dataset, Sample

# Okabe and Ito: apart for colour-blind eyes, bright enough on grey
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")
_COLUMNS = 4
_AIR_HU = -1000.0


def write_examples_picture(dataset: Dataset, path: Path, count: int = 8) -> Path:
    """``count`` examples from as many cases as possible, foreground preferred, as a PNG (or what ``path`` ends in)."""
    # not at the top: reading data must not cost a second of importing matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    chosen = choose_examples(dataset, count)
    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    # one picture alone would leave no room for title and legend
    figure = Figure(figsize=(3.1 * max(columns, 3), 3.25 * rows + 0.75), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, sample in zip(grid.flat, chosen, strict=False):
        _draw(axes, sample)
        is_zoomed = _box(sample)[0] != slice(0, sample.image.shape[1])
        axes.set_title(
            _shortened(sample.name) + (" (zoomed)" if is_zoomed else ""), fontsize=8.5, color="#444444", pad=4
        )
    names = dataset.class_names[1:]
    legend = [
        Line2D([], [], color=COLOURS[k % len(COLOURS)], linewidth=2.5, label=name) for k, name in enumerate(names)
    ]
    top = 1 - 0.62 / (3.25 * rows + 0.75)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=top, wspace=0.04, hspace=0.12)
    cases = len(dataset.case_ids)
    title = f"{dataset.name}: {len(dataset.samples)} images of {cases} case{'s' * (cases != 1)}"
    figure.text(0.012, 0.985, title, fontsize=13, weight="bold", va="top", color="#222222")
    figure.legend(handles=legend, loc="upper right", ncols=min(5, len(legend)), frameon=False, fontsize=10)
    figure.savefig(path)
    return path


def choose_examples(dataset: Dataset, count: int) -> list[Sample]:
    """At most ``count`` samples: cases spread evenly, of each the slices richest in foreground first."""
    by_case: dict[str, list[Sample]] = {}
    for sample in dataset.samples:
        by_case.setdefault(sample.case_id, []).append(sample)
    for samples in by_case.values():
        samples.sort(key=lambda sample: 0 if sample.mask is None else -np.count_nonzero(sample.mask))
    cases = list(by_case)
    spread = [cases[k] for k in np.unique(np.linspace(0, len(cases) - 1, min(count, len(cases))).round().astype(int))]
    chosen: list[Sample] = []
    step = 3 if sum(-(-len(by_case[case]) // 3) for case in spread) >= count else 1  # neighbours look alike
    for rank in range(count):
        chosen += [by_case[case][rank * step] for case in spread if len(by_case[case]) > rank * step]
    return chosen[:count]


def displayable(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """(h, w) or (h, w, 3) in 0 to 1 from raw (c, h, w): cut at the 0.5th and 99.5th percentile."""
    shown = image.transpose(1, 2, 0) if len(image) == 3 else image[0]
    if float(shown.min()) < _AIR_HU - 200:  # CT scanners fill what lies outside their circle with less than air
        shown = np.maximum(shown, _AIR_HU)
    low, high = np.percentile(shown, (0.5, 99.5))
    if high <= low:  # mostly one value: show what there is
        low, high = float(shown.min()), float(shown.max())
    return np.clip((shown - low) / max(float(high - low), 1e-12), 0.0, 1.0).astype(np.float64)


def _draw(axes, sample: Sample) -> None:
    # NIfTI's second axis runs upwards (anterior, superior): drawn so, patients lie as radiologists see them
    origin = "lower" if sample.path is not None and is_nifti(sample.path) else "upper"
    spacing = sample.spacing_mm[-2:] if sample.spacing_mm else (1.0, 1.0)
    box = _box(sample)
    image = displayable(sample.image[:, box[0], box[1]])
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, origin=origin, aspect=spacing[0] / spacing[1])
    if sample.mask is None:
        return
    mask = sample.mask[box]
    for k in range(1, int(mask.max(initial=0)) + 1):
        if (mask == k).any() and not (mask == k).all():
            axes.contour(mask == k, [0.5], colors=COLOURS[(k - 1) % len(COLOURS)], linewidths=1.3)


def _box(sample: Sample) -> tuple[slice, slice]:
    """All of the image, or a square about the foreground where that is so small that its contour would be a dot."""
    height, width = sample.image.shape[1:]
    everything = (slice(0, height), slice(0, width))
    if sample.mask is None or not sample.mask.any() or min(height, width) < 160:
        return everything
    rows, columns = (np.flatnonzero(sample.mask.any(axis=axis)) for axis in (1, 0))
    side = max(int(np.ptp(rows)), int(np.ptp(columns))) * 4
    if side > 0.4 * min(height, width):
        return everything
    side = max(64, side)
    centre = (int(rows.mean()), int(columns.mean()))
    starts = [min(max(0, c - side // 2), length - side) for c, length in zip(centre, (height, width), strict=True)]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def _shortened(name: str, length: int = 34) -> str:
    return name if len(name) <= length else f"…{name[1 - length :]}"
