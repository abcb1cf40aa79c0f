"""The host engine's NEON kernels, cross-compiled and run under QEMU: every code equals the interpreter's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from random_graphs import random_codes, random_graph
from recorded_host import RecordedEngine, Recorder, build
from test_host_engine import mask_of, random_conv, up_graph

from quantunet.backends.c.build import find_compiler, has_compiler
from quantunet.formats import IntFormat
from quantunet.ir import graph as ir
from quantunet.ir import interpreter

GRAPHS = 240
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
PLUGIN = Path(__file__).parent / "c" / "qemu_count.c"
RECORDED = Path(__file__).parent / "golden" / "host_instructions.json"
FLOAT = re.compile(
    r"\tf(n?m?(add|sub|mul|la|ls)\w*|abs|addp|cm\w+|cvt\w*|div|max\w*|min\w*|neg|rint\w*|sqrt|recp\w*|rsqrt\w*)\b"
    r"|\t[su]cvtf\b"
)
Case = tuple[ir.IntegerGraph, np.ndarray]

pytestmark = pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None,
    reason="no compiler or emulator: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user",
)


@dataclass(frozen=True)
class Processor:
    """A program for one processor, which QEMU stands for, and the kernels that are proven on it, best first."""

    command: tuple[str | Path, ...]
    kernels: tuple[str, ...]
    folder: Path


@pytest.fixture(scope="module", params=["armv8-a", "armv8.2-a+dotprod"])
def processor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Processor:
    """Cortex-A53 has no dot product, Cortex-A76 has."""
    folder, has_dot = tmp_path_factory.mktemp("neon"), request.param.endswith("dotprod")
    build(folder, COMPILER, ["-O3", f"-march={request.param}"])
    kernels = ("neon_dot",) if has_dot else ("neon", "portable")
    return Processor((EMULATOR, "-cpu", "cortex-a76" if has_dot else "cortex-a53", "./program"), kernels, folder)


def prove(processor: Processor, kernel: str | None, cases: Sequence[Case]) -> tuple[int, list[object], int]:
    """Codes compared, what differs, and how many convolutions ran on ``kernel``."""
    recorder, compared, differing, used = Recorder(), 0, [], 0

    def engines() -> list[RecordedEngine]:
        return [
            RecordedEngine(recorder, graph, kernel=kernel, threads=1 + position % 3)
            for position, (graph, _) in enumerate(cases)
        ]

    for engine, (_, codes) in zip(engines(), cases, strict=True):
        engine.trace(codes)
    recorder.execute(processor.command, processor.folder)
    for position, (engine, (graph, codes)) in enumerate(zip(engines(), cases, strict=True)):
        expected = interpreter.trace(graph, codes)
        for name, tensor in engine.trace(codes).items():
            compared += tensor.size
            if not np.array_equal(tensor, expected[name]):
                differing.append((position, graph.node(name)))
        used += sum(name == (kernel or processor.kernels[0]) for name in engine.kernels.values())
    return compared, differing, used


def test_random_graphs_equal_the_interpreter(processor: Processor, capsys: pytest.CaptureFixture[str]) -> None:
    graphs = [random_graph(seed, extended=seed % 2 == 1) for seed in range(GRAPHS)]
    cases = [(graph, random_codes(graph, seed)) for seed, graph in enumerate(graphs)]
    for kernel in processor.kernels:
        compared, differing, used = prove(processor, kernel, cases)
        with capsys.disabled():
            print(f"\nhost, {kernel}: {GRAPHS} random graphs, {compared} codes, {len(differing)} tensors differ")
        assert not differing
        assert compared > 2_000_000
        assert used > 800


def test_every_geometry_equals_the_interpreter(processor: Processor) -> None:
    rng, cases = np.random.default_rng(0), []
    for kernel in ((1, 1), (3, 3), (5, 3), (2, 4), (7, 7)):
        for padding in range(min(kernel)):
            for stride in (1, 2, 3):
                for out in rng.integers(1, 40, 3):
                    source = IntFormat(int(rng.integers(1, 9)), bool(rng.integers(2)))
                    channels = int(rng.integers(1, 40))
                    conv = random_conv(rng, "conv", "x", channels, int(out), kernel, stride=stride, padding=padding,
                                       is_multiplied=bool(rng.integers(2)))  # fmt: skip
                    graph = mask_of([ir.Input("x", (), channels, source, 1.0), conv])
                    size = (-(-int(n) // stride) * stride for n in rng.integers(max(kernel), 25, 2))
                    cases.append((graph, rng.integers(source.q_min, source.q_max + 1, (1, channels, *size))))
    for name in processor.kernels:
        _, differing, used = prove(processor, name, cases)
        assert not differing
        assert used == len(cases)


def test_every_number_of_channels_and_pixels_equals_the_interpreter(processor: Processor) -> None:
    """What is left over of vectors and tiles, with codes and with accumulators."""
    rng, cases = np.random.default_rng(1), []
    for out in range(1, 34):
        source = IntFormat(8, bool(out % 2))
        conv = random_conv(rng, "conv", "x", 1 + out % 7, out, (3, 3), is_multiplied=out % 3 == 0)
        raw = ir.Conv2d("raw", ("conv",), *random_weights(rng, out, out), None, 1, 0)
        nodes = [ir.Input("x", (), 1 + out % 7, source, 1.0), conv, raw]
        graph = ir.IntegerGraph((*nodes, ir.ArgMax("mask", ("raw",))))
        for width in (1, 2, 3, 4, 5, 7, 15, 17, 33):
            cases.append((graph, rng.integers(source.q_min, source.q_max + 1, (1, 1 + out % 7, 3, width))))
    for name in processor.kernels:
        _, differing, used = prove(processor, name, cases)
        assert not differing
        assert used == 2 * len(cases)


def random_weights(rng: np.random.Generator, channels: int, out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of a 1x1 convolution at 8 bits, their widths, and biases."""
    weight = rng.integers(-128, 128, (out, channels, 1, 1)).astype(np.int32)
    return weight, np.full(out, 8, np.int32), rng.integers(-500, 500, out).astype(np.int32)


def test_every_pair_of_widths_equals_the_interpreter_at_its_ends(processor: Processor) -> None:
    """Filters of one sign and images of one code: sums of 16 bits are as large as the widths allow."""
    rng, cases = np.random.default_rng(2), []
    for weight_bits in range(1, 9):
        for bits in range(1, 9):
            for is_signed in (False, True):
                source = IntFormat(bits, is_signed)
                conv = random_conv(rng, "conv", "x", 35, 9, (3, 3), widths=(weight_bits, weight_bits))
                smallest = -(2 ** (weight_bits - 1))
                weight = conv.weight.copy()
                weight[0], weight[3], weight[-1] = smallest, -smallest - 1, smallest
                weight[4] = np.where(rng.random(weight[4].shape) < 0.5, smallest, -smallest - 1)
                conv = ir.Conv2d("conv", ("x",), weight, conv.weight_bit_width, conv.bias, conv.requantize)
                codes = rng.choice([source.q_min, source.q_max], (3, 35, 4, 6))
                codes[1], codes[2] = source.q_min, source.q_max
                cases.append((mask_of([ir.Input("x", (), 35, source, 1.0), conv]), codes))
    for name in processor.kernels:
        _, differing, used = prove(processor, name, cases)
        assert not differing
        assert used == len(cases)


def test_joins_and_up_samplings_equal_the_interpreter(processor: Processor) -> None:
    rng, cases = np.random.default_rng(3), []
    for channels, out, bits, is_signed in ((1, 3, 8, False), (8, 16, 5, False), (12, 7, 4, True), (20, 33, 6, False)):
        graph = up_graph(rng, channels, out, bits, is_signed)
        limits = graph.input.output
        for size in ((2, 2), (6, 34), (18, 40)):
            cases.append((graph, rng.integers(limits.q_min, limits.q_max + 1, (2, 2, *size))))
    for name in (None, *processor.kernels):
        _, differing, used = prove(processor, name, cases)
        assert not differing
        assert used == 5 * len(cases)


def join_graph(rng: np.random.Generator) -> ir.IntegerGraph:
    """A 3x3 convolution of few bits over an up-sampled tensor, a skip connection, or both in either order."""
    source = IntFormat(int(rng.integers(4, 7)), False)
    low, skip, out = (int(n) for n in rng.integers(1, 41, 3))
    nodes: list[ir.Node] = [
        ir.Input("x", (), 3, source, 1.0),
        random_conv(rng, "low", "x", 3, low, (2, 2), stride=2, padding=0, activation=source),
        random_conv(rng, "skip", "x", 3, skip, (1, 1), padding=0, activation=source),
        ir.UpsampleNearest2d("up", ("low",)),
    ]
    parts = (("up",), ("skip",), ("up", "skip"), ("skip", "up"), ("skip", "skip", "up"))[int(rng.integers(5))]
    channels = sum(low if part == "up" else skip for part in parts)
    name = parts[0]
    if len(parts) > 1:
        nodes.append(ir.Concat("both", parts))
        name = "both"
    bits = (1, int(rng.integers(2, 5)))
    conv = random_conv(rng, "conv", name, channels, out, (3, 3), widths=bits)
    read = {"x", "both", *parts} | ({"low"} if "up" in parts else set())
    return mask_of([*(node for node in nodes if node.name in read), conv])


def test_winograd_equals_the_interpreter(processor: Processor) -> None:
    if "neon_dot" not in processor.kernels:
        pytest.skip("no dot product on this processor")
    rng, cases = np.random.default_rng(5), []
    for bits, weight_bits in ((6, 4), (6, 3), (5, 5), (4, 6), (1, 1)):  # the ends of what fits a transformed byte
        for channels, out, size in ((3, 5, (4, 4)), (64, 32, (10, 22)), (70, 49, (7, 9)), (5, 16, (1, 33))):
            source, smallest = IntFormat(bits, False), -(2 ** (weight_bits - 1))
            conv = random_conv(rng, "conv", "x", channels, out, (3, 3), widths=(weight_bits, weight_bits))
            weight = np.where(rng.random(conv.weight.shape) < 0.5, smallest, -smallest - 1).astype(np.int32)
            weight = weight if weight_bits < 5 else conv.weight.clip(-9, 9)
            weight[0], weight[-1] = max(smallest, -9), min(-smallest - 1, 9)
            conv = ir.Conv2d("conv", ("x",), weight, conv.weight_bit_width, conv.bias, conv.requantize)
            codes = rng.choice([0, source.q_max], (2, channels, *size))
            codes[1] = source.q_max
            cases.append((mask_of([ir.Input("x", (), channels, source, 1.0), conv]), codes))
    _, differing, used = prove(processor, "winograd_dot", cases)
    assert not differing
    assert used >= 12
    joins = [join_graph(rng) for _ in range(60)]
    sizes = 2 * rng.integers(1, 18, (len(joins), 2))
    cases = [
        (graph, rng.integers(0, graph.input.output.q_max + 1, (2, 3, *size)))
        for graph, size in zip(joins, sizes, strict=True)
    ]
    _, differing, used = prove(processor, "winograd_dot", cases)
    assert not differing
    assert used >= 50


def test_the_kernels_hold_no_floating_point(processor: Processor) -> None:
    objdump = COMPILER.replace("gcc", "objdump")
    objects = sorted(processor.folder.glob("qn_*.o"))
    listing = subprocess.run(
        [objdump, "-d", "--no-show-raw-insn", *objects], capture_output=True, text=True, check=True
    ).stdout
    found = [line for line in listing.splitlines() if FLOAT.search(line)]
    assert len(listing.splitlines()) > 10_000
    assert not found
    assert ("\tsdot\t" in listing) == ("neon_dot" in processor.kernels)
    for text in ("\tfadd\tv0.4s, v1.4s", "\tfmadd\td0", "\tscvtf\ts0", "\tfcvtzs\tw0", "\tfmul\ts0", "\tfmla\tv0"):
        assert FLOAT.search(text)


def test_undefined_behaviour_traps_nowhere(tmp_path: Path) -> None:
    flags = ["-O0", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-march=armv8.2-a+dotprod"]
    build(tmp_path, COMPILER, flags)
    processor = Processor((EMULATOR, "-cpu", "cortex-a76", "./program"), ("neon_dot",), tmp_path)
    rng, cases = np.random.default_rng(6), [(graph, random_codes(graph, 0)) for graph in map(random_graph, range(8))]
    for channels, out, is_signed in ((9, 21, False), (9, 21, True), (33, 20, False)):
        graph = up_graph(rng, channels, out, 6, is_signed)
        limits = graph.input.output
        cases.append((graph, rng.integers(limits.q_min, limits.q_max + 1, (1, 2, 10, 26))))
    for kernel in ("winograd_dot", "neon_dot", "neon", "portable"):
        _, differing, used = prove(processor, kernel, cases)
        assert not differing
        assert used


def layer_of(weight_bits: int, bits: int) -> Case:
    """A 3x3 convolution of 32 to 32 channels, 64 x 64 pixels."""
    rng, source = np.random.default_rng(4), IntFormat(bits, False)
    conv = random_conv(rng, "conv", "x", 32, 32, (3, 3), widths=(weight_bits, weight_bits), activation=source)
    conv = ir.Conv2d("conv", ("x",), conv.weight.clip(-127), conv.weight_bit_width, conv.bias, conv.requantize)
    return mask_of([ir.Input("x", (), 32, source, 1.0), conv]), rng.integers(0, source.q_max + 1, (1, 32, 64, 64))


def layer_instructions(command: Sequence[str | Path], folder: Path, case: Case, kernel: str) -> int:
    """Of one run of the layer: two runs take that much more than one."""
    (graph, codes), counts = case, []
    for times in (1, 2):
        recorder = Recorder(times, steps=1)
        RecordedEngine(recorder, graph, kernel=kernel).trace(codes)
        counts.append(int(recorder.execute(command, folder).split()[0]))
        engine = RecordedEngine(recorder, graph, kernel=kernel)
        assert np.array_equal(engine.trace(codes)["conv"], interpreter.trace(graph, codes)["conv"])
        assert engine.kernels["conv"] == kernel
    return counts[1] - counts[0]


@pytest.mark.skipif(not has_compiler(), reason="no C compiler")
def test_instructions_are_those_recorded(processor: Processor) -> None:
    """Exact counts, by compiler; to record new ones, write what the failure shows into the golden file."""
    version = subprocess.run([COMPILER, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    recorded = json.loads(RECORDED.read_text()).get(version)
    if recorded is None:
        pytest.skip(f"no counts recorded for {version}")
    if "-plugin" not in subprocess.run([EMULATOR, "-h"], capture_output=True, text=True).stdout:
        pytest.skip("this QEMU takes no plugins")
    plugin = processor.folder / "count.so"
    subprocess.run([*find_compiler(), "-O2", "-shared", "-fPIC", PLUGIN, "-o", plugin], check=True)
    command = [EMULATOR, "-plugin", plugin, *processor.command[1:]]
    kernels = {(8, 8): processor.kernels, (4, 6): processor.kernels}
    if "neon_dot" in processor.kernels:
        kernels[4, 6] = ("winograd_dot", "neon_dot")
    counts = {
        f"{kernel}, {bits[0]} and {bits[1]} bits": layer_instructions(
            command, processor.folder, layer_of(*bits), kernel
        )
        for bits, names in kernels.items()
        for kernel in names
    }
    assert counts == {name: recorded.get(name) for name in counts}
