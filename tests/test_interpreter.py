from dataclasses import replace

import numpy as np
import pytest
from graph_examples import every_node, random_codes, random_conv, random_conv_transpose, random_requantize
from naive_interpreter import evaluate_naively

from quantunet.formats import IntFormat
from quantunet.ir import graph as ir
from quantunet.ir import interpreter

U4 = IntFormat(4, False)
KINDS_THAT_COMPUTE = 9


@pytest.mark.parametrize("by_shift", [True, False])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_every_node_equals_plain_loops(seed, binary, by_shift):
    graph = every_node(seed, by_shift, binary)
    codes = random_codes(np.random.default_rng(seed), graph.input.output, (2, 2, 8, 12))
    tensors = interpreter.trace(graph, codes)
    for node in graph.nodes[1:]:
        for image in range(len(codes)):
            inputs = [tensors[name][image].tolist() for name in node.inputs]
            assert tensors[node.name][image].tolist() == evaluate_naively(node, inputs), node.name
    assert np.array_equal(interpreter.run(graph, codes), tensors["mask"][:, 0])


def test_the_examples_hold_every_kind_of_node():
    kinds = {type(node) for binary in (True, False) for node in every_node(0, True, binary).nodes}
    assert len(kinds - {ir.Input}) == KINDS_THAT_COMPUTE
    assert kinds == {kind for kind in ir.Node.__subclasses__() if kind.__module__ == ir.__name__}


def test_tensors_keep_their_formats_shapes_and_channels():
    graph = every_node(5, by_shift=False, binary=False)
    tensors = interpreter.trace(graph, random_codes(np.random.default_rng(5), graph.input.output, (1, 2, 16, 8)))
    formats, shapes = graph.formats(), graph.shapes(16, 8)
    for name, tensor in tensors.items():
        assert tensor.shape[1:] == shapes[name]
        assert tensor.min() >= formats[name].q_min
        assert tensor.max() <= formats[name].q_max


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (5, 1, 2), (3, 1, 0), (2, 2, 0)]
)
def test_convolution_has_the_layout_of_torch(kernel, stride, padding):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(kernel)
    node = replace(random_conv(rng, "c", "x", 3, 5, None, kernel, stride), padding=padding)
    x = rng.integers(0, 256, (2, 3, 11, 8))
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x.astype(np.float64)),
        torch.from_numpy(node.weight.astype(np.float64)),
        torch.from_numpy(node.bias.astype(np.float64)),
        stride=stride,
        padding=padding,
    )
    assert np.array_equal(interpreter.evaluate(node, [x]), expected.numpy().astype(np.int64))


def test_transposed_convolution_has_the_layout_of_torch_with_its_first_axes_exchanged():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    node = random_conv_transpose(rng, "t", "x", 3, 5, None)
    x = rng.integers(0, 256, (2, 3, 4, 6))
    expected = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(x.astype(np.float64)),
        torch.from_numpy(node.weight.astype(np.float64).transpose(1, 0, 2, 3).copy()),
        torch.from_numpy(node.bias.astype(np.float64)),
        stride=2,
    )
    assert np.array_equal(interpreter.evaluate(node, [x]), expected.numpy().astype(np.int64))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 6)])
def test_bilinear_is_sixteen_times_torchs(size):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(2).integers(0, 256, (2, 3, *size))
    stage = ir.Requantize(np.ones(3, np.int32), np.zeros(3, np.int32), IntFormat(16, False))
    got = interpreter.evaluate(ir.UpsampleBilinear2d("b", ("x",), stage), [x])
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x.astype(np.float64)), scale_factor=2, mode="bilinear", align_corners=False
    )
    assert np.array_equal(got, (16 * expected.numpy()).astype(np.int64))


def test_nearest_and_pooling_have_the_layout_of_torch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(3).integers(-8, 8, (2, 3, 4, 6))
    real = torch.from_numpy(x.astype(np.float64))
    pooled = torch.nn.functional.max_pool2d(real, 2).numpy()
    doubled = torch.nn.functional.interpolate(real, scale_factor=2, mode="nearest").numpy()
    assert np.array_equal(interpreter.evaluate(ir.MaxPool2d("p", ("x",)), [x]), pooled)
    assert np.array_equal(interpreter.evaluate(ir.UpsampleNearest2d("n", ("x",)), [x]), doubled)


def test_ties_of_the_arg_max_go_to_the_lowest_class_and_the_threshold_is_exclusive():
    x = np.array([[2, 5], [2, 4], [1, 5]])[None, :, None, :]
    assert interpreter.evaluate(ir.ArgMax("a", ("x",)), [x]).tolist() == [[[[0, 0]]]]
    row = np.array([-8, -7, -6])[None, None, None]
    assert interpreter.evaluate(ir.Threshold("t", ("x",), -7), [row]).tolist() == [[[[0, 0, 1]]]]


def test_the_largest_accumulators_are_exact():
    """31 bits in all: 8-bit codes and weights, all at the extremes, in 2^17 products less the rounding."""
    weight = np.full((1, 8192, 2, 2), -128, np.int32)
    conv = ir.Conv2d("c", ("x",), weight, np.full(1, 8, np.int32), np.full(1, -77, np.int32), None, 2, 0)
    x = np.full((1, 8192, 2, 2), 255)
    assert interpreter.evaluate(conv, [x]).tolist() == [[[[-128 * 255 * 32768 - 77]]]]


@pytest.mark.parametrize("channels", [518, 519])  # 518 x 255 x 127 < 2^24 < 519 x 255 x 127, which is odd
def test_sums_on_both_sides_of_what_float32_holds_are_exact(channels):
    weight = np.full((1, channels, 1, 1), 127, np.int32)
    conv = ir.Conv2d("c", ("x",), weight, np.full(1, 8, np.int32), np.zeros(1, np.int32), None, 1, 0)
    assert interpreter.evaluate(conv, [np.full((1, channels, 1, 1), 255)]).item() == channels * 255 * 127


def test_quantized_input_rounds_half_up_and_saturates():
    graph = every_node()
    scale = graph.input.scale
    values = np.array([-1e30, -128.5, -2.5, -0.5, 0.0, 0.49, 0.5, 1.5, 126.5, 1e30]) * scale
    image = np.broadcast_to(values, (2, 1, 10))
    assert interpreter.quantize_input(graph, image)[0, 0].tolist() == [-128, -128, -2, 0, 0, 0, 1, 2, 127, 127]


def test_pixels_that_are_no_numbers_are_refused():
    image = np.zeros((1, 2, 4, 4), np.float32)
    image[0, 0, 0, 0] = np.nan
    with pytest.raises(ir.GraphError, match="not finite"):
        interpreter.quantize_input(every_node(), image)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((1, 3, 4, 4), int), r"do not fit \(n, 2, h, w\)"),
        (np.zeros((2, 4, 4), int), "do not fit"),
        (np.full((1, 2, 4, 4), 128), "outside the format s8"),
    ],
)
def test_codes_that_do_not_fit_the_input_are_refused(codes, message):
    with pytest.raises(ir.GraphError, match=message):
        interpreter.run(every_node(), codes)


def test_requantization_goes_by_channel():
    stage = random_requantize(np.random.default_rng(0), 3, U4, by_shift=True)
    stage = replace(stage, shift=np.array([0, 1, -1], np.int32))
    x = np.full((1, 3, 1, 1), 5)
    assert interpreter.evaluate(ir.Rescale("r", ("x",), stage), [x]).ravel().tolist() == [5, 3, 10]
