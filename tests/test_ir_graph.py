from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from graph_examples import every_node, unet

from quantunet.formats import INT32, IntFormat
from quantunet.ir.graph import (
    Concat,
    Conv2d,
    GraphError,
    Input,
    IntegerGraph,
    MaxPool2d,
    Node,
    Threshold,
    output_format,
)
from quantunet.ir.validate import MAX_NODES, validate


def changed(graph: IntegerGraph, name: str, /, **fields: Any) -> IntegerGraph:
    """The graph with some fields of one node replaced; fields of the requantization by ``requantize_<field>``."""
    node: Any = graph.node(name)
    stage = {key.removeprefix("requantize_"): fields.pop(key) for key in list(fields) if key.startswith("requantize_")}
    if stage:
        fields["requantize"] = replace(node.requantize, **stage)
    nodes = tuple(replace(node, **fields) if each is node else each for each in graph.nodes)
    return IntegerGraph(nodes, graph.metadata)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("by_shift", [True, False])
def test_well_formed_graphs_pass(binary, by_shift):
    validate(every_node(0, by_shift, binary))
    validate(unet(levels=4, base=2))


def ones(count: int) -> np.ndarray:
    return np.ones(count, np.int32)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "name of another": ({"name": "pool"}, "two nodes have the name 'pool'"),
    "name of nothing": ({"name": ""}, "name ''"),
    "name reserved by safetensors": ({"name": "__metadata__"}, "__metadata__"),
    "name with a line break": ({"name": "a\nb"}, r"name 'a\\nb'"),
    "unknown input": ({"inputs": ("nowhere",)}, "'nowhere', which no earlier"),
    "later input": ({"inputs": ("joined",)}, "'joined', which no earlier"),
    "no input": ({"inputs": ()}, "reads 0"),
    "two inputs": ({"inputs": ("pool", "pool")}, "reads 2"),
    "rank": ({"weight": np.zeros((4, 3, 3), np.int32)}, "shape"),
    "input channels": ({"weight": np.zeros((4, 2, 3, 3), np.int32)}, "3 input channels"),
    "no output channels": ({"weight": np.zeros((0, 3, 3, 3), np.int32)}, "0, 3, 3, 3"),
    "kernel": ({"weight": np.zeros((4, 3, 3, 32), np.int32)}, "shape"),
    "float weights": ({"weight": np.zeros((4, 3, 3, 3), np.float32)}, "not integers"),
    "weight beyond 8 bits": ({"weight": np.full((4, 3, 3, 3), 128, np.int32)}, "do not fit"),
    "weight width 0": ({"weight_bit_width": np.zeros(4, np.int32)}, "leaves 1..8"),
    "weight width 9": ({"weight_bit_width": np.full(4, 9, np.int32)}, "leaves 1..8"),
    "weight widths of other channels": ({"weight_bit_width": ones(3)}, r"not integers \(4,\)"),
    "bias of other channels": ({"bias": ones(5)}, r"not integers \(4,\)"),
    "bias beyond int32": ({"bias": np.full(4, 2**31)}, "bias"),
    "stride 0": ({"stride": 0}, "stride 0"),
    "padding of a whole kernel": ({"padding": 3}, "padding 3"),
    "negative padding": ({"padding": -1}, "padding -1"),
    "multipliers of other channels": ({"requantize_multiplier": ones(3)}, "multiplier"),
    "negative multiplier": ({"requantize_multiplier": -ones(4)}, "multiplier"),
    "multiplier of 32 bits": ({"requantize_multiplier": np.full(4, 2**31)}, "multiplier"),
    "shift beyond 62": ({"requantize_shift": np.full(4, 63)}, "shift"),
    "shift beyond -31": ({"requantize_shift": np.full(4, -32)}, "shift"),
    "multiplied and shifted left": (
        {"requantize_shift": -ones(4), "requantize_multiplier": 3 * ones(4)},
        "shift to the left",
    ),
    "codes of 9 bits": ({"requantize_output": IntFormat(9, False)}, "at most 8 bits"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_convolution_is_named(fault):
    fields, message = FAULTS[fault]
    with pytest.raises(GraphError, match=message) as caught:
        validate(changed(every_node(), "enc.b", **fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("image", {"channels": 0}, "0 channels"),
        ("image", {"scale": 0.0}, "scale 0.0"),
        ("image", {"scale": float("nan")}, "scale nan"),
        ("image", {"output": IntFormat(9, True)}, "at most 8 bits"),
        ("joined", {"inputs": ()}, "joins nothing"),
        ("joined", {"inputs": ("skip", "pool")}, "joins tensors of sizes|input channels"),
        ("up", {"weight": np.zeros((3, 4, 3, 3), np.int32)}, "not \\(out, in, 2, 2\\)"),
        ("mask", {"inputs": ("joined",)}, "compares 10 channels"),
        ("mask", {"threshold": 2**31}, "compares 1 channels"),
        ("skip", {"requantize_shift": ones(2)}, "shift"),
        ("head", {"inputs": ("mask",)}, "no earlier"),
    ],
)
def test_a_fault_of_another_node_is_named(name, fields, message):
    with pytest.raises(GraphError, match=message):
        validate(changed(every_node(), name, **fields))


@dataclass(frozen=True, eq=False)
class Stranger(Node):
    pass


def test_faults_of_the_whole_graph():
    graph = every_node()
    image, first = graph.nodes[:2]
    assert isinstance(image, Input)
    with pytest.raises(GraphError, match="needs an input"):
        validate(IntegerGraph(()))
    with pytest.raises(GraphError, match="stands first and is no input"):
        validate(IntegerGraph(graph.nodes[1:]))
    with pytest.raises(GraphError, match="stands last and is no mask"):
        validate(IntegerGraph(graph.nodes[:-1]))
    with pytest.raises(GraphError, match="reads 0 tensors at place 1"):
        validate(IntegerGraph((image, replace(image, name="second"), Threshold("m", ("second",), 0))))
    with pytest.raises(GraphError, match="unknown kind Stranger"):
        validate(IntegerGraph((replace(image, channels=1), Stranger("s", ("image",)), Threshold("m", ("s",), 0))))
    with pytest.raises(GraphError, match=f"{MAX_NODES}"):
        validate(IntegerGraph((image, *[first] * MAX_NODES, graph.output)))
    argmax = every_node(binary=False).output
    with pytest.raises(GraphError, match="largest of 1 channel"):
        validate(IntegerGraph((replace(image, channels=1), replace(argmax, inputs=("image",)))))
    joins = [Concat(f"c{i}", ("image" if i == 0 else f"c{i - 1}",) * 2) for i in range(40)]
    with pytest.raises(GraphError, match="more than 16384"):
        validate(IntegerGraph((image, *joins, graph.output)))
    pools = [MaxPool2d(f"p{i}", ("image" if i == 0 else f"p{i - 1}",)) for i in range(13)]
    with pytest.raises(GraphError, match="multiples of 8192"):
        validate(IntegerGraph((replace(image, channels=1), *pools, Threshold("m", ("p12",), 0))))


def test_accumulators_are_requantized_before_they_are_weighted_or_joined():
    graph = every_node()
    loose = changed(graph, "enc.b", requantize=None)
    with pytest.raises(GraphError, match="'bilinear' reads int32 accumulators"):
        validate(loose)


def test_formats_channels_and_sizes_by_name():
    graph = every_node()
    formats = {name: str(fmt) for name, fmt in graph.formats().items()}
    assert formats == {
        "image": "s8",
        "enc.a": "u4",
        "pool": "u4",
        "enc.b": "u4",
        "bilinear": "u4",
        "nearest": "u4",
        "up": "s5",
        "skip": "u3",
        "joined": "s5",
        "head": "s32",
        "mask": "u1",
    }
    assert graph.channels()["joined"] == 10
    assert graph.shapes(8, 12)["enc.b"] == (4, 2, 3)
    assert graph.shapes(8, 12)["joined"] == (10, 8, 12)
    assert graph.size_multiple() == 4
    assert unet(levels=4, base=1).size_multiple() == 16


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        (["u4", "u2"], "u4"),
        (["s4", "s2"], "s4"),
        (["u4", "s2"], "s5"),
        (["u8", "s8"], "s9"),
        (["u1", "s4"], "s4"),
    ],
)
def test_the_format_of_a_concatenation_holds_every_code(widths, expected):
    inputs = [IntFormat.parse(text) for text in widths]
    graph = IntegerGraph((Input("x", (), 1, inputs[0], 1.0), Concat("c", ("x",))))
    assert graph.formats()["c"] == inputs[0]
    joined = output_format(Concat("c", ("a", "b")), inputs, {})
    assert str(joined) == expected
    assert all(joined.q_min <= each.q_min and each.q_max <= joined.q_max for each in inputs)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(GraphError, match="halves 9x8"):
        every_node().shapes(9, 8)
    with pytest.raises(GraphError, match="joins tensors of sizes"):
        every_node().shapes(10, 8)
    conv = Conv2d("c", ("x",), np.ones((1, 1, 3, 3), np.int32), ones(1) * 8, ones(1), None, padding=0)
    graph = IntegerGraph((Input("x", (), 1, IntFormat(8, True), 1.0), conv, Threshold("m", ("c",), 0)))
    with pytest.raises(GraphError, match="kernel 3x3 exceeds 2x2"):
        graph.shapes(2, 2)
    assert graph.shapes(3, 3)["c"] == (1, 1, 1)
    assert graph.formats()["c"] == INT32
