"""Tensors that a convolution reads side by side: which are never stored, and that every code stays the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph_examples import every_node, random_requantize, unet

from quantunet.backends.c import plan as c_plan
from quantunet.backends.c.build import has_compiler
from quantunet.backends.c.join import Joins, Part, find_joins, parts_of
from quantunet.backends.c.kernels import KERNELS
from quantunet.backends.c.plan import Tiling
from quantunet.backends.c.verify import verify_c
from quantunet.backends.mcu.qemu import has_tools
from quantunet.backends.mcu.targets import C_TARGETS
from quantunet.backends.mcu.verify import verify_mcu
from quantunet.formats import IntFormat
from quantunet.ir import graph as ir
from quantunet.ir.graph import IntegerGraph

DSP = KERNELS["dsp"]


def joins_of(graph: IntegerGraph, tiling: Tiling) -> Joins:
    return find_joins(graph, c_plan.winograd_nodes(graph, tiling))


def joined_convolution(seed: int) -> IntegerGraph:
    """A 3x3 over one to four tensors, up-sampled or not, of odd numbers of channels and any width, for even sizes."""
    rng = np.random.default_rng(seed)
    signed, width = bool(rng.integers(2)), seed % 8 + 1
    fmt = IntFormat(int(rng.integers(2, 9)), signed)
    channels = int(rng.integers(1, 9))
    nodes: list[ir.Node] = [ir.Input("image", (), channels, fmt, 1.0), ir.MaxPool2d("half", ("image",))]
    parts, total = [], 0
    for index in range(int(rng.integers(1, 5))):
        source = ("image", "half")[int(rng.integers(2))]
        count = int(rng.integers(1, 10))
        weight = rng.integers(-1, 2, (count, channels, 1, 1)).astype(np.int32)
        stage = random_requantize(rng, count, IntFormat(int(rng.integers(1, 9)), signed), True)
        widths, zeros = np.full(count, 2, np.int32), np.zeros(count, np.int32)
        nodes.append(ir.Conv2d(f"c{index}", (source,), weight, widths, zeros, stage, padding=0))
        parts.append(f"c{index}")
        if source == "half":
            nodes.append(ir.UpsampleNearest2d(f"up{index}", (f"c{index}",)))
            parts[-1] = f"up{index}"
        total += count
    if len(parts) > 1:
        nodes.append(ir.Concat("joined", tuple(parts)))
        parts = ["joined"]
    filters, half = int(rng.integers(1, 7)), 1 << (width - 1)
    weight = rng.choice([-half, half - 1, 0], (filters, total, 3, 3)).astype(np.int32)
    stage = random_requantize(rng, filters, IntFormat(int(rng.integers(1, 9)), bool(rng.integers(2))), seed % 3 != 0)
    bias = rng.integers(-99, 99, filters).astype(np.int32)
    conv = ir.Conv2d("conv", (parts[0],), weight, np.full(filters, width, np.int32), bias, stage, 1, 1)
    scaled = ir.Rescale("scaled", ("conv",), random_requantize(rng, filters, IntFormat(8, True), True))
    mask: ir.Node = ir.Threshold("mask", ("scaled",), 0) if filters == 1 else ir.ArgMax("mask", ("scaled",))
    return IntegerGraph((*nodes, conv, scaled, mask))


def cases(count: int) -> list[tuple[IntegerGraph, list[np.ndarray]]]:
    """Graphs and an image each, of even sides from 2 to 12 pixels."""
    found = []
    for seed in range(count):
        graph, rng = joined_convolution(seed), np.random.default_rng(seed)
        limits = graph.input.output
        shape = (graph.input.channels, 2 + 2 * (seed % 5), 2 + 2 * (seed % 6))
        found.append((graph, [rng.integers(limits.q_min, limits.q_max + 1, shape)]))
    return found


def test_a_unet_stores_neither_concatenations_nor_up_sampled_copies() -> None:
    graph = unet(base=2, levels=2)
    joins = joins_of(graph, DSP.tiling)
    assert set(joins) == {"up.0", "joined.0", "up.1", "joined.1"}
    assert parts_of(graph.node("decoder.1.a"), joins) == (Part("bottom.b", True), Part("encoder.1.b"))
    assert parts_of(graph.node("decoder.1.b"), joins) == (Part("decoder.1.a"),)
    assert joins_of(graph, replace(DSP.tiling, winograd=False)) == {}


def test_what_other_nodes_read_is_stored() -> None:
    assert joins_of(every_node(), DSP.tiling) == {}, "a 1x1 reads the concatenation"
    graph = unet(base=2, levels=1)
    readers = {"decoder.0.a"}
    assert set(find_joins(graph, readers)) == {"up.0", "joined.0"}
    pooled = IntegerGraph((*graph.nodes[:-2], ir.MaxPool2d("pool", ("joined.0",)), *graph.nodes[-2:]), graph.metadata)
    assert find_joins(pooled, readers) == {}, "a pooling reads the concatenation too"


def test_memory_is_less_by_what_is_not_stored() -> None:
    graph = unet(base=4, levels=2)
    joined = c_plan.plan(graph, 32, 32, replace(DSP.tiling, band_pixels=None))
    copied = c_plan.plan(graph, 32, 32, replace(DSP.tiling, band_pixels=None, winograd=False))
    skip = low = 32 * 32 * 4
    assert copied.arena_bytes == 2 * (skip + 2 * low), "the concatenation and its two inputs"
    assert joined.arena_bytes == skip + low // 2 + 32 * 32 * 4, "both inputs and the output of the convolution"


@pytest.mark.parametrize("name", ["cortex-m4", "cortex-m7"])
def test_every_code_equals_the_interpreter(name: str) -> None:
    target = C_TARGETS[name]
    if not has_tools(target):
        pytest.skip(f"no compiler or QEMU: apt-get install {target.packages}")
    found = cases(48)
    joined = [graph for graph, _ in found if joins_of(graph, DSP.tiling)]
    assert len(joined) >= 32
    proof = verify_mcu(found, target)
    assert (proof.images, proof.differing) == (48, 0), proof.first_difference


@pytest.mark.skipif(not has_compiler(), reason="no C compiler")
def test_the_same_runs_clean_under_sanitizers_on_the_host() -> None:
    joined = [case for case in cases(24) if joins_of(case[0], DSP.tiling)]
    for graph, images in joined[::10]:
        assert verify_c(graph, images, kernel=DSP).differing == 0
    assert len(joined) >= 16
