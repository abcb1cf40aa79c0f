"""What a table of a comparison is made of: rows, the runs behind each, which of them beat which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from quantunet.compare.statistics import PairedChange, dominator

Kind = Literal["trivial", "float", "system"]
IntervalKind = Literal["t over seeds", "bootstrap over cases"]


@dataclass(frozen=True)
class SeedPoint:
    """One run, as the plot needs it: Dice against bytes and against BOPs."""

    seed: int
    dice: float
    bytes: float | None
    bops: float | None
    folder: str


@dataclass(frozen=True)
class Row:
    """One line of the table: means over the seeds that are finished; None where a column does not apply.

    Args:
        quantizer: the name of a system's, as in its configuration.
        dice_interval: what ``dice_ci95`` is: a t-interval over seeds, or for one seed the bootstrap over its cases.
        change: against the float network the runs started from, by case.
        simulated: measured without an integer form; its bytes are by formula.
        packed_bytes: of the weights; ``file_bytes`` of the whole model file, None where there is none.
        stored_bytes: the file's, or by formula where there is none: what ``ratio`` and the plot use.
        dominated_by: of the systems with an integer form, the best that has at least this Dice at no more stored bytes.
        keeps: by gate, whether the mean Dice is at least that share of the float networks'.
        time_s: without a float phase that was taken over.
        missing: seed -> why it is not in the means.
        validation_dice: of the network as it was trained, before it became integers.
        setting: of several of one data set, the one these runs had (``tuning.py``).
    """

    name: str
    kind: Kind
    quantizer: str | None
    simulated: bool
    seeds: tuple[int, ...]
    dice: float | None
    dice_ci95: tuple[float, float] | None
    dice_interval: IntervalKind | None
    change: PairedChange | None
    hd95: float | None
    pixel_accuracy: float | None
    weight_bits_by_layer: float | None
    weight_bits_by_parameter: float | None
    activation_bits: float | None
    packed_bytes: float | None
    file_bytes: float | None
    stored_bytes: float | None
    ratio: float | None
    bops: float | None
    dominated_by: str | None
    keeps: Mapping[str, bool]
    time_s: float | None
    missing: Mapping[int, str]
    points: tuple[SeedPoint, ...]
    validation_dice: float | None = None
    setting: str | None = None


@dataclass(frozen=True)
class DataTable:
    """All rows of one data set: all background, the float networks, then the systems in the order they were given.

    ``left_out`` are rows of other settings, which validation preferred less.
    """

    name: str
    distance_unit: str
    test_cases: int | None
    rows: tuple[Row, ...]
    left_out: tuple[Row, ...] = ()


def with_dominators(rows: Sequence[Row]) -> list[Row]:
    """Rows with ``dominated_by``; a row that lacks seeds dominates none, and says nothing."""
    whole = [row for row in rows if row.points and not row.missing]
    points = [(row.stored_bytes or 0.0, row.dice or 0.0) for row in whole]
    exact = [place for place, row in enumerate(whole) if not row.simulated]
    named: dict[str, str] = {}
    for place, row in enumerate(whole):
        rivals = [place, *(each for each in exact if each != place)]
        best = dominator([points[each] for each in rivals], 0)
        if best is not None:
            named[row.name] = whole[rivals[best]].name
    return [replace(row, dominated_by=named.get(row.name)) for row in rows]


def gate_name(gate: float) -> str:
    """As in the head of the table: ``99 %``, with a space that does not break."""
    return f"{100 * gate:g}\u00a0%"
