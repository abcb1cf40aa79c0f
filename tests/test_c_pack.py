"""Tensors of less than a byte a code: which they are, how much they save, and that every code stays the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph_examples import random_requantize

from quantunet.backends.c import plan as c_plan
from quantunet.backends.c.build import has_compiler
from quantunet.backends.c.kernels import KERNELS
from quantunet.backends.c.pack import packed_bits, tensor_bytes, unpack
from quantunet.backends.c.verify import verify_c
from quantunet.backends.mcu.qemu import has_tools
from quantunet.backends.mcu.targets import C_TARGETS
from quantunet.backends.mcu.verify import verify_mcu
from quantunet.formats import IntFormat
from quantunet.ir import graph as ir
from quantunet.ir.graph import IntegerGraph

DSP = KERNELS["dsp"]
PACKED = replace(DSP.tiling, packed=True)


def random_unet(seed: int) -> IntegerGraph:
    """A U-Net of two levels with channels, widths and requantizations at random, for even sizes."""
    rng = np.random.default_rng(seed)
    nodes: list[ir.Node] = [ir.Input("image", (), 1, IntFormat(8, True), 1.0)]
    channels = {"image": 1}

    def conv(name: str, source: str) -> str:
        count, width = int(rng.integers(1, 10)), int(rng.integers(1, 9))
        half = 1 << (width - 1)
        weight = rng.integers(-half, half, (count, channels[source], 3, 3)).astype(np.int32)
        stage = random_requantize(rng, count, IntFormat(int(rng.integers(1, 8)), False), bool(rng.integers(4)))
        bias = rng.integers(-99, 99, count).astype(np.int32)
        nodes.append(ir.Conv2d(name, (source,), weight, np.full(count, width, np.int32), bias, stage, padding=1))
        channels[name] = count
        return name

    skip = conv("a", conv("b", "image"))
    nodes.append(ir.MaxPool2d("pool", (skip,)))
    channels["pool"] = channels[skip]
    low = conv("d", conv("c", "pool"))
    nodes.append(ir.UpsampleNearest2d("up", (low,)))
    nodes.append(ir.Concat("joined", (skip, "up")))
    channels["joined"] = channels[skip] + channels[low]
    last = conv("f", conv("e", "joined"))
    nodes.append(ir.ArgMax("mask", (last,)) if channels[last] > 1 else ir.Threshold("mask", (last,), 1))
    return IntegerGraph(tuple(nodes))


def cases(count: int) -> list[tuple[IntegerGraph, list[np.ndarray]]]:
    """Graphs and an image each, of even sides from 2 to 14 pixels."""
    return [
        (
            random_unet(seed),
            [np.random.default_rng(seed).integers(-128, 128, (1, 2 + 2 * (seed % 5), 2 + 2 * (seed % 7)))],
        )
        for seed in range(count)
    ]


def test_what_is_packed() -> None:
    bits = [packed_bits(IntFormat(width, False)) for width in range(1, 9)]
    assert bits == [2, 2, 4, 4, 6, 6, 0, 0]
    assert packed_bits(IntFormat(4, True)) == 0
    graph = random_unet(0)
    packed = c_plan.plan(graph, 8, 8, PACKED).packed
    fits = {node.name for node in graph.weight_nodes() if packed_bits(graph.formats()[node.name])}
    assert packed == fits - {"e", "f"}, "f runs as part of the mask, and reads whole bytes"
    assert packed
    assert c_plan.plan(graph, 8, 8, DSP.tiling).packed == frozenset()


def packed_pixel(codes: list[int], bits: int) -> list[int]:
    """The bytes of a pixel, from the table of qn_packed.h."""
    content = []
    for first in range(0, len(codes), 4):
        four = codes[first : first + 4]
        a, b, c, d = (*four, 0, 0, 0)[:4]
        fields = [(a, bits), (b, bits), (c, bits), (d, bits)]
        if bits == 6:
            fields = [(a, 6), (b, 6), (d >> 2, 4), (c, 6), (d & 3, 2)]
        word = at = 0
        for value, width in fields:
            word, at = word | value << at, at + width
        content += [word >> (8 * k) & 0xFF for k in range(-(-len(four) * bits // 8))]
    return content


def test_packed_bytes_unpack_to_the_codes() -> None:
    rng = np.random.default_rng(3)
    for width in (1, 2, 3, 4, 5, 6):
        for channels in range(1, 10):
            fmt = IntFormat(width, False)
            codes = rng.integers(0, fmt.q_max + 1, (3, 5, channels))
            content = [
                byte for pixel in codes.reshape(15, -1).tolist() for byte in packed_pixel(pixel, packed_bits(fmt))
            ]
            assert len(content) == tensor_bytes((channels, 3, 5), fmt, is_packed=True)
            assert np.array_equal(unpack(np.array(content, np.uint8), (channels, 3, 5), fmt), codes)


@pytest.mark.parametrize("band_pixels", [None, 16])
def test_every_code_equals_the_interpreter(band_pixels: int | None) -> None:
    target = C_TARGETS["cortex-m4"]
    if not has_tools(target):
        pytest.skip(f"no compiler or QEMU: apt-get install {target.packages}")
    tiling = replace(PACKED, band_pixels=band_pixels)
    found = cases(40)
    bits = {
        packed_bits(graph.formats()[name]) for graph, _ in found for name in c_plan.plan(graph, 8, 8, tiling).packed
    }
    assert bits == {2, 4, 6}
    proof = verify_mcu(found, target, tiling)
    assert (proof.images, proof.differing) == (40, 0), proof.first_difference


@pytest.mark.skipif(not has_compiler(), reason="no C compiler")
def test_the_same_runs_clean_under_sanitizers_on_the_host() -> None:
    for graph, images in cases(40)[8::12]:
        assert c_plan.plan(graph, 8, 8, PACKED).packed
        assert verify_c(graph, images, tiling=PACKED, kernel=DSP).differing == 0
