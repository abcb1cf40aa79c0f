"""Several settings of one data set, learning rates for instance: each system with the one its validation prefers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quantunet.compare.table import DataTable, Row, with_dominators


def best_by_validation(tables: Sequence[tuple[str, DataTable]]) -> DataTable:
    """One table of several by name of their setting, which have the same cases: of each row the one with the best
    validation Dice; of equal ones the first, and one that lacks seeds only where all do. Test cases play no part.
    """
    rows: dict[str, list[Row]] = {}
    for setting, table in tables:
        for row in table.rows:
            rows.setdefault(row.name, []).append(row if row.kind == "trivial" else replace(row, setting=setting))
    chosen: list[Row] = []
    left_out: list[Row] = []
    for same in rows.values():
        best = max(same, key=_preference)
        chosen.append(best)
        left_out += [row for row in same if row is not best and row.kind != "trivial"]
    begun = next((table for _, table in tables if table.test_cases is not None), tables[0][1])
    return replace(
        begun,
        rows=(
            *(row for row in chosen if row.kind != "system"),
            *with_dominators([row for row in chosen if row.kind == "system"]),
        ),
        left_out=tuple(left_out),
    )


def _preference(row: Row) -> tuple[bool, float]:
    return not row.missing, -1.0 if row.validation_dice is None else row.validation_dice
