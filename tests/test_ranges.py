from dataclasses import replace

import numpy as np
import pytest
from graph_examples import every_node, random_codes, unet

from quantunet.formats import INT32, IntFormat
from quantunet.ir import interpreter, ranges
from quantunet.ir.graph import (
    Conv2d,
    ConvTranspose2d,
    GraphError,
    Input,
    IntegerGraph,
    Requantize,
    Threshold,
    UpsampleBilinear2d,
)

U8 = IntFormat(8, False)


def accumulators(graph: IntegerGraph, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Of every node with weights: its accumulators, before requantization."""
    tensors = interpreter.trace(graph, codes)
    return {
        node.name: interpreter.evaluate(replace(node, requantize=None), [tensors[node.inputs[0]]])
        for node in graph.weight_nodes()
    }


@pytest.mark.parametrize("seed", range(6))
def test_no_accumulator_leaves_its_bounds(seed):
    graph = every_node(seed, by_shift=seed % 2 == 0, binary=seed % 3 == 0)
    bounds = {proof.name: proof for proof in ranges.prove(graph)}
    rng = np.random.default_rng(seed)
    limits = graph.input.output
    extremes = rng.choice([limits.q_min, limits.q_max], (20, 2, 8, 8))
    for codes in (random_codes(rng, limits, (20, 2, 8, 8)), extremes):
        for name, acc in accumulators(graph, codes).items():
            assert bounds[name].low <= acc.min()
            assert acc.max() <= bounds[name].high


def one_conv(weight: np.ndarray, bias: int, requantize: Requantize | None, source: IntFormat = U8) -> IntegerGraph:
    conv = Conv2d(
        "c",
        ("x",),
        weight.astype(np.int32),
        np.full(len(weight), 8, np.int32),
        np.full(len(weight), bias, np.int32),
        requantize,
        padding=weight.shape[2] // 2,
    )
    channels = weight.shape[1]
    return IntegerGraph((Input("x", (), channels, source, 1.0), conv, Threshold("m", ("c",), 0)))


@pytest.mark.parametrize("source", [U8, IntFormat(8, True), IntFormat(3, True, narrow_range=True)])
def test_bounds_are_reached_by_the_worst_image(source):
    weight = np.random.default_rng(0).integers(-128, 128, (1, 3, 3, 3))
    for bias, sign in ((700, 1), (-700, -1)):
        graph = one_conv(weight, bias, None, source)
        worst = np.where(sign * weight > 0, source.q_max, source.q_min)
        acc = interpreter.trace(graph, worst)["c"][0, 0, 1, 1]
        proof = ranges.prove(graph)[0]
        assert acc == (proof.high if sign > 0 else proof.low)


def test_bounds_of_a_transposed_convolution_are_reached_and_no_wider():
    weight = np.random.default_rng(1).integers(-8, 8, (1, 4, 2, 2)).astype(np.int32)
    node = ConvTranspose2d("t", ("x",), weight, np.full(1, 4, np.int32), np.zeros(1, np.int32), None)
    graph = IntegerGraph((Input("x", (), 4, U8, 1.0), node, Threshold("m", ("t",), 0)))
    positions = [(i, j) for i in (0, 1) for j in (0, 1)]
    images = [np.where(weight[:, :, i, j] > 0, 255, 0)[..., None, None] for i, j in positions]
    largest = max(interpreter.trace(graph, image)["t"].max() for image in images)
    assert ranges.prove(graph)[0].high == largest


def test_the_rounding_term_of_a_shift_belongs_to_the_bound():
    weight = np.ones((1, 1, 1, 1))
    shifted = Requantize(np.ones(1, np.int32), np.full(1, 8, np.int32), IntFormat(4, False))
    multiplied = replace(shifted, multiplier=np.full(1, 2**30, np.int32))
    assert ranges.prove(one_conv(weight, 0, None))[0].high == 255
    assert ranges.prove(one_conv(weight, 0, shifted))[0].high == 255 + 128
    assert ranges.prove(one_conv(weight, 0, multiplied))[0].high == 255  # 64-bit products


@pytest.mark.parametrize("bias", [2**31 - 1 - 255, -(2**31)])
def test_int32_may_be_filled_but_not_exceeded(bias):
    fits = one_conv(np.ones((1, 1, 1, 1)), bias, None)
    assert ranges.prove(fits)[0].bit_width == 32
    beyond = one_conv(np.full((1, 1, 1, 1), 2 if bias > 0 else -1), bias, None)
    with pytest.raises(GraphError, match=r"'c': an accumulator could reach .* outside int32"):
        ranges.prove(beyond)


def test_partial_sums_count_even_where_the_whole_sum_fits():
    """2^31 - 1 + 255 - ... : the negative products may come last."""
    weight = np.array([1, -1]).reshape(1, 2, 1, 1)
    conv = one_conv(weight, 2**31 - 1, None)
    with pytest.raises(GraphError, match="outside int32"):
        ranges.prove(conv)


def test_bounds_pass_through_the_saturation_of_the_layer_before():
    graph = every_node(0)
    wider = {proof.name: proof for proof in ranges.prove(graph)}
    first = graph.weight_nodes()[0]
    assert first.requantize is not None
    narrow = replace(first, requantize=replace(first.requantize, output=IntFormat(1, False)))
    nodes = tuple(narrow if node is first else node for node in graph.nodes)
    narrower = {proof.name: proof for proof in ranges.prove(IntegerGraph(nodes))}
    assert narrower["enc.b"].high < wider["enc.b"].high


def test_bilinear_sums_are_proven():
    stage = Requantize(np.ones(1, np.int32), np.full(1, 4, np.int32), U8)
    graph = IntegerGraph(
        (Input("x", (), 1, U8, 1.0), UpsampleBilinear2d("b", ("x",), stage), Threshold("m", ("b",), 0))
    )
    assert [(proof.low, proof.high) for proof in ranges.prove(graph)] == [(0, 16 * 255 + 8)]


@pytest.mark.parametrize(
    ("low", "high", "bit_width"),
    [(0, 0, 1), (-1, 0, 1), (0, 1, 2), (-2, 1, 2), (-3, 0, 3), (-256, -256, 9), (INT32.q_min, INT32.q_max, 32)],
)
def test_width_of_an_accumulator(low, high, bit_width):
    assert ranges.AccumulatorProof("a", low, high).bit_width == bit_width


def test_a_u_net_is_proven_far_below_int32():
    proofs = ranges.prove(unet())
    assert len(proofs) == 15
    assert max(proof.bit_width for proof in proofs) <= 24
