"""Layers: shapes, what they count, and that a quantized layer computes what a hand-made formula says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from quantunet.nn.layers import (
    Activation,
    Concat,
    ConvLayer,
    InputLayer,
    MaxPool,
    UpsampleBilinear,
    UpsampleNearest,
    conv_layers,
)
from quantunet.quant.quantizers import LearnedPowerOfTwo


def test_float_layer_is_convolution_norm_relu() -> None:
    layer = ConvLayer(2, 3).eval()
    x = torch.randn(2, 2, 6, 8)
    y = layer(Activation(x))
    assert torch.equal(y.values, F.relu(layer.norm(layer.conv(x))))
    assert y.scale is None


@pytest.mark.parametrize(
    ("options", "size", "macs"),
    [
        ({}, (6, 8), 2 * 3 * 9 * 48),
        ({"kernel": 1}, (6, 8), 2 * 3 * 48),
        ({"stride": 2}, (3, 4), 2 * 3 * 9 * 12),
        ({"transposed": True}, (12, 16), 2 * 3 * 4 * 48),
    ],
)
def test_sizes_and_multiply_accumulates(options: dict, size: tuple[int, int], macs: int) -> None:
    layer = ConvLayer(2, 3, **options)
    y = layer(Activation(torch.randn(5, 2, 6, 8))).values
    assert y.shape == (5, 3, *size)
    assert layer.macs == macs, "by image, whatever the batch"


def test_pool_upsample_and_concat_keep_the_scale() -> None:
    x = Activation(torch.arange(16.0).view(1, 1, 4, 4), torch.tensor(0.5))
    pooled, doubled = MaxPool()(x), UpsampleNearest()(x)
    assert pooled.values.flatten().tolist() == [5, 7, 13, 15]
    assert doubled.values[0, 0, :2, :4].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    assert pooled.scale is doubled.scale is x.scale
    joined = Concat()(x, x)
    assert joined.values.shape == (1, 2, 4, 4)
    assert joined.scale is x.scale


def test_bilinear_upsampling_is_quantized_in_sixteenths() -> None:
    layer = UpsampleBilinear()
    x = Activation(torch.tensor([[[[0.0, 16.0], [32.0, 48.0]]]]), torch.tensor(1.0))
    assert layer(x).values[0, 0, 0].tolist() == [0, 4, 12, 16]
    layer.activation_quantizer = LearnedPowerOfTwo(None, 1, False)
    layer.activation_quantizer.set_exponent_(3)
    y = layer(x)
    assert y.values[0, 0, 0].tolist() == [0, 8, 16, 16], "4 / 8 and 12 / 8 are ties: half up"
    assert float(y.scale) == 8


def test_quantized_layer_by_hand() -> None:
    layer = ConvLayer(1, 2, kernel=1, norm=False)
    layer.conv.weight.data = torch.tensor([0.6, -1.0]).view(2, 1, 1, 1)
    layer.conv.bias.data = torch.tensor([0.13, 5.0])
    layer.weight_quantizer = LearnedPowerOfTwo(2, 0, True, bit_width=3)
    layer.weight_quantizer.set_exponent_(torch.tensor([-2.0, -1.0]))  # codes 2 of 1/4, -2 of 1/2
    layer.activation_quantizer = LearnedPowerOfTwo(None, 1, False, bit_width=2)
    layer.activation_quantizer.set_exponent_(0.0)
    x = Activation(torch.tensor([0.0, 1.0, 2.0, 6.0]).view(1, 1, 2, 2), torch.tensor(0.5))
    y = layer(x)
    # bias steps: 1/8 and 1/4, so 0.125 and 5; 0.5 x + 0.125 = 0.125 0.625 1.125 3.125; 5 - x = 5 4 3 -1; codes 0 to 3
    assert y.values.flatten().tolist() == [0, 1, 1, 3, 3, 3, 3, 0]
    assert float(y.scale) == 1


def test_a_bias_beyond_its_format_is_clamped_there_and_nowhere_else() -> None:
    layer = ConvLayer(1, 1, kernel=1, norm=False, relu=False)
    layer.weight_quantizer = LearnedPowerOfTwo(1, 0, True)
    layer.weight_quantizer.set_exponent_(0.0)
    layer.conv.bias.data.fill_(1e9)
    layer.conv.weight.data.zero_()
    y = layer(Activation(torch.zeros(1, 1, 2, 2), torch.tensor(1.0)))
    assert y.values.unique().tolist() == [2.0**24 - 1]


def test_gradients_reach_weight_bias_and_ranges() -> None:
    layer = ConvLayer(2, 3, norm=False)
    layer.weight_quantizer = LearnedPowerOfTwo(3, 0, True, bit_width=2)
    layer.weight_quantizer.set_exponent_(-4)
    layer.activation_quantizer = LearnedPowerOfTwo(None, 1, False, bit_width=2)
    layer.activation_quantizer.set_exponent_(-3)
    y = layer(Activation(torch.randn(1, 2, 8, 8), torch.tensor(1.0))).values
    (y * torch.randn(y.shape)).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_input_layer_passes_float_images_and_quantizes_them_when_asked() -> None:
    layer, x = InputLayer(1), torch.tensor([[[[-9.0, 0.3]]]])
    assert layer(x).values is x
    layer.activation_quantizer = LearnedPowerOfTwo(None, 1, True, bit_width=3)
    layer.activation_quantizer.set_exponent_(-1)
    assert layer(x).values.flatten().tolist() == [-2.0, 0.5]


def test_conv_layers_are_listed_in_order() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = ConvLayer(1, 1), ConvLayer(1, 1)

    assert list(conv_layers(Two())) == ["a", "b"]
