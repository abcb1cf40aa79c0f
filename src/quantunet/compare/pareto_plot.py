"""Dice against bytes and against bit operations: seeds as light points, means as markers, and the front."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log10
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from quantunet.compare.statistics import GATES, pareto_front
from quantunet.compare.table import DataTable, Row, SeedPoint
from quantunet.report.figures import INK, MUTED, TRACK, chart_style, svg_text

COLOURS = ("#0f766e", "#c2693c", "#3b6fb6", "#8b5fbf", "#b8396a", "#7a8b2a", "#2a9fb0", "#a67c2d", "#5b6675", "#d1495b",
           "#4f8a5b", "#6c5ce7")  # fmt: skip
MARKERS = "osD^vPX<>phd"
SPAN = 0.07
"""Dice shown below the best, or three times what half of the systems lie below it: a system that failed altogether must
not press all others into one line."""
FRONT = "#94a3b3"
OURS = "learned"
"""The quantizer that is drawn over the others, a little larger, and has the first colour."""
PANEL_POINTS, LETTER_POINTS, LINE_POINTS, MARKER_POINTS = (340, 370), 4.7, 10, 4
"""Width and height of a panel, those of a letter of a name, and half a marker's, about."""
NAME_PLACES = ((-6, 6), (7, -12), (7, 6), (-6, -12), *((-6, up) for up in (17, 28, 39)), *((7, -up) for up in (23, 34)))
"""Offsets of a name from its marker in points, the best first; it ends at a negative one, and begins at a positive."""

_Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in points from the panel's lower left corner."""


@dataclass(frozen=True)
class _Series:
    """One system in one panel: the mean (cost, Dice), its seeds, and how it is drawn."""

    row: Row
    mean: tuple[float, float]
    seeds: Sequence[tuple[float, float]]
    colour: str
    marker: str


def pareto_svg(table: DataTable) -> str | None:
    """The plot as SVG, or None where no run is finished."""
    if not _rows(table):
        return None
    with chart_style("pareto_" + table.name):
        return svg_text(_figure(table))


def pareto_png(table: DataTable) -> bytes:
    """The plot as PNG, for Markdown."""
    buffer = io.BytesIO()
    with chart_style("pareto_" + table.name):
        _figure(table).savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()


def _rows(table: DataTable) -> list[Row]:
    return [row for row in table.rows if row.points]


def _figure(table: DataTable) -> Figure:
    rows = _rows(table)
    columns = 3
    legend_lines = -(-len(rows) // columns) + 1
    figure = Figure(figsize=(11, 5.6 + 0.2 * legend_lines), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    costs = (("bytes", "model, KiB (log)", 1024.0), ("bops", "GBOPs of one image (log)", 1e9))
    _set_dice_range(panels[0], [row.dice for row in rows if row.dice is not None], rows)
    for axes, (key, title, unit) in zip(panels, costs, strict=True):
        _panel(axes, [each for row in rows if (each := _series(row, rows, key, unit))], table)
        axes.set_xlabel(title)
    panels[0].set_title(f"Dice against bytes: {table.name}")
    panels[1].set_title("Dice against bit operations")
    panels[0].set_ylabel("Dice of the test cases")
    figure.legend(handles=_legend(rows), loc="outside lower center", ncols=columns, handletextpad=0.4, fontsize=8)
    return figure


def _series(row: Row, rows: Sequence[Row], key: str, unit: float) -> _Series | None:
    cost = row.stored_bytes if key == "bytes" else row.bops
    if cost is None or row.dice is None:
        return None
    seeds = [(value / unit, point.dice) for point in row.points if (value := _cost(point, key)) is not None]
    colour, marker = look(row, rows)
    return _Series(row, (cost / unit, row.dice), seeds, colour, marker)


def _cost(point: SeedPoint, key: str) -> float | None:
    return point.bytes if key == "bytes" else point.bops


def look(row: Row, rows: Sequence[Row]) -> tuple[str, str]:
    """Colour and marker: a colour for each system, or, where there are more than colours, for each quantizer."""
    if row.kind == "float":
        is_first = row.name == next(each.name for each in rows if each.kind == "float")
        return INK if is_first else MUTED, "*"
    systems = [each for each in rows if each.kind == "system"]
    place = [each.name for each in systems].index(row.name)
    if len(systems) <= len(COLOURS):
        return COLOURS[place], MARKERS[place]
    quantizers = sorted({each.quantizer or "" for each in systems}, key=lambda name: (name != OURS, name))
    alike = [each.name for each in systems if each.quantizer == row.quantizer]
    colour, marker = quantizers.index(row.quantizer or ""), alike.index(row.name)
    return COLOURS[colour % len(COLOURS)], MARKERS[marker % len(MARKERS)]


def _panel(axes: Axes, series: Sequence[_Series], table: DataTable) -> None:
    axes.set_xscale("log")
    front = pareto_front([each.mean for each in series])
    if front:
        beyond = 100 * max(each.mean[0] for each in series)  # as good for any higher cost
        x = [*(series[i].mean[0] for i in front), beyond]
        y = [*(series[i].mean[1] for i in front), series[front[-1]].mean[1]]
        axes.plot(x, y, drawstyle="steps-post", color=FRONT, linewidth=1.6, zorder=2)
        axes.fill_between(x, y, -1, step="post", color=TRACK, zorder=0, linewidth=0)
    for each in series:
        if len(each.seeds) > 1:
            axes.scatter(*zip(*each.seeds, strict=True), s=18, color=each.colour, alpha=0.32, linewidth=0, zorder=3)
        ours = each.row.quantizer == OURS
        size = 150 if each.row.kind == "float" else 84 if ours else 50
        face, edge, line = ("white", each.colour, 1.5) if each.row.simulated else (each.colour, "white", 0.9)
        axes.scatter(*each.mean, s=size, marker=each.marker, facecolor=face, edgecolor=edge, linewidth=line,
                     zorder=5.5 if ours else 5)  # fmt: skip
    _set_costs(axes, [value for each in series for value, _ in [each.mean, *each.seeds]])
    _name(axes, [series[i] for i in front], series)
    floats = [row.dice for row in table.rows if row.kind == "float" and row.dice is not None]
    for dice in floats[:1]:  # the one that most systems start from
        axes.axhline(dice, color=INK, linewidth=0.9, linestyle=(0, (5, 4)), alpha=0.55, zorder=1)
        axes.axhline(GATES[0] * dice, color=MUTED, linewidth=0.8, linestyle=(0, (1, 3)), zorder=1)
        axes.annotate("99 % of float", (1, GATES[0] * dice), (-4, -3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", va="top", ha="right", fontsize=7.5, color=MUTED,
                      annotation_clip=True)  # fmt: skip
    axes.grid(axis="y", color=TRACK, linewidth=0.8)
    axes.set_axisbelow(True)


def _name(axes: Axes, front: Sequence[_Series], series: Sequence[_Series]) -> None:
    """The names of the systems of the front, each at the first place in the panel that no other name and no marker
    takes, or at least none of the front; one that finds none is left to the legend.
    """
    others = [_marker_box(axes, each) for each in series if each not in front]
    taken = [_marker_box(axes, each) for each in front]
    for each in front:
        if each.row.kind != "system":
            continue
        boxes = ((place, _name_box(axes, each, place)) for place in NAME_PLACES)
        free = [(place, box) for place, box in boxes if _is_inside(box) and not _covers(box, taken)]
        if not free:
            continue
        place, box = next((it for it in free if not _covers(it[1], others)), free[0])
        taken.append(box)
        axes.annotate(each.row.name, each.mean, place, textcoords="offset points", va="bottom",
                      ha="right" if place[0] < 0 else "left", fontsize=8, color=each.colour, zorder=6)  # fmt: skip


def _in_points(axes: Axes, point: tuple[float, float]) -> tuple[float, float]:
    left, right = (log10(end) for end in axes.get_xlim())
    low, high = axes.get_ylim()
    width, height = PANEL_POINTS
    return (log10(point[0]) - left) / (right - left) * width, (point[1] - low) / (high - low) * height


def _marker_box(axes: Axes, series: _Series) -> _Box:
    x, y = _in_points(axes, series.mean)
    return x - MARKER_POINTS, y - MARKER_POINTS, x + MARKER_POINTS, y + MARKER_POINTS


def _name_box(axes: Axes, series: _Series, place: tuple[int, int]) -> _Box:
    x, y = _in_points(axes, series.mean)
    width = LETTER_POINTS * len(series.row.name)
    left, bottom = x + place[0] - (width if place[0] < 0 else 0), y + place[1]
    return left, bottom, left + width, bottom + LINE_POINTS


def _is_inside(box: _Box) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= PANEL_POINTS[0] and box[3] <= PANEL_POINTS[1]


def _covers(box: _Box, others: Sequence[_Box]) -> bool:
    """Whether ``box`` overlaps one of ``others``."""
    left, bottom, right, top = box
    return any(left < other[2] and other[0] < right and bottom < other[3] and other[1] < top for other in others)


def _set_costs(axes: Axes, values: Sequence[float]) -> None:
    """A range with room on the left for names, ticks at 1, 2 and 5 of each decade, written as plain numbers."""
    if not values:
        return
    low, high = log10(min(values)), log10(max(values))
    room = max(0.12 * (high - low), 0.12)
    axes.set_xlim(10 ** (low - 1.9 * room), 10 ** (high + room))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < 2.2 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _set_dice_range(axes: Axes, means: Sequence[float], rows: Sequence[Row]) -> None:
    values = [value for value in [*means, *(point.dice for row in rows for point in row.points)] if isfinite(value)]
    best, lowest = max(values), _lowest(rows)
    shown = [value for value in values if value >= lowest]
    room = max(0.08 * (best - min(shown)), 0.004)
    axes.set_ylim(min(shown) - room, best + 1.6 * room)


def _lowest(rows: Sequence[Row]) -> float:
    best = max(point.dice for row in rows for point in row.points)
    return best - max(SPAN, 3 * (best - median(row.dice for row in rows if row.dice is not None)))


def _legend(rows: Sequence[Row]) -> list[Line2D]:
    lowest = _lowest(rows)
    handles = []
    for row in rows:
        colour, marker = look(row, rows)
        below = f"  \u2193 {row.dice:.2f}" if row.dice is not None and row.dice < lowest else ""
        handles.append(
            Line2D(
                [],
                [],
                linestyle="",
                marker=marker,
                markersize=10 if row.kind == "float" else 7,
                markeredgecolor=colour if row.simulated else "white",
                markerfacecolor="white" if row.simulated else colour,
                label=row.name + (" (simulated)" if row.simulated else "") + below,
            )
        )
    handles.append(Line2D([], [], color=FRONT, linewidth=1.6, label="not dominated"))
    if any("\u2193" in str(handle.get_label()) for handle in handles):
        handles.append(Line2D([], [], linestyle="", label="\u2193 Dice: below the plot"))
    return handles
