"""How systems are told apart in the plot of Dice against cost."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from quantunet.compare.pareto_plot import COLOURS, look, pareto_svg
from quantunet.compare.table import DataTable, Row, SeedPoint

NOTHING: dict[str, Any] = dict.fromkeys(Row.__dataclass_fields__)


def row(name: str, quantizer: str | None) -> Row:
    return Row(**NOTHING | {"name": name, "kind": "system" if quantizer else "float", "quantizer": quantizer})


def measured(name: str, quantizer: str | None, dice: float, size: float) -> Row:
    point = SeedPoint(0, dice, size, size, "")
    return replace(row(name, quantizer), dice=dice, points=(point,), stored_bytes=size, bops=size)


@pytest.mark.parametrize("sizes", [1, 5])
def test_no_two_systems_look_alike(sizes: int) -> None:
    """A colour for each system while there are enough, then for each quantizer; ours has the first of them."""
    quantizers = ("binary", "dq", "learned", "uniform")
    rows = [row("float32", None), *(row(f"{name}_{k}", name) for name in quantizers for k in range(sizes))]
    looks = [look(each, rows) for each in rows]
    assert len(set(looks)) == len(rows)
    colours = {name: {look(each, rows)[0] for each in rows if each.quantizer == name} for name in quantizers}
    if len(rows) - 1 > len(COLOURS):
        assert all(len(own) == 1 for own in colours.values())
        assert colours["learned"] == {COLOURS[0]}


def test_a_float_network_far_below_the_plot_leaves_room_for_the_panels() -> None:
    """Matplotlib warns, and a warning is an error, where a label outside of its panel takes all the room."""
    rows = (
        measured("float32", None, 0.2, 500e3),
        measured("learned_1bit", "learned", 0.8, 20e3),
        measured("learned_2bit", "learned", 0.8, 30e3),
    )
    assert pareto_svg(DataTable("drawn", "px", 3, rows)) is not None


def test_names_of_systems_that_lie_close_do_not_cover_each_other() -> None:
    """Twelve systems on the front within a point of Dice and a tenth of the bytes: those that are named have room."""
    close = (measured(f"learned_{k}.5bit", "learned", 0.8 + 0.0005 * k, 20e3 * (1 + 0.01 * k)) for k in range(12))
    svg = pareto_svg(DataTable("drawn", "px", 3, (measured("float32", None, 0.85, 500e3), *close)))
    assert svg is not None
    names = re.findall(r'anchor: (start|end); fill: #\w+" x="([\d.]+)" y="([\d.]+)"[^>]*>(learned_[\d.]+bit)<', svg)
    assert len(names) >= 6
    boxes: list[tuple[float, float, float]] = []
    for anchor, x, y, name in names:
        left = float(x) - (4.7 * len(name) if anchor == "end" else 0)
        boxes.append((left, float(y), left + 4.7 * len(name)))
    for place, (left, y, right) in enumerate(boxes):
        for other in boxes[:place]:
            assert abs(y - other[1]) > 8 or right < other[0] or other[2] < left
