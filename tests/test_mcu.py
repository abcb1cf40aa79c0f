"""Firmware for microcontrollers: memory, report and every code, under QEMU; skipped without compiler or QEMU."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from graph_examples import every_node, random_requantize, unet
from random_graphs import random_codes, random_graph

from quantunet.backends.c import swar as c_swar
from quantunet.backends.c.build import has_compiler
from quantunet.backends.c.kernels import KERNELS
from quantunet.backends.c.verify import verify_c
from quantunet.backends.mcu.board import Budget, board_files, linker_script, makefile, mask_checksum
from quantunet.backends.mcu.project import export_mcu, fit, lay_out_for, mcu_files, ram_bytes
from quantunet.backends.mcu.qemu import FirmwareError, build_firmware, has_tools, read_report, run_firmware
from quantunet.backends.mcu.targets import C_TARGETS, CTarget, find_c_target
from quantunet.backends.mcu.verify import verify_images, verify_mcu
from quantunet.errors import UserError
from quantunet.formats import IntFormat
from quantunet.ir import graph as ir
from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph, Requantize

GRAPHS = 24
SIZE = (16, 16)
FLOAT = re.compile(r"\.f(?:16|32|64)\b|\bf(?:add|mul|div|cvt|madd)\.|__aeabi_[fd]\w*|__\w+[sd]f[23]?\b")
"""Instructions and helpers of floating point, of Arm and RISC-V."""

RECORDED_INSTRUCTIONS = {
    "cortex-m4": 608034,
    "cortex-m7": 631395,
    "cortex-m55": 348308,
    "riscv32": 1576829,
}
"""Of one image by `layer_of_16`, whole inference: a change that costs instructions, or saves some, shows here."""
RECORDED_PLANS = ((16848, 1078268), (15824, 1115029))
"""RAM in bytes and instructions of a U-Net by its fastest plan, and by the one that fits 1 KiB less: Cortex-M4."""
RECORDED_COMPILER = "12.2"


def layer_of_16() -> IntegerGraph:
    """A 3x3 convolution of 16 to 16 channels at 4 bits, pooled, and its mask."""
    rng = np.random.default_rng(2)
    stage = Requantize(np.ones(16, np.int32), np.full(16, 6, np.int32), IntFormat(4, False))
    weight = rng.integers(-8, 8, (16, 16, 3, 3)).astype(np.int32)
    conv = ir.Conv2d(
        "conv", ("x",), weight, np.full(16, 4, np.int32), np.zeros(16, np.int32), stage, padding=1
    )  # fmt: skip
    pool, mask = ir.MaxPool2d("pool", ("conv",)), ir.ArgMax("mask", ("pool",))
    return ir.IntegerGraph((ir.Input("x", (), 16, IntFormat(4, False), 1.0), conv, pool, mask))


def default_budget(target: CTarget) -> Budget:
    return Budget(target, target.flash_bytes, target.ram_bytes)


def images(graph: IntegerGraph, count: int = 2) -> list[np.ndarray]:
    limits, rng = graph.input.output, np.random.default_rng(1)
    return [rng.integers(limits.q_min, limits.q_max + 1, (graph.input.channels, *SIZE)) for _ in range(count)]


@pytest.fixture(params=C_TARGETS)
def target(request: pytest.FixtureRequest) -> CTarget:
    found = C_TARGETS[request.param]
    if not has_tools(found):
        pytest.skip(f"no compiler or QEMU: apt-get install {found.packages}")
    return found


def test_every_code_of_random_graphs_equals_the_interpreter(target: CTarget) -> None:
    graphs = [random_graph(seed, extended=seed % 2 == 1) for seed in range(GRAPHS)]
    proof = verify_mcu([(graph, list(random_codes(graph, seed))) for seed, graph in enumerate(graphs)], target)
    assert proof.differing == 0, proof.first_difference
    assert proof.compared > 300_000
    widths = {int(width) for graph in graphs for node in graph.weight_nodes() for width in node.weight_bit_width}
    assert widths == set(range(1, 9))


def single_convolutions() -> list[IntegerGraph]:
    """3x3 convolutions of every width, padding, signedness and odd numbers of channels and filters."""
    rng, graphs = np.random.default_rng(5), []
    for index in range(24):
        width, padding, signed = index % 8 + 1, index % 3, index % 2 == 0
        in_channels, filters = (2, 3, 4, 5, 7, 8, 13)[index % 7], (1, 2, 3, 5, 6, 33)[index % 6]
        half = 1 << (width - 1)
        weight = rng.choice([-half, half - 1, 0], (filters, in_channels, 3, 3)).astype(np.int32)
        fmt = IntFormat(8, signed)
        conv = ir.Conv2d(
            "conv", ("x",), weight, np.full(filters, width, np.int32), rng.integers(-99, 99, filters).astype(np.int32),
            random_requantize(rng, filters, IntFormat(int(rng.integers(1, 9)), bool(rng.integers(2))), index % 4 != 3),
            1, padding,
        )  # fmt: skip
        scaled = ir.Rescale("scaled", ("conv",), random_requantize(rng, filters, IntFormat(8, True), True))
        nodes: list[ir.Node] = [ir.Input("x", (), in_channels, fmt, 1.0), conv, scaled]
        nodes.append(ir.Threshold("mask", ("scaled",), 0) if filters == 1 else ir.ArgMax("mask", ("scaled",)))
        graphs.append(ir.IntegerGraph(tuple(nodes)))
    return graphs


def test_every_code_of_single_convolutions_equals_the_interpreter(target: CTarget) -> None:
    rng = np.random.default_rng(6)
    cases = []
    for index, graph in enumerate(single_convolutions()):
        limits = graph.input.output
        shape = (graph.input.channels, 3 + index % 5, 3 + index % 7)
        edges = rng.choice([limits.q_min, limits.q_max], shape)
        cases.append((graph, [edges, rng.integers(limits.q_min, limits.q_max + 1, shape)]))
    proof = verify_mcu(cases, target)
    assert proof.differing == 0, proof.first_difference
    assert proof.images == 48


def test_the_firmware_reports_what_the_interpreter_and_the_plan_say(target: CTarget, tmp_path: Path) -> None:
    graph, budget = every_node(), default_budget(target)
    codes = images(graph)
    project = export_mcu(graph, tmp_path / "p", SIZE, budget, codes)
    text = run_firmware(project)
    report = read_report(text)
    masks = [interpreter.run(graph, image[None]) for image in codes]
    assert report.checksums == tuple(map(mask_checksum, masks))
    assert report.differing == 0
    assert list(report.layers) == [node.name for node in graph.nodes]
    assert sum(report.layers.values()) == report.instructions[-1]
    assert all(count > 1000 for name, count in report.layers.items() if name not in ("image", "head"))
    assert all(100 < stack_bytes < 4096 for stack_bytes in report.stack_bytes)
    assert report.flash["flash"] == sum(report.flash[name] for name in ("code", "constants", "initialised"))
    model = lay_out_for(graph, *SIZE, budget)
    assert 0 <= report.ram_bytes - ram_bytes(model) < 128, "the linker aligns"
    found = fit(model, budget)
    assert found.fits
    assert found.ram_bytes == report.ram_bytes
    assert found.flash_bytes is not None
    assert abs(found.flash_bytes - report.flash["flash"]) <= 16, "RISC-V's linker shortens calls by distance"
    assert run_firmware(project) == text, "instructions are counted, not timed"
    disassembler = [f"{target.cross}objdump", "-d", "--no-show-raw-insn", "firmware.elf"]
    listing = subprocess.run(disassembler, cwd=project, capture_output=True, text=True, check=True).stdout
    assert len(listing.splitlines()) > 2000
    assert not FLOAT.findall(listing)


@pytest.mark.skipif(not has_compiler(), reason="no C compiler")
def test_products_in_pairs_run_clean_under_sanitizers_on_the_host() -> None:
    graph = layer_of_16()
    for codes in ([image[:, :height, :] for image in images(graph, 1)] for height in (16, 6)):
        proof = verify_c(graph, codes, kernel=KERNELS["swar"])
        assert (proof.differing, proof.tensors) == (0, 3)


def test_which_convolutions_run_with_products_in_pairs() -> None:
    conv = layer_of_16().node("conv")
    assert c_swar.fits(conv, IntFormat(4, False))
    assert not c_swar.fits(conv, IntFormat(8, False)), "255 times its weights leaves 16 bits"
    assert not c_swar.fits(conv, IntFormat(4, True))


def test_instructions_are_those_recorded(target: CTarget, tmp_path: Path) -> None:
    version = subprocess.run([f"{target.cross}gcc", "-dumpfullversion"], capture_output=True, text=True).stdout
    if not version.startswith(RECORDED_COMPILER):
        pytest.skip(f"recorded with gcc {RECORDED_COMPILER}, this is {version.strip()}")
    graph = layer_of_16()
    report = read_report(
        run_firmware(export_mcu(graph, tmp_path / "p", SIZE, default_budget(target), images(graph, 1)))
    )
    assert report.differing == 0
    assert report.instructions[0] == RECORDED_INSTRUCTIONS[target.name]


def test_plans_take_the_instructions_and_the_memory_recorded(tmp_path: Path) -> None:
    target = C_TARGETS["cortex-m4"]
    if not has_tools(target):
        pytest.skip(f"no compiler or QEMU: apt-get install {target.packages}")
    version = subprocess.run([f"{target.cross}gcc", "-dumpfullversion"], capture_output=True, text=True).stdout
    graph, found = unet(base=4, levels=2), []
    for ram in (target.ram_bytes, RECORDED_PLANS[0][0] - 1024):
        budget = Budget(target, target.flash_bytes, ram)
        report = read_report(run_firmware(export_mcu(graph, tmp_path / str(ram), SIZE, budget, images(graph, 1))))
        assert report.differing == 0
        found.append((ram_bytes(lay_out_for(graph, *SIZE, budget)), report.instructions[0]))
        assert 0 <= report.ram_bytes - found[-1][0] < 128, "the linker aligns"
    assert found[1][0] <= RECORDED_PLANS[0][0] - 1024
    if version.startswith(RECORDED_COMPILER):
        assert tuple(found) == RECORDED_PLANS


def test_a_wrong_pixel_is_seen(target: CTarget, tmp_path: Path) -> None:
    graph = every_node()
    project = export_mcu(graph, tmp_path / "p", SIZE, default_budget(target), images(graph))
    file = project / "board" / "recorded.c"
    text, count = re.subn(r"(recorded_masks\[\] = \{\n\s+)\d+", r"\g<1>99", file.read_text())
    assert count == 1
    file.write_text(text)
    with pytest.raises(FirmwareError, match="total differing 1"):
        run_firmware(project)


def test_the_linker_enforces_the_budget(target: CTarget, tmp_path: Path) -> None:
    graph = every_node()
    for index, (flash, ram) in enumerate(((1 << 20 >> 1, 5120), (2048, 1 << 18))):
        export_mcu(graph, tmp_path / str(index), SIZE, Budget(target, flash, ram))
        done = subprocess.run(["make"], cwd=tmp_path / str(index), capture_output=True, text=True)
        assert done.returncode != 0
        assert f"region `{('RAM', 'FLASH')[index]}' overflowed" in done.stderr


def test_a_loop_of_known_length_counts_exactly(target: CTarget, tmp_path: Path) -> None:
    step = "addi %0, %0, -1\\n bnez %0, 1b" if target.name == "riscv32" else "subs %0, %0, #1\\n bne 1b"
    main = f"""#include "board.h"
static uint64_t turns(uint32_t count)
{{
    const uint64_t begin = board_instructions();
    __asm__ volatile("1: {step}" : "+r"(count) : : "cc");
    return board_instructions() - begin;
}}
int main(void)
{{
    static const char *const verdict[] = {{"no\\n", "yes\\n"}};
    board_start();
    const uint64_t one = turns(1), many = turns(100001), million = turns(1000001);
    board_print(verdict[many - one == 200000 && million - one == 2000000]);
    return 0;
}}
"""
    budget = default_budget(target)
    project = mcu_files(lay_out_for(every_node(), *SIZE, budget), budget)
    files = {
        **project,
        "board/main.c": main,
        "Makefile": makefile(budget, (), ("main.c", "board_host.c")),
    }  # fmt: skip
    build_firmware(tmp_path, files)
    assert run_firmware(tmp_path) == "yes\n"


def test_what_does_not_fit_is_said_and_what_helps() -> None:
    graph, target = every_node(), C_TARGETS["cortex-m4"]
    tiny = Budget(target, 1 << 20, 1024)
    model = lay_out_for(graph, 64, 64, tiny)  # nothing fits: the smallest
    small = fit(model, Budget(target, 1 << 20, ram_bytes(model) - 1))
    assert not small.fits
    found = re.search(r"does NOT fit: .*export --size (\d+)x(\d+)", str(small))
    assert found is not None
    height, width = int(found[1]), int(found[2])
    assert (height, width) == (60, 60), "the next smaller size of its halvings"
    assert ram_bytes(lay_out_for(graph, height, width, small.budget)) <= small.budget.ram_bytes
    assert "no image size fits" in str(fit(model, Budget(target, 1 << 20, 1024)))


def test_users_mistakes_are_one_line() -> None:
    target = C_TARGETS["cortex-m55"]
    with pytest.raises(UserError, match="--target 'z80' is unknown: generic, cortex-m4"):
        find_c_target("z80")
    with pytest.raises(UserError, match=r"--ram 8388608 B: mps3-an547 of --target cortex-m55 has 1 B to 4096 KiB"):
        Budget(target, 1024, 8 << 20)


def test_texts_hold_no_float_and_no_allocation() -> None:
    for target in C_TARGETS.values():
        texts = {**board_files(target), "linker.ld": linker_script(default_budget(target))}
        assert len(texts) >= 6
        for name, text in texts.items():
            assert not re.search(r"\b(float|double|malloc|free|printf|math\.h)\b", text), name


def test_images_of_several_sizes_are_verified(target: CTarget) -> None:
    graph = every_node()
    codes = [image[:, :height, :width] for image in images(graph, 1) for height, width in ((8, 16), (16, 8))]
    proof = verify_images(graph, codes, default_budget(target))
    assert (proof.images, proof.differing) == (2, 0)
    with pytest.raises(UserError, match=r"do not fit on .*verify smaller images with --size"):
        verify_images(graph, [np.zeros((graph.input.channels, 4096, 4096), np.int64)], default_budget(target))
