"""The engine on the host: geometry, threads, memory, sanitizers, and no floating point."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from random_graphs import random_codes, random_graph

from quantunet.backends.c.build import has_compiler
from quantunet.backends.host.engine import HostEngine
from quantunet.backends.host.library import build_host_library, kernel_names
from quantunet.backends.host.plan import plan_host, steps
from quantunet.formats import IntFormat
from quantunet.ir import graph as ir
from quantunet.ir import interpreter

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler")
FLOAT = re.compile(
    r"\tv?(add|sub|mul|div|sqrt|min|max|cmp\w*|u?comi|cvt\w*|fn?m(add|sub)\w*|rcp\w*|rsqrt\w*|round|dp|h?add|h?sub|scalef)"
    r"(ps|pd|ss|sd|ph|sh)\b|\tf(ld|st|add|sub|mul|div|ild)\w*\b"
)


def random_conv(
    rng: np.random.Generator,
    name: str,
    source: str,
    channels: int,
    out: int,
    kernel: tuple[int, int],
    *,
    stride: int = 1,
    padding: int = 1,
    widths: tuple[int, int] = (1, 8),
    activation: IntFormat | None = None,
    is_multiplied: bool = False,
) -> ir.Conv2d:
    """A convolution with random weights of random widths, whose codes spread over ``activation``."""
    bits = rng.integers(widths[0], widths[1] + 1, out)
    weight = np.stack([rng.integers(-(2 ** (b - 1)), 2 ** (b - 1), (channels, *kernel)) for b in bits])
    output = activation or IntFormat(int(rng.integers(1, 9)), bool(rng.integers(2)))
    shift = np.clip(rng.integers(6, 14, out) - output.bit_width, 0, 31)
    multiplier = np.ones(out, np.int64)
    if is_multiplied:
        multiplier, shift = rng.integers(2**30, 2**31, out), shift + 31
    stage = ir.Requantize(multiplier.astype(np.int32), shift.astype(np.int32), output)
    bias = rng.integers(-500, 500, out).astype(np.int32)
    return ir.Conv2d(name, (source,), weight.astype(np.int32), bits.astype(np.int32), bias, stage, stride, padding)


def mask_of(nodes: list[ir.Node]) -> ir.IntegerGraph:
    """A graph that stores the last node's codes: something else than a mask reads them."""
    before = ir.IntegerGraph(tuple(nodes))
    count, output = before.channels()[nodes[-1].name], before.formats()[nodes[-1].name]
    same = ir.Requantize(np.ones(count, np.int32), np.zeros(count, np.int32), output)
    return ir.IntegerGraph((*nodes, ir.Rescale("same", (nodes[-1].name,), same), ir.ArgMax("mask", ("same",))))


def differing(graph: ir.IntegerGraph, codes: np.ndarray, kernel: str | None = None, threads: int = 1) -> list[str]:
    expected, traced = interpreter.trace(graph, codes), HostEngine(graph, kernel=kernel, threads=threads).trace(codes)
    return [name for name, tensor in traced.items() if not np.array_equal(tensor, expected[name])]


@needs_compiler
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 3), (2, 4), (7, 7)], ids=str)
def test_every_kernel_runs_every_geometry(kernel: tuple[int, int]) -> None:
    rng = np.random.default_rng(kernel)
    for name in kernel_names():
        for padding in range(min(kernel)):
            for stride in (1, 2, 3):
                source = IntFormat(int(rng.integers(1, 9)), bool(rng.integers(2)))
                channels, out = int(rng.integers(1, 40)), int(rng.integers(1, 80))
                conv = random_conv(rng, "conv", "x", channels, out, kernel, stride=stride, padding=padding,
                                   is_multiplied=bool(rng.integers(2)))  # fmt: skip
                graph = mask_of([ir.Input("x", (), channels, source, 1.0), conv])
                shape = (1, channels, *(int(size) for size in rng.integers(max(kernel), 41, 2)))
                shape = tuple(-(-size // stride) * stride if axis > 1 else size for axis, size in enumerate(shape))
                codes = rng.integers(source.q_min, source.q_max + 1, shape)
                assert not differing(graph, codes, name), (name, padding, stride, shape, source, out)


@needs_compiler
def test_every_kernel_runs_every_pair_of_widths() -> None:
    rng = np.random.default_rng(0)
    for name in kernel_names():
        for weight_bits in range(1, 9):
            for activation_bits in range(1, 9):
                source = IntFormat(activation_bits, False)
                conv = random_conv(rng, "conv", "x", 35, 37, (3, 3), widths=(weight_bits, weight_bits))
                codes = rng.choice([source.q_min, source.q_max], (1, 35, 10, 18))
                assert not differing(mask_of([ir.Input("x", (), 35, source, 1.0), conv]), codes, name)


@needs_compiler
def test_winograd_equals_the_interpreter_at_the_ends_of_its_range() -> None:
    rng, used = np.random.default_rng(2), 0
    if "winograd512" not in kernel_names():
        pytest.skip("no AVX-512 VNNI here")
    for bits, weight_bits in ((6, 4), (6, 3), (5, 5), (4, 6), (1, 1)):
        for channels, out, size in ((3, 5, (4, 4)), (64, 32, (18, 40)), (70, 49, (7, 9)), (5, 16, (1, 33))):
            source = IntFormat(bits, False)
            conv = random_conv(rng, "conv", "x", channels, out, (3, 3), widths=(weight_bits, weight_bits))
            smallest = -(2 ** (weight_bits - 1))
            weight = np.where(rng.random(conv.weight.shape) < 0.5, smallest, -smallest - 1)
            if weight_bits < 5:
                weight[0], weight[-1] = smallest, -smallest - 1
            else:
                weight = np.clip(conv.weight, -9, 9)
            conv = ir.Conv2d("conv", ("x",), weight.astype(np.int32), conv.weight_bit_width, conv.bias, conv.requantize)
            graph = mask_of([ir.Input("x", (), channels, source, 1.0), conv])
            codes = rng.choice([0, source.q_max], (2, channels, *size))
            codes[1] = source.q_max
            used += HostEngine(graph, kernel="winograd512").kernels["conv"] == "winograd512"
            assert not differing(graph, codes, "winograd512"), (bits, weight_bits, channels, out, size)
    assert used >= 12


@needs_compiler
def test_winograd_is_refused_where_a_transformed_code_leaves_its_byte() -> None:
    if "winograd512" not in kernel_names():
        pytest.skip("no AVX-512 VNNI here")
    rng = np.random.default_rng(2)
    for bits, value, is_exact in ((6, 14, True), (6, 15, False), (7, 1, False), (6, -14, True), (6, -15, False)):
        conv = random_conv(rng, "conv", "x", 64, 64, (3, 3))
        weight = np.full_like(conv.weight, 0)
        weight[7, 3] = value  # nine weights, so the sum of nine decides
        conv = ir.Conv2d("conv", ("x",), weight, np.full(64, 8, np.int32), conv.bias, conv.requantize)
        graph = mask_of([ir.Input("x", (), 64, IntFormat(bits, False), 1.0), conv])
        for name in ("winograd512", None):
            assert (HostEngine(graph, kernel=name).kernels["conv"] == "winograd512") == is_exact
        codes = rng.integers(0, 2**bits, (1, 64, 6, 6))
        assert not differing(graph, codes)


def up_graph(rng: np.random.Generator, channels: int, out: int, bits: int, is_signed: bool) -> ir.IntegerGraph:
    """Skip and doubled tensors side by side, pooling, a transposed convolution, and a threshold."""
    fmt = IntFormat(bits, is_signed)
    nodes: list[ir.Node] = [
        ir.Input("x", (), 2, IntFormat(8, is_signed), 1.0),
        random_conv(rng, "skip", "x", 2, channels, (3, 3), activation=fmt),
        ir.MaxPool2d("pool", ("skip",)),
        random_conv(rng, "low", "pool", channels, out, (3, 3), activation=fmt),
        ir.UpsampleNearest2d("up", ("low",)),
        ir.Concat("both", ("skip", "up")),
        random_conv(rng, "wide", "both", channels + out, out, (3, 3), widths=(1, 8 if out % 2 else 4), activation=fmt),
        ir.MaxPool2d("pool2", ("wide",)),
    ]
    upper = random_conv(rng, "t", "pool2", out, channels, (2, 2), activation=fmt)
    nodes.append(
        ir.ConvTranspose2d("t", upper.inputs, upper.weight, upper.weight_bit_width, upper.bias, upper.requantize)
    )
    nodes.append(ir.Concat("again", ("t", "wide", "up")))
    head = random_conv(rng, "head", "again", channels + 2 * out, 1, (1, 1), padding=0)
    nodes.append(ir.Conv2d("head", head.inputs, head.weight, head.weight_bit_width, head.bias, None, padding=0))
    return ir.IntegerGraph((*nodes, ir.Threshold("mask", ("head",), 3)))


@needs_compiler
def test_fusions_equal_the_interpreter_and_store_nothing_twice() -> None:
    rng = np.random.default_rng(3)
    for name in (None, *kernel_names()):
        for channels, out, bits, is_signed in (
            (1, 3, 8, False),
            (8, 16, 5, False),
            (12, 7, 4, True),
            (20, 33, 6, False),
        ):
            graph = up_graph(rng, channels, out, bits, is_signed)
            limits = graph.input.output
            for size in ((2, 2), (6, 34), (18, 40)):
                codes = rng.integers(limits.q_min, limits.q_max + 1, (2, 2, *size))
                assert not differing(graph, codes, name, threads=2)
    taken = {step.node.name: step for step in steps(graph)}
    assert taken.keys() == {"skip", "low", "wide", "t", "head"}
    assert (taken["skip"].pooled, taken["wide"].pooled, taken["head"].target) == ("pool", "pool2", "mask")
    assert [(source.name, source.is_doubled) for source in taken["wide"].sources] == [("skip", False), ("low", True)]


@needs_compiler
def test_threads_and_concurrent_calls_give_the_same_masks() -> None:
    rng = np.random.default_rng(4)
    graph = up_graph(rng, 8, 16, 5, False)
    codes = rng.integers(0, 256, (2, 2, 34, 50))
    expected, wrong = interpreter.run(graph, codes), []
    engines = [HostEngine(graph, threads=count) for count in (1, 2, 3)]

    def work(engine: HostEngine) -> None:
        wrong.extend(1 for _ in range(40) if not np.array_equal(engine.run(codes), expected))

    threads = [threading.Thread(target=work, args=(engines[k % 3],)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_compiler
def test_memory_per_pixel_does_not_grow() -> None:
    graph = up_graph(np.random.default_rng(5), 8, 16, 5, False)
    engine = HostEngine(graph)
    per_pixel = [engine.memory_bytes(size, size) / size**2 for size in (128, 256, 512, 1024, 2048)]
    assert per_pixel == sorted(per_pixel, reverse=True)
    assert plan_host(graph, 128, 128).arena_bytes * 4 == plan_host(graph, 256, 256).arena_bytes


@needs_compiler
def test_wrong_codes_and_kernels_are_refused() -> None:
    graph = random_graph(8)
    codes = random_codes(graph, 8)
    engine = HostEngine(graph)
    with pytest.raises(ir.GraphError, match="do not fit"):
        engine.run(codes[:, :0])
    with pytest.raises(ir.GraphError, match="outside the format"):
        engine.run(codes + 1000)
    with pytest.raises(ir.GraphError, match="is not divisible by"):
        engine.run(codes[:, :, 1:])
    with pytest.raises(ir.GraphError, match="there is no kernel 'none'"):
        HostEngine(graph, kernel="none")


@needs_compiler
def test_the_library_holds_no_floating_point() -> None:
    if shutil.which("objdump") is None:
        pytest.skip("no objdump")
    library = build_host_library()
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, text=True).stdout
    found = [line for line in listing.splitlines() if FLOAT.search(line)]
    assert len(listing.splitlines()) > 5000
    assert not found
    assert FLOAT.search("\tvaddps %zmm1,%zmm2,%zmm3")


@needs_compiler
def test_the_engine_is_clean_under_the_undefined_behaviour_sanitizer(tmp_path: Path) -> None:
    library = build_host_library(["-O0", "-march=native", "-fsanitize=undefined", "-fno-sanitize-recover=all"])
    rng = np.random.default_rng(6)
    for kernel in kernel_names(library):
        for is_signed in (False, True):
            graph = up_graph(rng, 9, 21, 6, is_signed)
            limits = graph.input.output
            codes = rng.integers(limits.q_min, limits.q_max + 1, (1, 2, 10, 26))
            engine = HostEngine(graph, kernel=kernel, threads=2, library=library)
            assert np.array_equal(engine.run(codes), interpreter.run(graph, codes))
