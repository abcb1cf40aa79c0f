"""Assigning, calibrating and freezing quantizers."""

from __future__ import annotations

import pytest
import torch

from quantunet.formats import BIAS
from quantunet.nn.batch_norm import fold_batch_norm_
from quantunet.nn.layers import UpsampleBilinear, conv_layers
from quantunet.nn.prepare import (
    LARGEST_BIAS_CODE,
    activation_quantizers,
    all_quantizers,
    assign_quantizers_,
    calibrate_,
    freeze_bit_widths_,
    observe_float_activations,
    weight_quantizers,
)
from quantunet.nn.unet import UNet
from quantunet.quant.quantizers import LearnedPowerOfTwo

UPSAMPLINGS = ("nearest", "bilinear", "transposed")


def quantized(upsampling: str = "nearest", classes: int = 1) -> UNet:
    torch.manual_seed(1)
    network = UNet(1, classes, 3, 3, upsampling).eval()  # pyright: ignore[reportArgumentType]
    fold_batch_norm_(network)
    assign_quantizers_(
        network, lambda channels, axis: LearnedPowerOfTwo(channels, axis, True), lambda s: LearnedPowerOfTwo(None, 1, s)
    )
    return network


def test_a_network_with_batch_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encoders\.0\.conv1 still has batch norm: fold it"):
        assign_quantizers_(UNet(1, 1, 2, 2), lambda c, axis: LearnedPowerOfTwo(c, axis, True), lambda s: None)  # pyright: ignore


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_every_layer_is_quantized_first_and_last_included(upsampling: str) -> None:
    network = quantized(upsampling)
    layers = conv_layers(network)
    assert list(weight_quantizers(network)) == list(layers)
    assert network.head.activation_quantizer is None, "logits stay accumulators"
    for layer in layers.values():
        assert layer.weight_quantizer.signed
        assert layer.weight_quantizer.channel_axis == layer.out_channel_axis
        if layer is not network.head:
            assert not layer.activation_quantizer.signed
    assert network.input.activation_quantizer.signed
    # 11 convolutions less the head, up-convolutions, the image, less one for each of the two shared pairs
    tensors = {"nearest": 10 + 1 - 2, "bilinear": 10 + 2 + 1 - 2, "transposed": 12 + 1 - 2}[upsampling]
    assert len(activation_quantizers(network)) == tensors
    assert len(all_quantizers(network)) == tensors + len(layers)
    if upsampling == "bilinear":
        assert all(m.activation_quantizer is not None for m in network.modules() if isinstance(m, UpsampleBilinear))


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_calibration_covers_what_the_float_network_computes(upsampling: str) -> None:
    network, x = quantized(upsampling), torch.randn(4, 1, 16, 16)
    observed = observe_float_activations(network, [x])
    assert all(layer.weight_quantizer is not None for layer in conv_layers(network).values()), "put back"
    calibrate_(network, [x])
    for name, quantizer in activation_quantizers(network).items():
        top = float(torch.quantile(observed[name].abs(), 0.999))
        levels = 2.0 ** (8 - int(quantizer.signed))
        assert float(quantizer.scale) * levels >= top * 0.99, name
    torch.manual_seed(1)
    float_network = UNet(1, 1, 3, 3, upsampling).eval()  # pyright: ignore[reportArgumentType]
    expected = float_network(x).detach()
    difference = (network(x).detach() - expected).abs().max() / expected.abs().max()
    assert float(difference) < 0.1, "8 bits are close to float"


def test_biases_beside_tiny_weights_fit_their_codes() -> None:
    network, x = quantized(), torch.randn(1, 1, 16, 16)
    layer = network.encoders[0].conv2
    layer.conv.weight.data[0] *= 1e-9
    layer.conv.bias.data[0] = 3.0
    calibrate_(network, [x])
    step = network.encoders[0].conv1.activation_quantizer.scale * layer.weight_quantizer.scale
    codes = layer.conv.bias.detach() / step
    assert float(codes.abs().max()) <= LARGEST_BIAS_CODE < BIAS.q_max
    assert float(codes[0].abs()) > LARGEST_BIAS_CODE / 4, "and no coarser than that asks for"


def test_freezing_rounds_activations_and_shifts_weights() -> None:
    network = quantized()
    for quantizer in all_quantizers(network):
        quantizer.width.data.fill_(4.6)
    freeze_bit_widths_(network, 0.3)
    assert {float(b) for q in weight_quantizers(network).values() for b in q.bit_width} == {4.0}
    assert {float(q.bit_width) for q in activation_quantizers(network).values()} == {5.0}
    assert not any(q.width_parameters() for q in all_quantizers(network))
