"""ONNX and QONNX equal the interpreter in every code, and are written as their readers expect."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import pytest
from graph_examples import every_node, random_codes, unet

from quantunet.backends.onnx import verify as onnx_verify
from quantunet.backends.onnx.model import onnx_model
from quantunet.backends.onnx.qonnx import qonnx_model
from quantunet.backends.onnx.verify import verify_onnx, verify_qonnx
from quantunet.formats import INT32, IntFormat
from quantunet.ir.graph import ArgMax, Conv2d, GraphError, Input, IntegerGraph, Requantize, Threshold

pytest.importorskip("qonnx", reason="needs quantunet[onnx]")


def images(graph: IntegerGraph, count: int = 2, size: int = 16, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return list(random_codes(rng, graph.input.output, (count, graph.input.channels, size, size)))


@pytest.fixture(autouse=True)
def without_warnings_of_qonnx() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def nodes_of(model: onnx.ModelProto, op_type: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op_type]


def initialiser(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def one_conv(weight: np.ndarray, widths: list[int], stage: Requantize | None, source: IntFormat) -> IntegerGraph:
    out, channels = weight.shape[:2]
    conv = Conv2d(
        "conv", ("image",), weight.astype(np.int32), np.array(widths, np.int32), np.arange(out, dtype=np.int32), stage
    )
    mask = ArgMax("mask", ("conv",)) if out > 1 else Threshold("mask", ("conv",), 3)
    return IntegerGraph((Input("image", (), channels, source, 0.5), conv, mask))


@pytest.mark.parametrize("by_shift", [True, False])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("opset", [21, 25])
def test_onnx_equals_the_interpreter_on_every_kind_of_node(by_shift: bool, binary: bool, opset: int) -> None:
    graph = every_node(seed=3, by_shift=by_shift, binary=binary)
    proof = verify_onnx(graph, [*images(graph), *images(graph, 1, 24)], opset)
    assert (proof.differing, proof.first_difference, proof.images) == (0, "", 3)
    assert proof.tensors == len(graph.nodes) - 1
    assert proof.compared > 10_000
    assert proof.default_level_pixels == 2 * 16**2 + 24**2


@pytest.mark.parametrize("widths", ["channel", "layer"])
@pytest.mark.parametrize("by_shift", [True, False])
def test_qonnx_equals_the_interpreter_on_every_kind_of_node(widths: str, by_shift: bool) -> None:
    graph = every_node(seed=3, by_shift=by_shift, binary=by_shift)
    proof = verify_qonnx(graph, images(graph), widths, with_passes=False)  # pyright: ignore
    assert (proof.differing, proof.first_difference, proof.images, proof.passes) == (0, "", 2, ())
    assert proof.tensors == len(graph.nodes) - 1


def test_qonnx_stays_equal_after_the_passes_of_qonnx() -> None:
    graph = unet(base=2, levels=1)
    proof = verify_qonnx(graph, images(graph, 1, 8))
    assert proof.passes == ("after cleanup", "after channels-last")
    assert proof.differing == 0


def test_ties_round_up_at_every_shift_and_width() -> None:
    """Weights 1, so that every code of the input is an accumulator: all ties of all shifts occur, of either sign."""
    for shift in range(-3, 10):
        for output in (IntFormat(1, True), IntFormat(1, False), IntFormat(4, True, True), IntFormat(8, True)):
            stage = Requantize(np.ones(2, np.int32), np.full(2, shift, np.int32), output)
            weight = np.zeros((2, 1, 3, 3))
            weight[0, 0, 1, 1], weight[1, 0, 1, 1] = 1, -1
            graph = one_conv(weight, [2, 1], stage, IntFormat(8, True))
            every_code = np.arange(-128, 128).reshape(1, 16, 16)
            assert verify_onnx(graph, [every_code]).differing == 0, (shift, output)
            assert verify_qonnx(graph, [every_code], with_passes=False).differing == 0, (shift, output)


@pytest.mark.parametrize("channels", [200, 3])
def test_accumulators_beyond_float32_are_exact(channels: int) -> None:
    """Sums above 2^24, where float32 skips integers: every product is odd and of the same sign."""
    weight = np.full((2, channels, 9, 9), -127)
    weight[1] = 127
    for stage in (
        None,
        Requantize(np.array([1, 1], np.int32), np.array([0, -1], np.int32), INT32),
        Requantize(np.array([1, 1], np.int32), np.array([22, 23], np.int32), IntFormat(8, True)),
        Requantize(np.array([2**31 - 1, 2**30], np.int32), np.array([54, 53], np.int32), IntFormat(8, True)),
    ):
        graph = one_conv(weight, [8, 8], stage, IntFormat(8, False))
        graph = replace(graph, nodes=(graph.nodes[0], replace(graph.nodes[1], padding=4), graph.nodes[2]))  # pyright: ignore
        codes = np.full((channels, 12, 12), 255) - np.random.default_rng(0).integers(0, 2, (channels, 12, 12)) * 2
        assert verify_onnx(graph, [codes]).differing == 0
        assert verify_qonnx(graph, [codes], with_passes=False).differing == 0


def test_one_input_channel_beyond_float32_is_refused() -> None:
    weight = np.full((2, 1, 31, 31), 127)
    stage = Requantize(np.ones(2, np.int32), np.full(2, 20, np.int32), IntFormat(8, True))
    graph = one_conv(weight, [8, 8], stage, IntFormat(8, False))
    graph = replace(graph, nodes=(graph.nodes[0], replace(graph.nodes[1], padding=15), graph.nodes[2]))  # pyright: ignore
    with pytest.raises(GraphError, match="'conv': the products of input channel 0"):
        onnx_model(graph)


@pytest.mark.parametrize(
    ("widths", "opset", "container"),
    [
        ([2, 1], 21, onnx.TensorProto.INT4),
        ([4, 2], 21, onnx.TensorProto.INT4),
        ([5, 2], 21, onnx.TensorProto.INT8),
        ([2, 1], 25, onnx.TensorProto.INT2),
        ([3, 1], 25, onnx.TensorProto.INT4),
    ],
)
def test_weights_take_the_narrowest_container(widths: list[int], opset: int, container: int) -> None:
    weight = np.zeros((2, 3, 3, 3))
    weight[0], weight[1] = -(2 ** (widths[0] - 1)), -1
    model = onnx_model(one_conv(weight, widths, None, IntFormat(8, False)), opset).model
    stored = initialiser(model, "conv/weight_codes")
    assert stored.data_type == container
    assert np.array_equal(onnx.numpy_helper.to_array(stored).astype(int), weight)
    bits = {onnx.TensorProto.INT2: 2, onnx.TensorProto.INT4: 4, onnx.TensorProto.INT8: 8}[container]  # pyright: ignore
    assert len(stored.raw_data) or 4 * len(stored.int32_data) >= weight.size * bits // 8
    assert model.opset_import[0].version == opset


def test_scales_stand_on_the_output_channels_axis() -> None:
    graph = every_node(seed=1)
    model = onnx_model(graph).model
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    transposed, plain = nodes_of(model, "ConvTranspose"), nodes_of(model, "Conv")
    assert (len(transposed), len(plain)) == (1, 3)
    by_output = {node.output[0]: node for node in nodes_of(model, "DequantizeLinear")}
    for node, axis in [(transposed[0], 1), *((node, 0) for node in plain)]:
        weight = by_output[node.input[1]]
        assert next(each.i for each in weight.attribute if each.name == "axis") == axis
        assert shapes[weight.input[0]][axis] == shapes[weight.input[1]][0]


def test_quant_nodes_state_the_learned_widths() -> None:
    graph = every_node(seed=5)
    shape = (16, 16)
    for widths in ("channel", "layer"):
        model = qonnx_model(graph, *shape, widths).model  # pyright: ignore
        values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        quants = nodes_of(model, "Quant")
        assert all(values[node.input[1]] == 1 for node in quants), "integers: scale 1"
        for node in graph.weight_nodes():
            own = [quant for quant in quants if quant.output[0].startswith(f"{node.name}/weight")]
            found = sorted(float(values[quant.input[3]]) for quant in own)
            learned = sorted(set(node.weight_bit_width.tolist()))
            assert found == (learned if widths == "channel" else [max(2, *learned)])
            codes = np.concatenate([values[quant.input[0]].ravel() for quant in own])
            assert sorted(codes.tolist()) == sorted(node.weight.ravel().tolist())


def test_a_difference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = every_node()
    other = every_node(seed=1)
    monkeypatch.setattr(onnx_verify, "onnx_model", lambda _, opset, trace=False: onnx_model(other, opset, trace))
    proof = verify_onnx(graph, images(graph, 3))
    assert proof.differing > 0
    assert proof.first_difference == "enc.a"


def test_metadata_say_how_an_image_becomes_codes() -> None:
    graph = every_node()
    for model in (onnx_model(graph).model, qonnx_model(graph, 16, 16).model):
        found = {each.key: each.value for each in model.metadata_props}
        assert float(found["input_scale"]) == graph.input.scale
        assert IntFormat.parse(found["input_format"]) == graph.input.output
        assert "classes" in found["quantunet"]
