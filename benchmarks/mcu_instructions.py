"""Executed instructions, flash and RAM on microcontrollers under QEMU: layers and whole models, beside CMSIS-NN.

Counts are exact and repeatable; cycles are not modelled. The peer is CMSIS-NN's convolution and pooling, compiled with
-O3 as its documentation advises: a layer with weights of 8 and of 4 bits, and the same architecture with all channels
at 8 bits. It has no up-sampling nor concatenation, so those are left out of its instructions; its memory is that of
tensors laid out by our own planner.
Run: CMSIS_NN=FOLDER python benchmarks/mcu_instructions.py [--run RUN] [--size 64x64] [--targets cortex-m4 ...]
CMSIS_NN is a checkout of ARM-software/CMSIS-NN; without it the peer is left out. About a minute.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from classic_graph import classic_graph

from quantunet.backends.c.layout import c_array
from quantunet.backends.c.plan import Tiling, plan
from quantunet.backends.mcu.board import Budget, board_files, linker_script, makefile
from quantunet.backends.mcu.project import lay_out_for, mcu_files
from quantunet.backends.mcu.qemu import build_firmware, read_report, run_firmware, section_bytes
from quantunet.backends.mcu.targets import C_TARGETS, CTarget
from quantunet.backends.project_folder import write_project
from quantunet.formats import IntFormat
from quantunet.ir import graph as ir
from quantunet.ir.packed_file import read_model

PEER_SOURCES = ("ConvolutionFunctions/*s[48]*.c", "NNSupportFunctions/*.c", "PoolingFunctions/*s8.c")

LAYER_PX = (64, 64)


@dataclass(frozen=True)
class Measured:
    """What a firmware took: executed instructions of one image, bytes."""

    instructions: int
    flash_bytes: int
    ram_bytes: int


def one_layer(in_channels: int, filters: int, weight_bits: int, activation_bits: int) -> ir.IntegerGraph:
    """A 3x3 convolution of random weights, and what makes a mask of it."""
    rng = np.random.default_rng(0)
    limits = IntFormat(weight_bits, True)
    shape = (filters, in_channels, 3, 3)
    stage = ir.Requantize(
        np.ones(filters, np.int32), np.full(filters, weight_bits + 3, np.int32), IntFormat(activation_bits, False)
    )
    conv = ir.Conv2d(
        "conv", ("image",), rng.integers(limits.q_min, limits.q_max + 1, shape).astype(np.int32),
        np.full(filters, weight_bits, np.int32), np.zeros(filters, np.int32), stage, padding=1,
    )  # fmt: skip
    image = ir.Input("image", (), in_channels, IntFormat(activation_bits, False), 1.0)
    return ir.IntegerGraph((image, conv, ir.MaxPool2d("pool", ("conv",)), ir.ArgMax("mask", ("pool",))))


def measure(
    graph: ir.IntegerGraph, size_px: tuple[int, int], target: CTarget, layer: str = "", ram_bytes: int | None = None
) -> Measured:
    """Our firmware on one random image; ``layer``: the instructions of that node alone; ``ram_bytes``: at the most."""
    budget = whole_board(target)
    budget = replace(budget, ram_bytes=ram_bytes or budget.ram_bytes)
    limits, rng = graph.input.output, np.random.default_rng(1)
    codes = rng.integers(limits.q_min, limits.q_max + 1, (graph.input.channels, *size_px))
    with tempfile.TemporaryDirectory(prefix="quantunet-bench-") as name:
        build_firmware(Path(name), mcu_files(lay_out_for(graph, *size_px, budget), budget, [codes]))
        report = read_report(run_firmware(Path(name)))
    if report.differing:
        raise RuntimeError(f"{report.differing} pixels differ")
    count = report.layers[layer] if layer else report.instructions[0]
    return Measured(count, report.flash["flash"], report.ram_bytes)


def measure_peer(
    graph: ir.IntegerGraph, size_px: tuple[int, int], target: CTarget, folder: Path, has_pooling: bool = True
) -> Measured:
    """CMSIS-NN of ``folder`` on the convolutions and poolings of an 8-bit ``graph``."""
    budget = whole_board(target)
    found = (path for pattern in PEER_SOURCES for path in (folder / "Source").glob(pattern))
    sources = {path.name: path.read_text() for path in found if not re.search(r"_f(16|32)", path.name)}
    if "arm_convolve_s8.c" not in sources:
        raise SystemExit(f"CMSIS_NN={folder} holds no Source/ConvolutionFunctions/arm_convolve_s8.c")
    kept = {name: text for name, text in board_files(target).items() if name != "board/main.c"}
    makefile_text = makefile(budget, ("peer.c", *sources), ("main.c", "board_host.c"))
    files = {
        **kept,
        **sources,
        "peer.c": peer_source(graph, size_px, has_pooling),
        "board/main.c": PEER_MAIN,
        "linker.ld": linker_script(budget),
        "Makefile": re.sub(r" qn_\w+\.c", "", makefile_text),
    }
    flags = [f"CFLAGS=-O3 -I{folder.resolve() / 'Include'}", "WARNINGS=-w"]
    with tempfile.TemporaryDirectory(prefix="quantunet-bench-") as name:
        write_project(Path(name) / "peer", files)
        done = subprocess.run(["make", "--silent", *flags, "run"], cwd=f"{name}/peer", capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[:3000])
        flash, _ = section_bytes(Path(name) / "peer" / "firmware.elf", target)
    text = done.stdout
    numbers = dict(re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE))
    whole = plan(graph, *size_px, Tiling())
    image_and_mask = 2 * size_px[0] * size_px[1]
    ram = whole.arena_bytes + int(numbers["scratch"]) + image_and_mask
    return Measured(int(numbers["instructions"]), flash, ram)


def whole_board(target: CTarget) -> Budget:
    """No limit but that of the emulated board."""
    return Budget(target, target.board.flash.size_bytes, target.board.ram.size_bytes)


PEER_MAIN = """#include "board.h"

void peer_run(void);
int32_t peer_scratch_bytes(void);

static void print_number(const char *name, uint64_t value)
{
    char text[24], *digit = text + sizeof text;

    *--digit = 0;
    *--digit = '\\n';
    do {
        *--digit = (char)('0' + (int)(value % 10));
        value /= 10;
    } while (value != 0);
    board_print(name);
    board_print(" ");
    board_print(digit);
}

int main(void)
{
    board_start();
    const uint64_t begin = board_instructions();
    peer_run();
    print_number("instructions", board_instructions() - begin);
    print_number("scratch", (uint64_t)peer_scratch_bytes());
    return 0;
}
"""


def peer_source(graph: ir.IntegerGraph, size_px: tuple[int, int], has_pooling: bool = True) -> str:
    """Calls of CMSIS-NN for convolutions and poolings, on two buffers whose contents do not matter.

    Its kernels for 4-bit weights, two in a byte, where no weight of the graph is wider.
    """
    convolutions = [node for node in graph.nodes if isinstance(node, ir.Conv2d)]
    has_nibbles = all(node.weight_bit_width.max() <= 4 for node in convolutions)
    kind = "s4" if has_nibbles else "s8"
    shapes = graph.shapes(*size_px)
    largest = max(int(np.prod(shape)) for shape in shapes.values())
    tables, calls, needs = [], [], []
    for index, node in enumerate(graph.nodes):
        if isinstance(node, ir.Conv2d):
            out, (channels, height, width) = shapes[node.name][0], shapes[node.inputs[0]]
            codes = node.weight.transpose(0, 2, 3, 1).ravel()
            codes = _nibbles(codes) if has_nibbles else codes
            tables += [
                c_array(f"static const int8_t w{index}[]", codes.tolist()),
                c_array(f"static const int32_t b{index}[]", [0] * out),
                c_array(f"static const int32_t m{index}[]", [1 << 30] * out),
                c_array(f"static const int32_t s{index}[]", [-8] * out),
            ]
            pad = node.padding
            calls.append(
                f"    convolve({height}, {width}, {channels}, {out}, {node.weight.shape[2]}, {pad}, "
                f"w{index}, b{index}, m{index}, s{index});"
            )
            needs.append(f"    need({height}, {width}, {channels}, {out}, {node.weight.shape[2]}, {pad});")
        elif isinstance(node, ir.MaxPool2d) and has_pooling:
            channels, height, width = shapes[node.inputs[0]]
            calls.append(f"    pool({height}, {width}, {channels});")
    return f"""#include <arm_nnfunctions.h>

{chr(10).join(tables)}
__attribute__((section(".caller"))) static int8_t a[{largest}], b[{largest}];
__attribute__((section(".caller"))) static int32_t scratch[1 << 17];
static int32_t scratch_bytes;

void peer_run(void);
int32_t peer_scratch_bytes(void);

static cmsis_nn_conv_params parameters(int pad)
{{
    const cmsis_nn_conv_params p = {{128, -128, {{1, 1}}, {{pad, pad}}, {{1, 1}}, {{-128, 127}}}};
    return p;
}}

static void convolve(int height, int width, int channels, int out, int kernel, int pad, const int8_t *weight,
                     const int32_t *bias, const int32_t *multiplier, const int32_t *shift)
{{
    const cmsis_nn_context context = {{scratch, sizeof scratch}};
    const cmsis_nn_conv_params p = parameters(pad);
    const cmsis_nn_per_channel_quant_params q = {{(int32_t *)multiplier, (int32_t *)shift}};
    const cmsis_nn_dims in = {{1, height, width, channels}}, filter = {{out, kernel, kernel, channels}},
                        biases = {{1, 1, 1, out}}, to = {{1, height, width, out}};
    arm_convolve_wrapper_{kind}(&context, &p, &q, &in, a, &filter, weight, &biases, bias, &to, b);
}}

static void need(int height, int width, int channels, int out, int kernel, int pad)
{{
    const cmsis_nn_conv_params p = parameters(pad);
    const cmsis_nn_dims in = {{1, height, width, channels}}, filter = {{out, kernel, kernel, channels}},
                        to = {{1, height, width, out}};
    const int32_t bytes = arm_convolve_wrapper_{kind}_get_buffer_size(&p, &in, &filter, &to);
    scratch_bytes = bytes > scratch_bytes ? bytes : scratch_bytes;
}}

static void pool(int height, int width, int channels)
{{
    const cmsis_nn_context context = {{scratch, sizeof scratch}};
    const cmsis_nn_pool_params p = {{{{2, 2}}, {{0, 0}}, {{-128, 127}}}};
    const cmsis_nn_dims in = {{1, height, width, channels}}, filter = {{1, 2, 2, 1}},
                        to = {{1, height / 2, width / 2, channels}};
    arm_max_pool_s8(&context, &p, &in, a, &filter, &to, b);
}}

void peer_run(void)
{{
{chr(10).join(calls)}
}}

int32_t peer_scratch_bytes(void)
{{
{chr(10).join(needs)}
    return scratch_bytes;
}}
"""


def _nibbles(codes: np.ndarray) -> np.ndarray:
    """Two codes in a byte, the first in the low half."""
    pairs = np.resize(codes & 15, (-(-codes.size // 2), 2))
    return (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).view(np.int8)


def row(name: str, ours: Measured, base: Measured | None) -> str:
    """One line of the table: counts, and their ratios to the first."""
    text = f"| {name} | {ours.instructions / 1e6:.2f} | {ours.flash_bytes:,} | {ours.ram_bytes:,} |"
    if base is None:
        return f"{text} - | - | - |"
    ratios = (
        ours.instructions / base.instructions,
        ours.flash_bytes / base.flash_bytes,
        ours.ram_bytes / base.ram_bytes,
    )
    return f"{text} {' | '.join(f'{ratio:.3f}' for ratio in ratios)} |"


def main() -> None:
    """Print one table a target."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--run", type=Path, help="run folder of a learned model, or its model file")
    parser.add_argument("--size", default="64x64", help="image of the whole model, HxW")
    parser.add_argument("--targets", nargs="+", default=["cortex-m4", "cortex-m7"], choices=list(C_TARGETS))
    parser.add_argument("--base-channels", type=int, default=16, help="of the 8-bit twin of --run")
    parser.add_argument("--levels", type=int, default=4, help="of the 8-bit twin of --run")
    parser.add_argument("--widths", nargs="+", default=["8x8", "4x4", "2x2"], help="of the layer: weight x activation")
    parser.add_argument("--channels", type=int, default=32, help="of the layer, in and out")
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    peer = os.environ.get("CMSIS_NN")
    for name in arguments.targets:
        target = C_TARGETS[name]
        has_peer = peer is not None and name.startswith("cortex")
        print(f"\n{name}, QEMU {target.board.machine}\n")
        print("| | million instructions | flash bytes | RAM bytes | of the first: instructions | flash | RAM |")
        print("|---|---|---|---|---|---|---|")
        base = None
        if has_peer and peer:
            base = measure_peer(one_layer(32, 32, 8, 8), LAYER_PX, target, Path(peer), has_pooling=False)
            print(row("3x3, 32 to 32, 64x64: CMSIS-NN s8", base, base))
            nibbles = measure_peer(one_layer(32, 32, 4, 8), LAYER_PX, target, Path(peer), has_pooling=False)
            print(row("3x3, 32 to 32, 64x64: CMSIS-NN s4", nibbles, base))
        channels = arguments.channels
        for widths in arguments.widths:
            weight_bits, activation_bits = map(int, widths.split("x"))
            ours = measure(one_layer(channels, channels, weight_bits, activation_bits), LAYER_PX, target, "conv")
            layer = f"3x3, {channels} to {channels}, 64x64: ours, {weight_bits} x {activation_bits} bits"
            print(row(layer, ours, base))
        if arguments.run is None:
            continue
        twin = classic_graph(arguments.base_channels, arguments.levels, "nearest", 8, 8)
        file = arguments.run / "model.safetensors" if arguments.run.is_dir() else arguments.run
        base = measure_peer(twin, (height, width), target, Path(peer)) if has_peer and peer else None
        if base is not None:
            print(row(f"U-Net, {arguments.size}, 8 bits: CMSIS-NN", base, base))
        print(row("U-Net, 8 bits: ours", measure(twin, (height, width), target), base))
        learned = read_model(file)
        print(row("learned: ours", measure(learned, (height, width), target), base))
        if base is not None:
            half = measure(learned, (height, width), target, ram_bytes=base.ram_bytes // 2)
            print(row("learned: ours, in half of the peer's RAM", half, base))


if __name__ == "__main__":
    main()
