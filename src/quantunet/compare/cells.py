"""The columns of the table, and its numbers as text: written once, for Markdown, LaTeX and HTML alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantunet.compare.statistics import GATES
from quantunet.compare.table import DataTable, Row, gate_name

MISSING = "\u2013"
LISTED_ROWS = 5
"""Missing runs of one seed that are named one by one; more are counted."""


@dataclass(frozen=True)
class Cell:
    """What a cell says, and below or behind it in smaller type its interval or addition; plain text."""

    text: str
    note: str = ""


def columns(table: DataTable) -> list[str]:
    """Heads of the columns of ``cells``, after the name's."""
    return [
        *(["Setting"] if _has_settings(table) else []),
        "Dice",
        "Change to float",
        "p",
        f"HD95, {table.distance_unit}",
        "Pixel acc.",
        "Bits by layer",
        "Bits by parameter",
        "Bits of activations",
        "Packed bytes",
        "File bytes",
        "Ratio",
        "GBOPs",
        "Time, min",
        "Dominated by",
        *(f"≥\u00a0{gate_name(gate)}" for gate in GATES),
    ]


def cells(row: Row, table: DataTable) -> list[Cell]:
    """The row's cells, in the order of ``columns``."""
    trivial = next((each.pixel_accuracy for each in table.rows if each.kind == "trivial"), None)
    change = row.change
    note = f"trivial {number(trivial, 4)}" if row.kind != "trivial" and row.pixel_accuracy is not None else ""
    return [
        *([Cell(row.setting or "")] if _has_settings(table) else []),
        Cell(number(row.dice, 4), dice_interval(row)),
        Cell(number(change.mean if change else None, 4, signed=True), _bracket(change.ci95 if change else None, True)),
        Cell(_p(row), f"n = {change.cases}" if change else ""),
        Cell(number(row.hd95, 2)),
        Cell(number(row.pixel_accuracy, 4), note),
        Cell(number(row.weight_bits_by_layer, 2)),
        Cell(number(row.weight_bits_by_parameter, 2)),
        Cell(number(row.activation_bits, 2)),
        Cell(whole(row.packed_bytes)),
        Cell(whole(row.file_bytes), f"formula {whole(row.stored_bytes)}" if row.simulated else ""),
        Cell(MISSING if row.ratio is None else f"{row.ratio:.1f}\u00d7"),
        Cell(number(None if row.bops is None else row.bops / 1e9, 2)),
        Cell(number(None if row.time_s is None else row.time_s / 60, 1)),
        Cell(row.dominated_by or ""),
        *(Cell({True: "yes", False: "no", None: ""}[row.keeps.get(gate_name(gate))]) for gate in GATES),
    ]


def label(row: Row) -> str:
    """The row's name, marked where it is simulated, with its seeds where some are missing."""
    text = row.name + (" (simulated)" if row.simulated else "")
    return f"{text} [{len(row.seeds)} of {len(row.seeds) + len(row.missing)} seeds]" if row.missing else text


def dice_interval(row: Row) -> str:
    """± half a t-interval over seeds, or the bootstrap interval over cases in brackets."""
    if row.dice_ci95 is None:
        return ""
    if row.dice_interval == "t over seeds":
        return f"± {(row.dice_ci95[1] - row.dice_ci95[0]) / 2:.4f}"
    return _bracket(row.dice_ci95, False)


def missing_lines(tables: Sequence[DataTable]) -> list[str]:
    """One line for each run that is not in the tables, or for many of one seed that are missing for the same reason;
    with the data set where there are several.
    """
    lines = []
    for table in tables:
        where = f" on {table.name}" if len(tables) > 1 else ""
        names: dict[tuple[int, str], list[str]] = {}
        for row in (*table.rows, *table.left_out):
            for seed, why in row.missing.items():
                names.setdefault((seed, why), []).append(f"{row.name} of {row.setting}" if row.setting else row.name)
        for (seed, why), rows in names.items():
            if len(rows) > LISTED_ROWS:
                rows = [f"{len(rows)} rows, {rows[0]} to {rows[-1]},"]
            lines += [f"{name} seed {seed}{where}: {why}" for name in rows]
    return lines


def conventions(table: DataTable) -> str:
    """What the numbers of this table are, in words."""
    seeds = sorted({seed for row in table.rows for seed in row.seeds})
    kinds = {row.dice_interval for row in table.rows}
    intervals = []
    if "t over seeds" in kinds:
        intervals.append("± is half a 95 % t-interval of the mean over seeds")
    if "bootstrap over cases" in kinds:
        intervals.append("[low, high] is, for a single seed, the 95 % bootstrap interval over the test cases")
    text = (
        f"{table.test_cases} test cases, seeds {', '.join(map(str, seeds)) or 'none'}. "
        f"Dice: mean over the seeds{'; ' if intervals else ''}{'; '.join(intervals)}. "
        "Change: by case against the float network that the run started from, the seeds of a case averaged, "
        "with its 95 % bootstrap interval over the n cases; p: Wilcoxon signed-rank over the same n cases, two-sided. "
        "Dominated by: the integer model with the best Dice among those with no more bytes, where that is no less than "
        "this one's. The last columns: whether the mean Dice keeps that share of its float networks'. "
        "Bytes of integer models are lengths of real files; ratio: float32 bytes to the file's. "
        "BOPs of one image of the test size: MACs \u00d7 weight bits \u00d7 activation bits. "
        "Time is without a float phase that several runs share: that stands in the float row."
    )
    if any(row.simulated for row in table.rows):
        text += " Simulated: no integer form, measured fake-quantized; bytes by formula, float layers at 32 bits."
    if _has_settings(table):
        settings = dict.fromkeys(row.setting for row in (*table.rows, *table.left_out) if row.setting)
        text += (
            f" Setting: of {' and '.join(settings)} the one with which the row's own validation Dice, mean over the "
            "seeds, is best; test cases play no part in the choice."
        )
    return text


def _has_settings(table: DataTable) -> bool:
    return any(row.setting for row in table.rows)


def number(value: float | None, digits: int, signed: bool = False) -> str:
    """A number with a fixed count of decimals, or a dash; what rounds to zero has no sign."""
    if value is None:
        return MISSING
    value = round(value, digits) or 0.0
    return (f"{value:+.{digits}f}" if signed and value else f"{value:.{digits}f}").replace("-", "\u2212")


def whole(value: float | None) -> str:
    """A whole number with commas between thousands, or a dash."""
    return MISSING if value is None else f"{value:,.0f}"


def _bracket(ci95: tuple[float, float] | None, signed: bool) -> str:
    return "" if ci95 is None else f"[{number(ci95[0], 4, signed)}, {number(ci95[1], 4, signed)}]"


def _p(row: Row) -> str:
    if row.change is None:
        return MISSING
    if row.change.p is None:
        return "equal"
    return "< 0.001" if row.change.p < 0.001 else f"{row.change.p:.3f}"
