"""Convolutions by bit planes of their weights: which they are, and every code, on the host and on RISC-V under QEMU."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from graph_examples import random_requantize

from quantunet.backends.c import bit_serial as c_bit_serial
from quantunet.backends.c.build import has_compiler
from quantunet.backends.c.kernels import BANDS, SWAR
from quantunet.backends.c.plan import bit_serial_nodes, plan, swar_nodes
from quantunet.backends.c.verify import verify_c
from quantunet.backends.mcu.board import Budget
from quantunet.backends.mcu.project import export_mcu
from quantunet.backends.mcu.qemu import has_tools, read_report, run_firmware
from quantunet.backends.mcu.targets import C_TARGETS
from quantunet.backends.mcu.verify import verify_mcu
from quantunet.formats import IntFormat
from quantunet.ir import graph as ir

RISCV = C_TARGETS["riscv32"]
WIDTHS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))
"""Of a weight and an activation: every pair whose product is at most 4."""
GEOMETRIES = (
    # kernel, stride, padding, channels, filters, output
    (3, 1, 1, 5, 6, IntFormat(4, False)),
    (3, 1, 0, 7, 33, IntFormat(8, True)),
    (3, 1, 2, 1, 1, IntFormat(12, True)),
    (3, 2, 1, 33, 5, IntFormat(8, False)),
    (1, 1, 0, 13, 34, IntFormat(2, False)),
    (1, 2, 0, 3, 2, IntFormat(20, False)),
    (2, 1, 1, 16, 3, IntFormat(3, True)),
    (5, 1, 2, 4, 7, None),
)
SIZES = ((7, 9), (5, 6), (4, 4), (8, 10), (3, 5), (6, 8), (3, 3), (5, 10))
RECORDED_INSTRUCTIONS = {(1, 1): 598063, (2, 2): 805253, (4, 1): 1216648}
"""Of a 3x3 convolution of 16 to 16 channels, 16x16 pixels, by its widths, gcc 12.2."""


def convolution(
    name: str, source: str, widths: tuple[int, ...], shape: tuple[int, ...], stage: ir.Requantize | None,
    stride: int = 1, padding: int = 1, seed: int = 0,
) -> ir.Conv2d:  # fmt: skip
    """Weights at the ends of their ranges, or zero; filter k of width ``widths[k % len]``."""
    rng = np.random.default_rng(seed)
    bit_width = np.resize(np.array(widths, np.int32), shape[0])
    half = np.left_shift(1, bit_width - 1)[:, None, None, None]
    weight = rng.choice([-1, 0, 1], shape, p=[0.5, 0.1, 0.4])
    weight = np.where(weight < 0, -half, np.where(weight > 0, half - 1, 0)).astype(np.int32)
    bias = rng.integers(-99, 99, shape[0]).astype(np.int32)
    return ir.Conv2d(name, (source,), weight, bit_width, bias, stage, stride, padding)


def one_layer(weight_bits: int, activation_bits: int, channels: int = 16, filters: int = 16) -> ir.IntegerGraph:
    """A 3x3 convolution, pooled, and its mask."""
    stage = ir.Requantize(np.ones(filters, np.int32), np.full(filters, 3, np.int32), IntFormat(4, False))
    conv = convolution("conv", "x", (weight_bits,), (filters, channels, 3, 3), stage)
    image = ir.Input("x", (), channels, IntFormat(activation_bits, False), 1.0)
    return ir.IntegerGraph((image, conv, ir.MaxPool2d("pool", ("conv",)), ir.ArgMax("mask", ("pool",))))


def all_widths(index: int) -> ir.IntegerGraph:
    """Geometry ``index``: convolutions of all pairs of widths side by side, of narrower filters too."""
    kernel, stride, padding, channels, filters, output = GEOMETRIES[index]
    rng = np.random.default_rng(index)
    nodes: list[ir.Node] = [ir.Input("x", (), channels, IntFormat(8, False), 1.0)]
    for bits in range(1, 5):
        stage = ir.Requantize(
            np.ones(channels, np.int32), np.full(channels, 8 - bits, np.int32), IntFormat(bits, False)
        )
        nodes.append(ir.Rescale(f"a{bits}", ("x",), stage))
    for place, (weight_bits, bits) in enumerate(WIDTHS):
        stage = random_requantize(rng, filters, output, index % 2 == 0) if output else None
        widths = (weight_bits, max(1, weight_bits - 1)) if place % 2 else (weight_bits,)
        shape = (filters, channels, kernel, kernel)
        nodes.append(
            convolution(f"c{weight_bits}{bits}", f"a{bits}", widths, shape, stage, stride, padding, seed=place)
        )
    nodes.append(ir.Concat("all", tuple(f"c{weight_bits}{bits}" for weight_bits, bits in WIDTHS)))
    return ir.IntegerGraph((*nodes, ir.ArgMax("mask", ("all",))))


def images(graph: ir.IntegerGraph, size: tuple[int, int]) -> list[np.ndarray]:
    """The ends of the range, and all of it."""
    rng, limits, shape = np.random.default_rng(1), graph.input.output, (graph.input.channels, *size)
    return [rng.choice([limits.q_min, limits.q_max], shape), rng.integers(limits.q_min, limits.q_max + 1, shape)]


@pytest.fixture
def taken_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """By bit planes even where it does not pay."""
    monkeypatch.setattr(c_bit_serial, "is_faster", lambda node: True)


def by_planes(graph: ir.IntegerGraph) -> frozenset[str]:
    return bit_serial_nodes(graph, SWAR.tiling)


def test_a_product_of_widths_of_four_is_taken_and_one_of_six_is_not() -> None:
    for weight_bits, bits in WIDTHS:
        assert by_planes(one_layer(weight_bits, bits)) == {"conv"}
        assert not swar_nodes(one_layer(weight_bits, bits), SWAR.tiling)
    for weight_bits, bits in ((2, 3), (3, 2), (1, 5), (5, 1), (4, 4)):
        assert not by_planes(one_layer(weight_bits, bits))
        assert swar_nodes(one_layer(weight_bits, bits), SWAR.tiling) == {"conv"}
    assert not bit_serial_nodes(one_layer(1, 1), BANDS.tiling), "the kernel has it, or not"


def test_what_does_not_pay_or_does_not_fit_runs_otherwise() -> None:
    assert not by_planes(one_layer(2, 2, channels=1, filters=8)), "9 codes are rounded up to 16"
    assert by_planes(one_layer(2, 2, channels=3, filters=16))
    assert not c_bit_serial.fits(one_layer(1, 1).node("conv"), IntFormat(1, True))
    assert not c_bit_serial.fits(one_layer(1, 1, channels=4000).node("conv"), IntFormat(2, False)), "beyond 16 bits"


def test_scratch_holds_places_of_every_plane_of_the_widest_block() -> None:
    conv = convolution("conv", "x", (1, 1, 4, 4), (6, 5, 3, 3), None)  # widths 1 1 4 4 1 1, 45 codes: 12 groups
    assert c_bit_serial.filter_bytes(conv, 2) == 8 * 12 * 4
    assert c_bit_serial.patch_bytes(conv) == 12 * (16 * 4 + 4 * 4)
    assert plan(one_layer(1, 1), 16, 16, SWAR.tiling).scratch.filters == 16 * 36 * 4


@pytest.mark.skipif(not has_compiler(), reason="no C compiler")
@pytest.mark.parametrize("index", range(len(GEOMETRIES)))
@pytest.mark.usefixtures("taken_always")
def test_every_code_equals_the_interpreter_under_sanitizers_on_the_host(index: int) -> None:
    graph = all_widths(index)
    assert len(by_planes(graph)) == len(WIDTHS)
    proof = verify_c(graph, images(graph, SIZES[index]), kernel=SWAR)
    assert (proof.differing, proof.images) == (0, 2), proof.first_difference


@pytest.mark.skipif(not has_tools(RISCV), reason=f"no compiler or QEMU: apt-get install {RISCV.packages}")
@pytest.mark.usefixtures("taken_always")
def test_every_code_equals_the_interpreter_on_riscv() -> None:
    graphs = [all_widths(index) for index in range(len(GEOMETRIES))]
    proof = verify_mcu([(graph, images(graph, size)) for graph, size in zip(graphs, SIZES, strict=True)], RISCV)
    assert proof.differing == 0, proof.first_difference
    assert proof.images == 2 * len(GEOMETRIES)
    assert proof.compared > 90_000


@pytest.mark.skipif(not has_tools(RISCV), reason=f"no compiler or QEMU: apt-get install {RISCV.packages}")
def test_instructions_are_those_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = subprocess.run([f"{RISCV.cross}gcc", "-dumpfullversion"], capture_output=True, text=True).stdout
    budget = Budget(RISCV, RISCV.flash_bytes, RISCV.ram_bytes)

    def count(weight_bits: int, bits: int, folder: str) -> int:
        graph = one_layer(weight_bits, bits)
        project = export_mcu(graph, tmp_path / folder, (16, 16), budget, images(graph, (16, 16))[1:])
        report = read_report(run_firmware(project))
        assert report.differing == 0
        return report.layers["conv"]

    found = {widths: count(*widths, "{}x{}".format(*widths)) for widths in RECORDED_INSTRUCTIONS}
    if version.startswith("12.2"):
        assert found == RECORDED_INSTRUCTIONS
    monkeypatch.setattr(c_bit_serial, "PRODUCT_LIMIT", 0)
    assert max(found.values()) < count(1, 1, "pairs"), "else products in pairs are to be taken"
