"""The schedule by rows: every row that is read lies in its ring, and no ring is larger than it must be."""

from __future__ import annotations

from collections import Counter

import pytest
from graph_examples import unet
from random_graphs import random_codes, random_graph

from quantunet.backends.c import plan as c_plan
from quantunet.backends.c.join import Joins, find_joins, parts_of
from quantunet.backends.c.plan import Tiling
from quantunet.backends.c.rows import RowPlan, plan_rows
from quantunet.formats import IntFormat
from quantunet.ir import graph as ir


def read_rows(kernel: ir.Node, row: int, height: int) -> set[int]:
    """The rows of its inputs, of ``height`` rows, that ``kernel`` reads for row ``row``, from the specification."""
    match kernel:
        case ir.Conv2d():
            rows = {row * kernel.stride - kernel.padding + i for i in range(kernel.weight.shape[2])}
        case ir.MaxPool2d():
            rows = {2 * row, 2 * row + 1}
        case ir.UpsampleNearest2d() | ir.ConvTranspose2d():
            rows = {row // 2}
        case ir.UpsampleBilinear2d():
            rows = {row // 2, row // 2 + (1 if row % 2 else -1)}
        case _:
            rows = {row}
    return {each for each in rows if 0 <= each < height}


def fullest_rings(
    graph: ir.IntegerGraph, height: int, width: int, plan: RowPlan, joins: Joins | None = None
) -> dict[str, int]:
    """Run ``plan`` on row numbers: rings that hold what they should; the rows each ring really had to span, by name."""
    fused = c_plan.fused_heads(graph)
    producer = {mask: graph.node(conv) for conv, mask in fused.items()}
    shapes = graph.shapes(height, width)
    rings: dict[str, dict[int, int]] = {name: {} for name in plan.rows}
    rings[graph.input.name] = {row: row for row in range(height)}
    spans: dict[str, int] = {}
    done = dict.fromkeys(plan.rows, 0)
    for index in plan.schedule:
        target = graph.nodes[index].name
        kernel = producer.get(target, graph.nodes[index])
        first = done[target]
        rows = range(first, min(first + plan.bands[target], shapes[target][1]))
        if isinstance(kernel, ir.ConvTranspose2d):
            assert len(rows) % 2 == first % 2 == 0, "rows in pairs"
        for row in rows:
            for source, is_doubled in ((part.name, part.is_doubled) for part in parts_of(kernel, joins or {})):
                factor = 2 if is_doubled else 1
                for read in {read // factor for read in read_rows(kernel, row, factor * shapes[source][1])}:
                    ring = rings[source]
                    assert ring[read % plan.rows[source]] == read, f"row {read} of {source} is not there for {target}"
                    spans[source] = max(spans.get(source, 1), done[source] - read)
        for row in rows:
            rings[target][row % plan.rows[target]] = row
        done[target] += len(rows)
    assert all(done[name] == shapes[name][1] for name in plan.rows if name != graph.input.name)
    return spans


@pytest.mark.parametrize("band_pixels", [1, 24, 100])
def test_every_row_that_is_read_is_in_its_ring(band_pixels: int) -> None:
    for seed in range(60):
        graph = random_graph(seed, extended=seed % 2 == 1)
        height, width = random_codes(graph, seed).shape[2:]
        plan = plan_rows(graph, height, width, band_pixels, c_plan.fused_heads(graph))
        spans = fullest_rings(graph, height, width, plan)
        for name, span in spans.items():
            assert span <= plan.rows[name], name


@pytest.mark.parametrize("band_pixels", [1, 24, 100])
def test_every_row_that_is_read_is_in_its_ring_where_tensors_are_joined(band_pixels: int) -> None:
    tiling = Tiling(winograd=True)
    for graph in (unet(base=2, levels=3), *(random_graph(seed) for seed in range(20))):
        height = width = 8 * graph.size_multiple()
        pairs = c_plan.winograd_nodes(graph, tiling)
        joins = find_joins(graph, pairs)
        plan = plan_rows(graph, height, width, band_pixels, c_plan.fused_heads(graph), pairs, joins)
        assert not set(plan.rows) & set(joins)
        for name, span in fullest_rings(graph, height, width, plan, joins).items():
            assert span <= plan.rows[name], name


def test_rings_of_a_unet_by_hand() -> None:
    graph, width = unet(base=2, levels=2), 16
    plan = plan_rows(graph, 32, width, 1, c_plan.fused_heads(graph))
    spans = fullest_rings(graph, 32, width, plan)
    kernels = {node.name: node for node in graph.nodes}
    for name, rows in plan.rows.items():
        if name in (graph.input.name, graph.output.name):
            continue
        readers = [node for node in graph.nodes if name in node.inputs]
        if len(readers) == 1 and isinstance(readers[0], ir.Conv2d) and readers[0].weight.shape[2] == 3:
            assert rows == 3, "a 3x3 reads three rows"
        assert rows == spans[name], f"{name}, {kernels[name]}: a ring no larger than what it must span"


def test_memory_does_not_grow_with_the_height_of_an_image() -> None:
    graph = unet(base=4, levels=3)
    by_rows = [c_plan.plan(graph, height, 64, Tiling(band_pixels=1)).arena_bytes for height in (128, 256, 1024)]
    whole = [c_plan.plan(graph, height, 64, Tiling()).arena_bytes for height in (128, 256, 1024)]
    assert by_rows[0] == by_rows[1] == by_rows[2] < whole[0] / 4
    assert whole[2] == 8 * whole[0]
    larger = c_plan.plan(graph, 128, 64, Tiling(band_pixels=256))
    assert larger.arena_bytes > by_rows[0]
    assert larger.by_rows is not None
    smaller = c_plan.plan(graph, 128, 64, Tiling(band_pixels=1)).by_rows
    assert smaller is not None
    assert len(larger.by_rows.schedule) < len(smaller.schedule) / 2


def test_a_node_that_the_mask_has_no_use_for_runs_too() -> None:
    source = ir.Input("x", (), 1, IntFormat(8, False), 1.0)
    graph = ir.IntegerGraph((source, ir.MaxPool2d("pool", ("x",)), ir.Threshold("mask", ("x",), 3)))
    plan = plan_rows(graph, 4, 4, 1)
    assert plan.schedule.count(1) == 2
    assert plan.rows == {"x": 4, "mask": 4, "pool": 1}


def test_where_rings_save_nothing_the_graph_runs_node_by_node() -> None:
    graph = unet(base=2, levels=2)
    assert c_plan.plan(graph, 4, 4, Tiling(band_pixels=1)).by_rows is None


def test_weights_are_expanded_once_a_band() -> None:
    graph = unet(base=2, levels=2)
    plan = plan_rows(graph, 32, 16, 64, c_plan.fused_heads(graph))
    names = [node.name for node in graph.weight_nodes()]
    heights = {name: shape[1] for name, shape in graph.shapes(32, 16).items()}
    runs = Counter(graph.nodes[index].name for index in plan.schedule)
    counts = {name: runs[name] for name in names[:-1]}
    assert counts == {name: -(-heights[name] // plan.bands[name]) for name in names[:-1]}
