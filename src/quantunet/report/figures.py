"""Figures as strings for a page without a network: charts as inline SVG, images as data URLs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from quantunet.report.run_files import Example

INK, MUTED, RULE, TRACK = "#1d2733", "#667085", "#d9dee6", "#eef1f5"
WEIGHT, ACTIVATION = "#0f766e", "#c2693c"
TRUTH, FLOAT, INTEGER = "#ffd23f", "#35c4f0", "#ff4f79"
CLASS_COLOURS = ("#ff4f79", "#35c4f0", "#7ae582", "#ffd23f", "#b892ff", "#ff9f5a", "#9ad0c2", "#f4f1de")
PHASE_COLOURS = {"float": "#eef4fb", "qat": "#eaf5f2", "finetune": "#fbf3ec"}
PHASE_NAMES = {"float": "float", "qat": "learning the widths", "finetune": "frozen widths"}
MAX_POINTS = 500  # on a curve; more would only make the file heavier

_STYLE: Mapping[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and drawn in the page's own font
    "font.size": 10,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}

Records = Sequence[Mapping[str, Any]]


def width_bars(layers: Sequence[Mapping[str, Any]]) -> str:
    """Bars of the weight and activation width of each layer, in bits, from the first layer down to the last."""
    with chart_style("width_bars"):
        figure = Figure(figsize=(10, 0.95 + 0.27 * len(layers)), layout="constrained")
        rows = np.arange(len(layers))
        pair = figure.subplots(1, 2, sharey=True)
        for axes, key, colour, title in zip(
            pair, ("weight", "activation"), (WEIGHT, ACTIVATION), ("Weights", "Activations"), strict=True
        ):
            values = [layer.get(key) for layer in layers]
            top = max([8.0, *(value for value in values if value is not None)])
            axes.barh(rows, top, height=0.62, color=TRACK)
            axes.barh(rows, [value or 0 for value in values], height=0.62, color=colour)
            for row, value in zip(rows, values, strict=True):
                text = "none" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")
                axes.text((value or 0) + 0.12, row, text, va="center", color=INK, fontsize=9)
            axes.set(title=title, xlabel="bits", xlim=(0, top), ylim=(len(layers) - 0.4, -0.6))
            axes.set_yticks(rows, [str(layer.get("name", row)) for row, layer in zip(rows, layers, strict=True)])
            axes.tick_params(length=0)
            axes.spines[["left", "bottom"]].set_visible(False)
        return svg_text(figure)


def width_course(records: Records) -> str | None:
    """Widths over the steps: each layer a thin line, the mean over parameters (activations) a thick one."""
    by_layer = [(r["step"], r["layers"]) for r in records if isinstance(r.get("layers"), Mapping) and r["layers"]]
    names = list(dict.fromkeys(name for _, layers in by_layer for name in layers))
    panels = [
        (key, index, colour, title)
        for key, index, colour, title in (
            ("weight_bits", 0, WEIGHT, "Weights"),
            ("activation_bits", 1, ACTIVATION, "Activations"),
        )
        if by_layer or _series(records, key)[0].size
    ]
    if not panels:
        return None
    with chart_style("width_course"):
        figure = Figure(figsize=(10, 3.7), layout="constrained")
        shown = np.atleast_1d(np.asarray(figure.subplots(1, len(panels), sharey=True)))
        colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, max(len(names), 2)))
        for axes, (key, index, colour, title) in zip(shown, panels, strict=True):
            for name, line in zip(names, colours, strict=False):
                points = [(step, _pair(layers.get(name))[index]) for step, layers in by_layer]
                points = [(step, value) for step, value in points if value is not None]
                if points:
                    axes.plot(*zip(*points, strict=True), color=line, linewidth=0.9, alpha=0.65)
            steps, values = _series(records, key)
            if steps.size:
                axes.plot(*_thin(steps, values), color="white", linewidth=5)
                axes.plot(*_thin(steps, values), color=colour, linewidth=2.6, label="mean")
                axes.annotate(f"{values[-1]:.2f}", (steps[-1], values[-1]), (5, 0), textcoords="offset points",
                              va="center", color=colour, fontweight="bold")  # fmt: skip
            _phases(axes, records, from_phase="qat")
            axes.set(title=title, xlabel="step", ylim=(0, None))
            axes.grid(axis="y", color=TRACK)
        shown[0].set_ylabel("bits")
        if names:
            bar = ScalarMappable(cmap=ListedColormap(colours))
            ticks = figure.colorbar(bar, ax=list(shown), fraction=0.02, pad=0.02, ticks=[0, 1])
            ticks.ax.set_yticklabels(["first layer", "last layer"], fontsize=9)
            ticks.ax.tick_params(length=0)
            ticks.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        return svg_text(figure)


def training_curves(records: Records) -> str | None:
    """Losses, validation Dice, learning rate and the weight of the bit term over the steps, shaded by phase."""
    panels = (
        ("Loss", {"loss": "total", "bce": "cross-entropy", "dice_loss": "soft Dice", "overlap_loss": None}, "linear"),
        ("Dice on the validation cases", {"val_dice": None}, "linear"),
        ("Learning rate", {"lr": None}, "log"),
        ("Bit-width term", {"bit_loss": "bit loss", "bit_loss_weight": "its weight"}, "log"),
    )
    shown = [
        (title, keys, scale) for title, keys, scale in panels if any(_series(records, key)[0].size for key in keys)
    ]
    if not shown:
        return None
    rows = (len(shown) + 1) // 2
    with chart_style("training_curves"):
        figure = Figure(figsize=(10, 2.9 * rows + 0.3), layout="constrained")
        grid = np.asarray(figure.subplots(rows, 2, squeeze=False)).ravel()
        for axes, (title, keys, scale) in zip(grid, shown, strict=False):
            _curves(axes, records, keys, scale)
            _phases(axes, records, labelled=axes is grid[0])
            axes.set(title=title, xlabel="step")
            axes.grid(axis="y", color=TRACK)
        for axes in grid[len(shown) :]:
            axes.set_visible(False)
        return svg_text(figure)


def dice_by_case(
    case_ids: Sequence[str], float_dice: Sequence[float], integer_dice: Sequence[float], after_name: str = "integer"
) -> str:
    """Dice of each case, float and deployed, the cases in the order of their float Dice."""
    order = np.argsort(float_dice, kind="stable").tolist()
    before, after = np.asarray(float_dice)[order], np.asarray(integer_dice)[order]
    columns = np.arange(len(order))
    with chart_style("dice_by_case"):
        figure = Figure(figsize=(10, 3.0 if len(order) > 24 else 3.4), layout="constrained")
        axes = figure.subplots()
        axes.vlines(columns, before, after, color=RULE, linewidth=2.4)
        axes.scatter(columns, before, s=34, facecolor="white", edgecolor=MUTED, linewidth=1.4, label="float", zorder=3)
        axes.scatter(columns, after, s=26, color=WEIGHT, label=after_name, zorder=4)
        if len(order) <= 24:
            axes.set_xticks(columns, [_short(str(case_ids[i])) for i in order], rotation=35, ha="right", fontsize=8)
        else:
            axes.set_xticks([])
            axes.set_xlabel(f"{len(order)} cases, by Dice of the float network")
        axes.set(ylabel="Dice", xlim=(-0.6, len(order) - 0.4))
        axes.grid(axis="y", color=TRACK)
        axes.set_axisbelow(True)
        axes.legend(loc="lower right", ncols=2)
        return svg_text(figure)


def example_panels(example: Example) -> dict[str, str]:
    """Four pictures of one test image as data URLs: ``image``, ``truth``, ``float`` and ``integer``.

    With one foreground class the truth is yellow in all of them; with several, the colour is the class, and the truth
    lies over the predictions, dotted in white.
    """
    masks = {"truth": example.truth, "float": example.float_mask, "integer": example.integer_mask}
    several = max(int(mask.max(initial=0)) for mask in masks.values()) > 1
    panels = {"image": _picture(example.image, [])}
    for key, mask in masks.items():
        contours = [(mask, None if several else {"truth": TRUTH, "float": FLOAT, "integer": INTEGER}[key], "solid")]
        if key != "truth":  # several classes: a dotted truth over them; one: a solid truth below
            contours = [*contours, (example.truth, "white", "dotted")] if several else [
                (example.truth, TRUTH, "solid"), *contours]  # fmt: skip
        panels[key] = _picture(example.image, contours)
    return panels


def _picture(image: NDArray[np.float64], contours: Sequence[tuple[NDArray[np.uint8], str | None, str]]) -> str:
    height, width = image.shape
    scale = max(1.0, 440 / max(height, width))  # small images are enlarged so that contours stay fine
    figure = Figure(figsize=(width * scale / 100, height * scale / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    low, high = np.nanpercentile(image, [0.5, 99.5])
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-12), interpolation="nearest", aspect="auto")
    for mask, colour, style in contours:
        for label in range(1, int(mask.max(initial=0)) + 1):
            if np.any(mask == label) and not np.all(mask == label):
                line = colour or CLASS_COLOURS[(label - 1) % len(CLASS_COLOURS)]
                axes.contour(
                    mask == label, [0.5], colors=[line], linewidths=1.1 if style == "dotted" else 1.9, linestyles=style
                )
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    # PNG is smaller where the image is smooth or enlarged, JPEG where it is noisy; whole colour keeps thin lines fine.
    options = {"png": {"optimize": True}, "jpeg": {"quality": 86, "subsampling": 0}}
    pictures = {}
    for kind, pil_options in options.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=100, pil_kwargs=pil_options)
        pictures[kind] = buffer.getvalue()
    kind = min(pictures, key=lambda k: len(pictures[k]))
    return f"data:image/{kind};base64," + base64.b64encode(pictures[kind]).decode()


def _curves(axes: Axes, records: Records, keys: Mapping[str, str | None], scale: str) -> None:
    for (key, label), colour in zip(keys.items(), (INK, WEIGHT, ACTIVATION, MUTED), strict=False):
        steps, values = _series(records, key)
        if scale == "log":  # a weight that is off leaves a gap, no fall to the edge
            values = np.where(values > 0, values, np.nan)
        if steps.size and (label or len(keys) == 1):
            marker = "o" if steps.size < 40 else None
            axes.plot(*_thin(steps, values), color=colour, label=label, marker=marker, markersize=3)
            if scale == "log" and not np.isnan(values).all():
                axes.set_yscale("log")
    if any(keys.values()):
        axes.legend()


def _phases(axes: Axes, records: Records, from_phase: str | None = None, labelled: bool = True) -> None:
    """Shade the span of each phase, behind the curves; ``from_phase`` leaves out what comes before it."""
    spans: dict[str, list[float]] = {}
    for record in records:
        spans.setdefault(str(record.get("phase", "")), []).append(record["step"])
    if from_phase in spans:
        spans = {name: steps for name, steps in spans.items() if min(steps) >= min(spans[from_phase])}
    starts = [min(steps) for steps in spans.values()]
    ends = [*starts[1:], max((max(steps) for steps in spans.values()), default=1)]
    for (name, _), start, end in zip(spans.items(), starts, ends, strict=True):
        axes.axvspan(start, end, color=PHASE_COLOURS.get(name, "#f6f7f9"), zorder=-2, linewidth=0)
        if labelled and end > start:
            is_last = end == ends[-1] and start > starts[0]  # the last phase is short: its name ends at the edge
            axes.annotate(PHASE_NAMES.get(name, name), (end if is_last else start, 1), (-3 if is_last else 3, -3),
                          xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
                          ha="right" if is_last else "left", fontsize=8, color=MUTED)  # fmt: skip
    axes.margins(y=0.14)  # room for the names
    if starts and max(ends) > min(starts):
        axes.set_xlim(min(starts), max(ends))


def _series(records: Records, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of the records that hold a finite number under ``key``."""
    points = [(r["step"], r[key]) for r in records if isinstance(r.get(key), int | float) and np.isfinite(r[key])]
    steps, values = np.asarray(points, np.float64).reshape(-1, 2).T
    return steps, values


def _thin(steps: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most MAX_POINTS points, each the mean of a stretch of the curve; the last point is kept as it is."""
    if steps.size <= MAX_POINTS:
        return steps, values
    stretches = np.array_split(np.arange(steps.size - 1), MAX_POINTS - 1)
    thin = np.array([[steps[s].mean(), values[s].mean()] for s in stretches] + [[steps[-1], values[-1]]])
    return thin[:, 0], thin[:, 1]


def _pair(value: Any) -> tuple[float | None, float | None]:
    if isinstance(value, Sequence) and len(value) == 2:
        return value[0], value[1]
    return None, None


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:8] + "…" + name[-8:]


def chart_style(name: str) -> AbstractContextManager[None]:
    """Our style, and a salt that gives each chart of a page its own element ids, the same in every run."""
    return mpl.rc_context({**_STYLE, "svg.hashsalt": name})


def svg_text(figure: Figure) -> str:
    """The figure as SVG to stand in a page: the same bytes in every run."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]  # without the XML declaration and the DOCTYPE, which names an address
