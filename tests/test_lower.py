"""Lowering: structure, refusals, logits of different scale. Equality of codes is in exact/."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_networks import random_network
from torch import nn

from quantunet.fake_quant_proof import compare_codes
from quantunet.formats import IntFormat
from quantunet.ir import interpreter
from quantunet.ir.graph import ArgMax, Concat, Conv2d, ConvTranspose2d, GraphError, Threshold
from quantunet.lower import LoweringError, lower
from quantunet.nn.batch_norm import fold_batch_norm_
from quantunet.nn.layers import conv_layers
from quantunet.nn.prepare import assign_quantizers_, calibrate_
from quantunet.nn.unet import UNet
from quantunet.quant.quantizers import LearnedPowerOfTwo


def quantized(classes: int = 1, upsampling: str = "transposed") -> UNet:
    torch.manual_seed(2)
    network = UNet(1, classes, 2, 3, upsampling).eval()  # pyright: ignore[reportArgumentType]
    fold_batch_norm_(network)
    assign_quantizers_(
        network, lambda channels, axis: LearnedPowerOfTwo(channels, axis, True), lambda s: LearnedPowerOfTwo(None, 1, s)
    )
    calibrate_(network, [torch.randn(2, 1, 16, 16)])
    return network


def test_nodes_carry_the_names_of_the_layers() -> None:
    network = quantized()
    graph = lower(network, {"class_names": ["a", "b"]})
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names)
    assert [node.name for node in graph.weight_nodes()] == [
        "encoders.0.conv1", "encoders.0.conv2", "encoders.1.conv1", "encoders.1.conv2", "encoders.2.conv1",
        "encoders.2.conv2", "ups.1", "decoders.1.conv1", "decoders.1.conv2", "ups.0", "decoders.0.conv1",
        "decoders.0.conv2", "head",
    ]  # fmt: skip
    assert {"pool", "pool.1", "concat", "concat.1"} <= set(names)
    assert graph.metadata == {"class_names": ["a", "b"]}
    assert isinstance(graph.output, Threshold)
    assert graph.size_multiple() == network.size_multiple
    assert graph.input.output == IntFormat(8, True)


def test_power_of_two_scales_need_no_multiplier() -> None:
    for node in lower(quantized(3)).weight_nodes():
        assert node.requantize is None or node.requantize.is_shift_only


def test_the_network_is_left_as_it_was() -> None:
    network = quantized()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lower(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert next(network.parameters()).dtype == torch.float32


def test_transposed_weights_have_the_output_channel_first() -> None:
    network = quantized()
    graph = lower(network)
    node = graph.node("ups.1")
    assert isinstance(node, ConvTranspose2d)
    assert node.weight.shape == (4, 8, 2, 2)
    layer = network.ups[1]
    codes = layer.weight_quantizer.codes(layer.conv.weight).detach().numpy()  # (in, out, 2, 2)
    assert np.array_equal(node.weight, codes.transpose(1, 0, 2, 3).astype(int))


def test_classes_of_different_scale_are_compared_on_the_finest() -> None:
    network = quantized(3)
    network.head.weight_quantizer.set_exponent_(torch.tensor([-9.0, -4.0, -6.0]))
    graph = lower(network)
    head = graph.node("head")
    assert isinstance(head, Conv2d)
    assert head.requantize is not None
    assert head.requantize.shift.tolist() == [0, -5, -3]
    assert isinstance(graph.output, ArgMax)
    assert compare_codes(network, graph, [np.random.default_rng(0).normal(0, 2, (1, 16, 16)).astype(np.float32)]) \
        .differing == 0  # fmt: skip


def test_logits_that_do_not_fit_int32_together_are_refused() -> None:
    network = quantized(3)
    network.head.weight_quantizer.set_exponent_(torch.tensor([-30.0, 4.0, 0.0]))
    with pytest.raises((LoweringError, GraphError), match=r"head.*int32"):
        lower(network)


def test_what_has_no_integer_form_is_named() -> None:
    network = quantized()
    network.decoders[0].conv1.weight_quantizer = None
    with pytest.raises(LoweringError, match=r"decoders\.0\.conv1 is not quantized"):
        lower(network)
    network = quantized()
    network.encoders[0].conv2.activation_quantizer = LearnedPowerOfTwo(None, 1, False)
    network.encoders[0].conv2.activation_quantizer.set_exponent_(-11)
    with pytest.raises(LoweringError, match=r"concat.* joins tensors of different scale"):
        lower(network)
    with pytest.raises(LoweringError, match="input is not quantized"):
        lower(UNet(1, 1, 2, 2))


def test_the_proof_finds_what_differs() -> None:
    network, images = random_network(3)
    graph = lower(network)
    assert compare_codes(network, graph, images).differing == 0
    layer = next(iter(conv_layers(network).values()))
    with torch.no_grad():
        layer.conv.bias.add_(4 * float(layer.activation_quantizer.scale))
    assert compare_codes(network, graph, images).differing > 0


def test_biases_are_integers_and_clamped() -> None:
    network = quantized()
    network.head.conv.bias = nn.Parameter(torch.tensor([1e6]))
    assert lower(network).node("head").bias.tolist() == [2**24 - 1]


def test_concatenation_order_is_skip_first() -> None:
    graph = lower(quantized())
    node = graph.node("concat.1")
    assert isinstance(node, Concat)
    assert node.inputs == ("encoders.0.conv2", "ups.0")


def test_lowered_mask_equals_the_network_on_the_image() -> None:
    network = quantized().double()
    image = torch.randn(1, 1, 32, 24, dtype=torch.float64) * 3
    graph = lower(network)
    mask = interpreter.run(graph, interpreter.quantize_input(graph, image[0].numpy())[None])
    assert np.array_equal(mask[0], (network(image)[0, 0] > 0).numpy().astype(int))
