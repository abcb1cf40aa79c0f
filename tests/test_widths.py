"""Average widths and packed bytes, against hand-made numbers and against the real file."""

from __future__ import annotations

import pytest
import torch

from quantunet.ir.packed_file import encode_model
from quantunet.losses import mean_bit_width
from quantunet.lower import lower
from quantunet.nn import widths
from quantunet.nn.batch_norm import fold_batch_norm_
from quantunet.nn.layers import conv_layers
from quantunet.nn.prepare import (
    activation_quantizers,
    assign_quantizers_,
    calibrate_,
    freeze_bit_widths_,
    weight_quantizers,
)
from quantunet.nn.unet import UNet
from quantunet.quant.quantizers import LearnedPowerOfTwo
from quantunet.train.budget import rounding_shift


def network(channel_widths: bool = True) -> UNet:
    torch.manual_seed(0)
    net = UNet(1, 1, 2, 2).eval()
    fold_batch_norm_(net)
    assign_quantizers_(
        net,
        lambda channels, axis: LearnedPowerOfTwo(channels, axis, True, group_size=1 if channel_widths else None),
        lambda signed: LearnedPowerOfTwo(None, 1, signed),
    )
    calibrate_(net, [torch.randn(1, 1, 16, 16)])
    for index, quantizer in enumerate(weight_quantizers(net).values()):
        values = torch.arange(quantizer.width.numel()).view(quantizer.width.shape)
        quantizer.width.data = (1 + (values + index) % 8).float() + 0.3
    return net


LAYERS = (  # by hand: out, in, kernel, MACs at 16x16 (the encoder's second block and none else works on 8x8)
    ("encoders.0.conv1", 2, 1, 9, 16 * 16),
    ("encoders.0.conv2", 2, 2, 9, 16 * 16),
    ("encoders.1.conv1", 4, 2, 9, 8 * 8),
    ("encoders.1.conv2", 4, 4, 9, 8 * 8),
    ("decoders.0.conv1", 2, 6, 9, 16 * 16),
    ("decoders.0.conv2", 2, 2, 9, 16 * 16),
    ("head", 1, 2, 1, 16 * 16),
)


@pytest.mark.parametrize("channel_widths", [True, False])
def test_averages_by_hand(channel_widths: bool) -> None:
    net = network(channel_widths)
    assert list(conv_layers(net)) == [row[0] for row in LAYERS]
    weights = total = bits = packed = 0.0
    by_weighting = {"parameters": [0.0, 0.0], "macs": [0.0, 0.0], "layers": [0.0, 0.0]}
    for index, (_, out, fan_in, kernel, pixels) in enumerate(LAYERS):
        codes = [1 + (channel * channel_widths + index) % 8 for channel in range(out)]
        weights = out * fan_in * kernel
        total, bits = total + weights, bits + weights * sum(codes) / out
        packed += sum(-(-width * fan_in * kernel // 8) for width in codes)
        soft = sum(codes) / out + 0.3
        for name, share in (("parameters", weights), ("macs", weights * pixels), ("layers", 1)):
            by_weighting[name][0] += soft * share
            by_weighting[name][1] += share
    assert widths.weight_bits(net) == pytest.approx(bits / total)
    assert widths.packed_weight_bytes(net) == packed
    for name, (top, bottom) in by_weighting.items():
        mean = mean_bit_width(*widths.trainable_widths(net, name))  # pyright: ignore[reportArgumentType]
        assert float(mean.detach()) == pytest.approx(top / bottom)
    mean.backward()  # by layer, the last one: each layer's channels share one seventh
    for quantizer in weight_quantizers(net).values():
        assert float(quantizer.width.grad.sum()) == pytest.approx(1 / 7)


def test_packed_bytes_plus_a_constant_are_the_file() -> None:
    net = network()
    for quantizer in weight_quantizers(net).values():
        quantizer.width.data.fill_(3.0)
    overhead = len(encode_model(lower(net))) - widths.packed_weight_bytes(net)
    for quantizer in weight_quantizers(net).values():  # as far as freezing moves a width from where it is
        quantizer.width.data.fill_(2.0)
    assert len(encode_model(lower(net))) - widths.packed_weight_bytes(net) == pytest.approx(overhead, abs=24)
    frozen = widths.packed_weight_bytes(net, lambda quantizer: quantizer.frozen_bit_width(2.0))
    assert frozen == sum(out * -(-4 * fan_in * kernel // 8) for _, out, fan_in, kernel, _ in LAYERS)


def test_activation_widths_count_each_tensor_once() -> None:
    net = network()
    quantizers = list(activation_quantizers(net).values())
    for index, quantizer in enumerate(quantizers):
        quantizer.width.data.fill_(1.0 + index % 8)
    assert widths.activation_bits(net) == pytest.approx(
        sum(1 + i % 8 for i in range(len(quantizers))) / len(quantizers)
    )
    assert len(widths.trainable_activation_widths(net)) == len(quantizers) == 6


def test_table_by_layer() -> None:
    table = widths.widths_by_layer(network())
    assert table["encoders.0.conv2"] == [2.5, 8.0]  # channels of 2 and 3 bits
    assert table["head"][1] == 0.0, "logits have no width"


def test_projection_reaches_every_quantizer() -> None:
    net = network()
    for quantizer in (*weight_quantizers(net).values(), *activation_quantizers(net).values()):
        quantizer.width.data.fill_(11.0)
    widths.project_(net)
    assert widths.weight_bits(net) == 8
    assert widths.activation_bits(net) == 8


@pytest.mark.parametrize("target", [3.1, 3.5, 3.97])
def test_widths_that_learned_alike_are_told_apart_by_the_budget(target: float) -> None:
    net = network()
    for quantizer in weight_quantizers(net).values():
        quantizer.width.data.fill_(3.4)
    shift = rounding_shift(lambda s: widths.weight_bits(net, lambda q: q.frozen_bit_width(s)), target)
    shifts = widths.shifts_within(net, shift, lambda of: widths.weight_bits(net, of) <= target)
    reached = widths.weight_bits(net, lambda q: q.frozen_bit_width(shifts[q]))
    assert widths.weight_bits(net, lambda q: q.frozen_bit_width(shift)) == 3.0, "one shift for all is too coarse"
    weights = sum(layer.conv.weight.numel() for layer in conv_layers(net).values())
    assert target - 54 / weights < reached <= target, "the largest channel has 54 weights"
    freeze_bit_widths_(net, shifts)
    assert widths.weight_bits(net) == reached


def test_widths_by_layer_are_told_apart_too() -> None:
    net = network(channel_widths=False)
    for quantizer in weight_quantizers(net).values():
        quantizer.width.data.fill_(3.4)
    shift = rounding_shift(lambda s: widths.weight_bits(net, lambda q: q.frozen_bit_width(s)), 3.5)
    shifts = widths.shifts_within(net, shift, lambda of: widths.weight_bits(net, of) <= 3.5)
    freeze_bit_widths_(net, shifts)
    assert 3.0 < widths.weight_bits(net) <= 3.5
    assert all(len(set(q.bit_width.tolist())) == 1 for q in weight_quantizers(net).values())
