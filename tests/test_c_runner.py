from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_graphs import random_codes, random_graph

from quantunet.arith import requantize
from quantunet.backends.c import build as c_build
from quantunet.backends.c.project import export_c
from quantunet.backends.c.runner import CEngine, CompilerMissing, float_free, has_compiler, verify_c
from quantunet.formats import INT32, IntFormat
from quantunet.ir import graph as ir
from quantunet.ir import interpreter

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler")
SEED = 8


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def case() -> tuple[ir.IntegerGraph, np.ndarray]:
    graph = random_graph(SEED)
    return graph, random_codes(graph, SEED)


@needs_compiler
def test_masks_and_traces_equal_the_interpreter(case: tuple[ir.IntegerGraph, np.ndarray]) -> None:
    graph, codes = case
    engine = CEngine(graph, *codes.shape[2:])
    expected = interpreter.trace(graph, codes)
    assert np.array_equal(engine.run(codes), expected[graph.output.name][:, 0])
    traced = engine.trace(codes)
    assert len(traced) >= len(graph.nodes) - 1
    for name, tensor in traced.items():
        assert np.array_equal(tensor, expected[name]), name
    assert engine.arena_bytes > 0


@needs_compiler
def test_threads_share_one_engine(case: tuple[ir.IntegerGraph, np.ndarray]) -> None:
    graph, codes = case
    expected = interpreter.run(graph, codes)
    engines = [CEngine(graph, *codes.shape[2:]) for _ in range(2)]
    wrong = []

    def work(engine: CEngine) -> None:
        wrong.extend(1 for _ in range(50) if not np.array_equal(engine.run(codes), expected))

    threads = [threading.Thread(target=work, args=(engines[k % 2],)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_compiler
def test_wrong_codes_are_refused_in_one_line(case: tuple[ir.IntegerGraph, np.ndarray]) -> None:
    graph, codes = case
    engine = CEngine(graph, *codes.shape[2:])
    with pytest.raises(ir.GraphError, match="of shape"):
        engine.run(codes[:, :, 1:])
    with pytest.raises(ir.GraphError, match="outside the format"):
        engine.run(codes + 1000)


@needs_compiler
def test_the_cache_is_used_and_a_corrupt_entry_is_built_again(
    case: tuple[ir.IntegerGraph, np.ndarray], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = {"a.c": "int answer(void);\n\nint answer(void)\n{\n    return 42;\n}\n"}
    library = c_build.build_library(files, ["-O1"])
    written = library.stat().st_mtime_ns
    assert c_build.build_library(files, ["-O1"]) == library
    assert library.stat().st_mtime_ns == written
    whole = library.read_bytes()
    library.write_bytes(whole[: len(whole) // 2])
    assert c_build.build_library(files, ["-O1"]) == library
    assert len(library.read_bytes()) == len(whole)
    assert len(list((tmp_path / "quantunet").iterdir())) == 2


def test_a_missing_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not has_compiler()
    graph = random_graph(SEED)
    with pytest.raises(CompilerMissing, match="'no-such-compiler' is not on the path: install gcc or clang"):
        CEngine(graph, *random_codes(graph, SEED).shape[2:])


@needs_compiler
def test_verify_compares_every_tensor_of_images_of_two_sizes(case: tuple[ir.IntegerGraph, np.ndarray]) -> None:
    graph, codes = case
    multiple = graph.size_multiple()
    other = np.zeros((graph.input.channels, 2 * multiple, 3 * multiple), np.int64)
    proof = verify_c(graph, [*codes, other])
    shapes = [graph.shapes(*image.shape[1:]) for image in (*codes, other)]
    stored = set(shapes[0]) - {graph.input.name}
    fused = {node.inputs[0] for node in graph.nodes if isinstance(node, ir.ArgMax | ir.Threshold)}
    everything = sum(int(np.prod(shape[name])) for shape in shapes for name in stored)
    heads = sum(int(np.prod(shape[name])) for shape in shapes for name in stored & fused)
    assert proof.compared in (everything, everything - heads)
    assert (proof.backend, proof.differing, proof.images) == ("c", 0, 4)


@needs_compiler
def test_verify_sees_a_difference(case: tuple[ir.IntegerGraph, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    graph, codes = case
    conv = next(node for node in graph.nodes if isinstance(node, ir.Conv2d))
    changed = replace(conv, bias=conv.bias + 12345)
    other = ir.IntegerGraph(tuple(changed if node is conv else node for node in graph.nodes))
    trace = interpreter.trace
    monkeypatch.setattr(interpreter, "trace", lambda _, images: trace(other, images))
    proof = verify_c(graph, codes[:1], sanitize=False)
    assert proof.differing > 0
    assert proof.first_difference == conv.name


@needs_compiler
def test_object_code_is_free_of_floats_and_a_float_would_be_found(
    case: tuple[ir.IntegerGraph, np.ndarray], tmp_path: Path
) -> None:
    graph, codes = case
    project = export_c(graph, tmp_path / "c", *codes.shape[2:])
    check = float_free(project)
    print(check.method)
    assert check.is_free
    assert check.instructions > 1000
    source = (project / "qn_tensor.c").read_text()
    for intruder in ("float half(float x);\nfloat half(float x)\n{\n    return x / 2;\n}\n",
                     "int half(int x);\nint half(int x)\n{\n    return (int)((double)x * 0.3);\n}\n"):  # fmt: skip
        (project / "qn_tensor.c").write_text(source + intruder)
        found = float_free(project)
        assert not found.is_free
        assert found.findings


def requantizing_graph(stage: ir.Requantize, channels: int) -> ir.IntegerGraph:
    """A convolution whose biases are the accumulators, and the stage that makes codes of them."""
    return ir.IntegerGraph(
        (
            ir.Input("x", (), channels, IntFormat(1, False), 1.0),
            ir.Conv2d("acc", ("x",), np.zeros((channels, channels, 1, 1), np.int32), np.ones(channels, np.int32),
                      accumulators(channels), None, padding=0),
            ir.Rescale("codes", ("acc",), stage),
            ir.ArgMax("mask", ("codes",)),
        )
    )  # fmt: skip


def accumulators(count: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    edges = [0, 1, -1, 2, -2, 3, -3, 2**30, -(2**30), INT32.q_max, INT32.q_min, INT32.q_max - 1, INT32.q_min + 1]
    spread = np.int64(2) ** rng.integers(0, 31, count) * rng.choice([-1, 1], count) + rng.integers(-2, 3, count)
    return np.concatenate([edges, np.clip(spread, INT32.q_min, INT32.q_max)])[:count].astype(np.int32)


@needs_compiler
@pytest.mark.parametrize("output", [IntFormat(4, False), IntFormat(8, True, True), IntFormat(14, True), INT32], ids=str)
@pytest.mark.parametrize("kind", ["multiplier", "left shifts"])
def test_requantization_equals_arith_over_the_whole_of_int32(output: IntFormat, kind: str) -> None:
    channels, rng = 512, np.random.default_rng(11)
    if kind == "multiplier":
        multiplier, shift = rng.integers(0, 2**31, channels), rng.integers(0, 63, channels)
    else:
        multiplier, shift = np.ones(channels), rng.integers(-31, 63, channels)
    stage = ir.Requantize(multiplier.astype(np.int32), shift.astype(np.int32), output)
    engine = CEngine(requantizing_graph(stage, channels), 1, 1)
    traced = engine.trace(np.zeros((1, channels, 1, 1), np.int64))
    expected = requantize(accumulators(channels).astype(np.int64), stage.multiplier, stage.shift, output)
    assert np.array_equal(traced["acc"].ravel(), accumulators(channels))
    assert np.array_equal(traced["codes"].ravel(), expected)
