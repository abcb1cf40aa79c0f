"""C equals the interpreter on random graphs: every code of every tensor."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from random_graphs import random_codes, random_graph

from quantunet.backends.c import plan as c_plan
from quantunet.backends.c.plan import FAST, SMALL
from quantunet.backends.c.runner import build_engines, has_compiler
from quantunet.ir import interpreter
from quantunet.ir.graph import ConvTranspose2d, UpsampleBilinear2d, UpsampleNearest2d

GRAPHS = 240
FLAGS = ("-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all")  # undefined behaviour aborts the test
pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


def test_c_equals_the_interpreter_on_random_graphs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    graphs = [random_graph(seed, extended=seed % 2 == 1) for seed in range(GRAPHS)]
    inputs = [random_codes(graph, seed) for seed, graph in enumerate(graphs)]
    compared, differing, kinds, widths = 0, [], set(), set()
    tilings = (SMALL, replace(SMALL, patch_bits=16), replace(SMALL, band_pixels=40), FAST)
    by_rows = 0
    for part, tiling in enumerate(tilings):
        first, last = part * GRAPHS // 4, (part + 1) * GRAPHS // 4
        batch = [(graphs[k], *inputs[k].shape[2:]) for k in range(first, last)]
        engines = build_engines(batch, tiling, FLAGS)
        for (graph, _, _), codes, engine in zip(batch, inputs[first:last], engines, strict=True):
            expected, traced = interpreter.trace(graph, codes), engine.trace(codes)
            for name, tensor in traced.items():
                compared += tensor.size
                if not np.array_equal(tensor, expected[name]):
                    differing.append((name, graph.node(name)))
            assert np.array_equal(engine.run(codes), expected[graph.output.name][:, 0])
            by_rows += c_plan.plan(graph, *codes.shape[2:], tiling).by_rows is not None
            kinds |= {type(node) for node in graph.nodes}
            widths |= {int(width) for node in graph.weight_nodes() for width in node.weight_bit_width}
    with capsys.disabled():
        print(f"\nC: {GRAPHS} random graphs, {compared} codes compared, {len(differing)} tensors differ")
    assert not differing
    assert by_rows > GRAPHS // 3
    assert widths == set(range(1, 9))
    assert {ConvTranspose2d, UpsampleBilinear2d, UpsampleNearest2d} < kinds
    assert len(kinds) == 10, "Input and nine others"
    assert compared > 1_000_000
