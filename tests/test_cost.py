import math

import numpy as np
import pytest
from graph_examples import every_node, unet

from quantunet import cost
from quantunet.formats import IntFormat
from quantunet.ir.graph import Conv2d, GraphError, Input, IntegerGraph, Requantize, Threshold
from quantunet.ir.layer_table import layer_table, totals
from quantunet.ir.packed_file import payload_and_header_bytes, write_model


def test_formulas_by_hand():
    assert cost.conv_macs(16, 8, 3, 3, 10, 20) == 16 * 8 * 9 * 200
    assert cost.conv_transpose_macs(4, 8, 2, 2, 5, 6) == 4 * 8 * 4 * 30
    assert cost.bops(1000, 3, 4) == 12_000
    assert cost.uniq_bops(100, 32, 1, 1) == 100 * (1 + 1 + 1 + 5)
    assert cost.float32_bytes(7) == 28
    assert cost.tensor_bytes(10, 16) == 20


@pytest.mark.parametrize(
    ("count", "bit_width", "expected"), [(0, 3, 0), (1, 1, 1), (8, 1, 1), (9, 1, 2), (9, 3, 4), (8, 5, 5)]
)
def test_packed_bytes(count, bit_width, expected):
    assert cost.packed_bytes(count, bit_width) == expected


def by_hand() -> IntegerGraph:
    """8 x 6 image u8 -> conv 3x3, 2 channels u4 (widths 2 and 5) -> conv 1x1, accumulators (width 3) -> mask."""
    stage = Requantize(np.ones(2, np.int32), np.full(2, 4, np.int32), IntFormat(4, False))
    first = Conv2d(
        "a",
        ("x",),
        np.ones((2, 1, 3, 3), np.int32),
        np.array([2, 5], np.int32),
        np.zeros(2, np.int32),
        stage,
    )
    second = Conv2d(
        "b",
        ("a",),
        np.ones((1, 2, 1, 1), np.int32),
        np.array([3], np.int32),
        np.zeros(1, np.int32),
        None,
        padding=0,
    )
    return IntegerGraph((Input("x", (), 1, IntFormat(8, False), 1.0), first, second, Threshold("m", ("b",), 0)))


def test_a_table_by_hand():
    first, second = layer_table(by_hand(), 8, 6)
    assert (first.op, first.weights, first.parameters, first.macs) == ("conv 3x3", 18, 20, 18 * 48)
    assert (first.weight_bits, first.weight_bits_min, first.weight_bits_max) == (3.5, 2, 5)
    assert (first.activation_bits, first.output_bits) == (8, 4)
    assert first.packed_bytes == 3 + 6  # 9 x 2 bits and 9 x 5 bits, each filled up to a byte
    assert first.bops == 9 * 48 * 2 * 8 + 9 * 48 * 5 * 8
    assert first.acc_bit_width == (9 * 255 + 8).bit_length() + 1
    assert (second.op, second.macs, second.output_bits, second.packed_bytes) == ("conv 1x1", 96, 32, 1)


def test_totals_by_hand():
    graph = by_hand()
    rows = layer_table(graph, 8, 6)
    sums = totals(graph, rows, 8, 6)
    assert (sums.weights, sums.biases, sums.float32_bytes) == (20, 3, 92)
    assert sums.weight_bits_by_layer == (3.5 + 3) / 2
    assert sums.weight_bits_by_parameter == (9 * 2 + 9 * 5 + 2 * 3) / 20
    assert sums.activation_bits == 4.0
    assert sums.packed_weight_bytes == 10
    assert (sums.macs, sums.bops) == (18 * 48 + 96, rows[0].bops + 96 * 3 * 4)
    # b's accumulators take 4 x 48 bytes while a's two channels (8-bit storage, 4 bits packed) are still read
    assert sums.peak_activation_bytes == 4 * 48 + 2 * 48
    assert sums.peak_packed_activation_bytes == 4 * 48 + 48


def test_skip_tensors_live_until_they_are_joined():
    graph = unet(base=4, levels=1)
    sums = totals(graph, layer_table(graph, 16, 16), 16, 16)
    # at the join: up-sampled 8 channels, skipped 4, joined 12, of 16 x 16 bytes each
    assert sums.peak_activation_bytes == (8 + 4 + 12) * 256
    assert sums.peak_packed_activation_bytes == sums.peak_activation_bytes // 2


def test_packed_bytes_of_the_table_are_bytes_of_the_file(tmp_path):
    """What the payload has beyond the weight rows are biases, widths and shifts: a few bytes a channel."""
    graph = unet()
    rows = layer_table(graph, 64, 64)
    write_model(graph, tmp_path / "m")
    payload, _ = payload_and_header_bytes(tmp_path / "m")
    channels = sum(len(node.bias) for node in graph.weight_nodes())
    packed = totals(graph, rows, 64, 64).packed_weight_bytes
    assert packed < payload < packed + 3 * channels


def test_every_node_with_weights_has_a_row():
    graph = every_node()
    rows = layer_table(graph, 8, 8)
    assert [row.name for row in rows] == [node.name for node in graph.weight_nodes()]
    transposed = rows[2]
    assert (transposed.op, transposed.macs) == ("conv_transpose 2x2", 3 * 4 * 4 * 16)
    assert math.isfinite(totals(graph, rows, 8, 8).activation_bits)


def test_a_graph_without_weights_has_no_averages():
    graph = IntegerGraph((Input("x", (), 1, IntFormat(8, False), 1.0), Threshold("m", ("x",), 0)))
    sums = totals(graph, layer_table(graph, 4, 4), 4, 4)
    assert math.isnan(sums.weight_bits_by_layer)
    assert sums.peak_activation_bytes == 32


def test_a_size_that_does_not_fit_is_refused():
    with pytest.raises(GraphError, match="halves"):
        layer_table(every_node(), 7, 8)
