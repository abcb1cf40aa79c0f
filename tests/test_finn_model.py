"""The dialect for FINN: thresholds are the requantization, codes the interpreter's, types hold what is there."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_examples import every_node, unet
from random_graphs import random_codes, random_graph
from small_runs import finished_run, one_line_error

from quantunet.arith import requantize
from quantunet.backends.integer_thresholds import integer_thresholds
from quantunet.backends.onnx.finn import finn_model, finn_type
from quantunet.backends.onnx.verify import verify_qonnx
from quantunet.formats import IntFormat, smallest_format
from quantunet.ir.graph import (
    ConvTranspose2d,
    GraphError,
    IntegerGraph,
    Requantize,
    UpsampleBilinear2d,
    UpsampleNearest2d,
)
from quantunet.ir.ranges import Interval

pytest.importorskip("qonnx", reason="needs quantunet[onnx]")
FORMATS = [
    *(IntFormat(width, signed) for width in range(1, 9) for signed in (True, False)),
    *(IntFormat(width, True, narrow_range=True) for width in range(2, 9)),
]


@pytest.fixture(autouse=True)
def without_warnings_of_qonnx() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def counted(thresholds: np.ndarray, acc: np.ndarray, output: IntFormat) -> np.ndarray:
    return output.q_min + (acc[:, None] >= thresholds[None, :]).sum(axis=1)


@pytest.mark.parametrize("output", FORMATS, ids=str)
def test_thresholds_are_the_requantization(output: IntFormat) -> None:
    """Every accumulator of a range, all shifts near it, left shifts, multipliers, and the multiplier 0."""
    rng = np.random.default_rng(output.bit_width)
    acc = np.arange(-3000, 3001)
    shifts = np.arange(-4, 14)
    multipliers = rng.integers(2**30, 2**31, 12)
    stage = Requantize(
        np.concatenate([np.ones_like(shifts), multipliers, [0]]).astype(np.int32),
        np.concatenate([shifts, rng.integers(29, 45, 12), [0]]).astype(np.int32),
        output,
    )
    bounds = np.ones(len(stage.shift), np.int64)
    thresholds = integer_thresholds(stage, Interval(-3000 * bounds, 3000 * bounds))
    assert thresholds.shape == (len(bounds), output.q_max - output.q_min)
    assert np.all(np.diff(thresholds, axis=1) >= 0)
    assert thresholds.min() >= -3000
    assert thresholds.max() <= 3001
    for row, multiplier, shift in zip(thresholds, stage.multiplier, stage.shift, strict=True):
        expected = requantize(acc, int(multiplier), int(shift), output)
        assert np.array_equal(counted(row, acc, output), expected), (multiplier, shift)


def test_thresholds_at_the_ends_of_int32_and_the_largest_shift() -> None:
    rng = np.random.default_rng(0)
    ends = np.array([-(2**31), 2**31 - 1])
    acc = np.unique(np.concatenate([rng.integers(*ends, 20_000), ends, ends // 2, [-1, 0, 1]]))
    for output in (IntFormat(8, True), IntFormat(8, False), IntFormat(1, True)):
        for multiplier, shift in ((2**31 - 1, 62), (2**30, 54), (1, 31), (1, 24), (1, -3)):
            stage = Requantize(np.array([multiplier], np.int32), np.array([shift], np.int32), output)
            row = integer_thresholds(stage, Interval(ends[:1], ends[1:]))[0]
            assert np.array_equal(counted(row, acc, output), requantize(acc, multiplier, shift, output))


def accepted_graphs(count: int) -> Iterator[tuple[int, IntegerGraph]]:
    found = 0
    for seed in range(10 * count):
        graph = random_graph(seed)
        if found < count and not any(isinstance(node, UpsampleBilinear2d) for node in graph.nodes):
            found += 1
            yield seed, graph
    assert found == count


def test_random_graphs_equal_the_interpreter() -> None:
    """Multipliers, left shifts, strides, transposed convolutions, one signed bit: all of it becomes thresholds."""
    compared, kinds = 0, Counter[str]()
    for seed, graph in accepted_graphs(25):
        proof = verify_qonnx(graph, list(random_codes(graph, seed)), with_passes=False, for_finn=True)
        assert (proof.differing, proof.first_difference) == (0, ""), seed
        compared += proof.compared
        kinds.update(type(node).__name__ for node in graph.nodes)
    assert compared > 200_000
    assert {"ConvTranspose2d", "Rescale", "Concat", "ArgMax", "Threshold", "UpsampleNearest2d"} <= set(kinds)


def test_it_stays_equal_after_the_passes_of_qonnx() -> None:
    graph = unet(base=2, levels=1)
    codes = np.random.default_rng(0).integers(-128, 128, (1, 8, 8))
    proof = verify_qonnx(graph, [codes], for_finn=True)
    assert proof.passes == ("after cleanup", "after channels-last")
    assert proof.differing == 0


def without_bilinear(graph: IntegerGraph) -> IntegerGraph:
    nodes = [UpsampleNearest2d(n.name, n.inputs) if isinstance(n, UpsampleBilinear2d) else n for n in graph.nodes]
    return replace(graph, nodes=tuple(nodes))


def test_every_constant_is_of_its_stated_type_and_has_one_reader() -> None:
    """FINN changes constants in place and rounds them to their type."""
    from qonnx.core.datatype import DataType

    for graph in (without_bilinear(every_node()), unet(levels=2), *(each for _, each in accepted_graphs(10))):
        model = finn_model(graph, *[4 * graph.size_multiple()] * 2).model
        assert {node.op_type for node in model.graph.node} <= {
            *("Conv", "ConvTranspose", "MultiThreshold", "MaxPool", "Resize", "Concat", "Add", "ArgMax"),
        }
        stated = {
            each.tensor_name: DataType[each.quant_parameter_tensor_names[0].value]
            for each in model.graph.quantization_annotation
        }
        readers = Counter(name for node in model.graph.node for name in node.input)
        constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type in ("Conv", "ConvTranspose", "MultiThreshold", "Add"):
                values = constants[node.input[1]]
                assert np.array_equal(values, np.round(values))
                assert stated[node.input[1]].min() <= values.min()
                assert values.max() <= stated[node.input[1]].max()
        assert all(readers[name] == 1 for name in constants)
        assert model.graph.input[0].name in stated


def test_weights_state_the_widest_channel() -> None:
    graph = unet(levels=1)
    model = finn_model(graph, 16, 16).model
    stated = {
        each.tensor_name: each.quant_parameter_tensor_names[0].value for each in model.graph.quantization_annotation
    }
    for node in graph.weight_nodes():
        assert stated[f"{node.name}/weight"] == f"INT{max(2, node.weight_bit_width.max())}"


def test_names_of_types() -> None:
    from qonnx.core.datatype import DataType

    for limits in FORMATS:
        kind = DataType[finn_type(limits)]
        assert kind.min() <= limits.q_min
        assert limits.q_max <= kind.max()
    assert finn_type(smallest_format(0, 1)) == "BINARY"
    assert finn_type(IntFormat(1, True)) == "INT2"


def test_what_finn_cannot_have_is_refused() -> None:
    with pytest.raises(GraphError, match="'bilinear': FINN has no bilinear up-sampling"):
        finn_model(every_node(), 16, 16)
    graph = unet(base=2, levels=1)
    wide = replace(graph.weight_nodes()[1], bias=np.full(2, 2**24, np.int32))
    nodes = tuple(wide if node.name == wide.name else node for node in graph.nodes)
    with pytest.raises(GraphError, match=r"'encoder\.0\.b': sums of products could reach"):
        finn_model(replace(graph, nodes=nodes), 16, 16)


def test_transposed_weights_are_swapped() -> None:
    graph = without_bilinear(every_node())
    model = finn_model(graph, 16, 16).model
    node = next(each for each in graph.nodes if isinstance(each, ConvTranspose2d))
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    assert np.array_equal(constants[f"{node.name}/weight"], node.weight.swapaxes(0, 1))


def test_widths_by_channel_are_refused_with_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    settings = ["--set", "dialect=finn", "--set", "widths=channel"]
    run = finished_run() / "run"
    message = one_line_error(capsys, "export", run, "--to", "qonnx", *settings, "--out", tmp_path / "m")
    assert "weights have one width a layer" in message
    assert not (tmp_path / "m").exists()
