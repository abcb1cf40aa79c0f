from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import random_codes, random_graph

from quantunet.backends.c import plan as c_plan
from quantunet.backends.c.plan import Lifetime, Tiling
from quantunet.formats import IntFormat
from quantunet.ir import graph as ir


def no_two_live_tensors_overlap(tensors: list[Lifetime], offsets: dict[str, int]) -> bool:
    return all(
        not a.overlaps(b)
        or offsets[a.name] + a.size_bytes <= offsets[b.name]
        or offsets[b.name] + b.size_bytes <= offsets[a.name]
        for a, b in combinations(tensors, 2)
    )


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 12), st.integers(0, 6)), max_size=14))
@settings(max_examples=200, deadline=None)
def test_live_tensors_never_overlap(items: list[tuple[int, int, int]]) -> None:
    tensors = [Lifetime(f"t{k}", size, first, first + length) for k, (size, first, length) in enumerate(items)]
    offsets, arena_bytes = c_plan.place(tensors)
    assert no_two_live_tensors_overlap(tensors, offsets)
    assert all(offsets[tensor.name] + tensor.size_bytes <= arena_bytes for tensor in tensors)
    assert all(offset % c_plan.ALIGNMENT_BYTES == 0 for offset in offsets.values())


def test_live_tensors_of_random_graphs_never_overlap() -> None:
    shared = 0
    for seed in range(100):
        graph = random_graph(seed, extended=seed % 2 == 1)
        height, width = random_codes(graph, seed).shape[2:]
        alive = c_plan.lifetimes(graph, height, width)
        for tiling in (Tiling(), Tiling(band_pixels=1)):
            planned = c_plan.plan(graph, height, width, tiling)
            assert (planned.by_rows is None) or tiling.band_pixels
            tensors = [
                replace(item, size_bytes=planned.tensor_bytes[item.name])
                if planned.by_rows is None
                else Lifetime(item.name, planned.tensor_bytes[item.name], 0, 1)
                for item in alive
                if item.name in planned.offsets
            ]
            if planned.by_rows is None:
                owner = c_plan.in_place(graph, tensors)
                shared += sum(name != other for name, other in owner.items())
                assert all(planned.offsets[name] == planned.offsets[other] for name, other in owner.items())
                tensors = c_plan.merged(tensors, owner)
            assert no_two_live_tensors_overlap(tensors, dict(planned.offsets))
            assert planned.arena_bytes <= sum(item.size_bytes + c_plan.ALIGNMENT_BYTES for item in tensors)
    assert shared > 20


def test_a_pooling_that_alone_reads_its_input_takes_no_memory() -> None:
    ones, zero = np.ones((4, 1, 1, 1), np.int32), np.zeros(4, np.int32)
    stage = ir.Requantize(np.ones(4, np.int32), zero, IntFormat(8, False))
    image = ir.Input("x", (), 1, IntFormat(8, False), 1.0)
    conv = ir.Conv2d("conv", ("x",), ones, np.full(4, 2, np.int32), zero, stage, padding=0)
    pool, mask = ir.MaxPool2d("pool", ("conv",)), ir.ArgMax("mask", ("pool",))
    assert c_plan.plan(ir.IntegerGraph((image, conv, pool, mask)), 8, 8, Tiling()).arena_bytes == 4 * 64
    up, skip = ir.UpsampleNearest2d("up", ("pool",)), ir.Concat("skip", ("conv", "up"))
    planned = c_plan.plan(ir.IntegerGraph((image, conv, pool, up, skip, ir.ArgMax("mask", ("skip",)))), 8, 8, Tiling())
    assert planned.offsets["pool"] != planned.offsets["conv"], "read again after the pooling"


def test_a_chain_needs_two_tensors_only() -> None:
    chain = [Lifetime(f"t{step}", 1600, step, step + 1) for step in range(10)]
    assert c_plan.place(chain)[1] == 2 * 1600


def test_the_tightest_gap_is_taken() -> None:
    tensors = [
        Lifetime("a", 320, 0, 9),
        Lifetime("b", 160, 0, 1),  # leaves a gap of 160
        Lifetime("c", 96, 0, 9),
        Lifetime("d", 64, 0, 1),  # leaves a gap of 64
        Lifetime("e", 48, 0, 9),
        Lifetime("small", 40, 2, 3),
    ]
    offsets, _ = c_plan.place(tensors)
    assert offsets["small"] == offsets["d"]


def head(consumers: int) -> ir.IntegerGraph:
    conv = ir.Conv2d("head", ("x",), np.ones((1, 1, 1, 1), np.int32), np.full(1, 2, np.int32), np.zeros(1, np.int32), None, padding=0)  # fmt: skip  # noqa: E501
    masks = [ir.Threshold(f"mask{k}", ("head",), 0) for k in range(consumers)]
    return ir.IntegerGraph((ir.Input("x", (), 1, IntFormat(8, False), 1.0), conv, *masks))


def test_a_head_with_one_reader_is_fused_and_takes_no_memory() -> None:
    assert c_plan.fused_heads(head(1)) == {"head": "mask0"}
    assert c_plan.plan(head(1), 8, 8).arena_bytes == 0
    assert c_plan.fused_heads(head(2)) == {}
    assert c_plan.plan(head(2), 8, 8, Tiling()).arena_bytes == 4 * 64 + 64


def test_peak_counts_image_and_mask() -> None:
    assert c_plan.plan(head(1), 8, 8).peak_activation_bytes == 64 + 64


def test_a_size_that_does_not_fit_is_named_with_the_repair() -> None:
    graph = ir.IntegerGraph(
        (ir.Input("x", (), 1, IntFormat(8, False), 1.0), ir.MaxPool2d("p", ("x",)), ir.Threshold("m", ("p",), 1))
    )
    with pytest.raises(ir.GraphError, match="height 7 is not divisible by 2: pad the image to 8"):
        c_plan.plan(graph, 7, 8)


def test_byte_products_give_way_to_wide_ones_where_they_could_overflow() -> None:
    weight = np.full((1, 70_000, 1, 1), -128, np.int32)
    node = ir.Conv2d("c", ("x",), weight, np.full(1, 8, np.int32), np.zeros(1, np.int32), None, padding=0)
    assert c_plan.needs_wide_patches(node, IntFormat(8, False))
    assert not c_plan.needs_wide_patches(head(1).nodes[1], IntFormat(8, True))  # type: ignore[arg-type]
    assert c_plan.needs_wide_patches(head(1).nodes[1], IntFormat(9, True))  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [(2, 8, 4), (5, 8, 4), (4, 6, 4), (4, 8, 0)])
def test_a_tiling_that_the_kernels_cannot_run_is_refused(values: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="Tiling"):
        Tiling(*values)
