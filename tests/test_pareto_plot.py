"""How systems are told apart in the plot of Dice against cost."""

from __future__ import annotations

from typing import Any

import pytest

from quantunet.compare.collect import Row
from quantunet.compare.pareto_plot import COLOURS, look

NOTHING: dict[str, Any] = dict.fromkeys(Row.__dataclass_fields__)


def row(name: str, quantizer: str | None) -> Row:
    return Row(**NOTHING | {"name": name, "kind": "system" if quantizer else "float", "quantizer": quantizer})


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
