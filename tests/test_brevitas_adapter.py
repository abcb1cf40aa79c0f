"""The Brevitas quantizer equals Brevitas' own, trains its width, and lowers to multiplier and shift."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

with warnings.catch_warnings():  # brevitas imports a deprecated pkg_resources and declares old autograd functions
    warnings.simplefilter("ignore")
    import brevitas.nn as qnn
    from brevitas.inject.enum import BitWidthImplType
    from brevitas.quant import Int8WeightPerTensorFloat

from quantunet.fake_quant_proof import compare_codes
from quantunet.lower import lower
from quantunet.nn.layers import conv_layers
from quantunet.nn.prepare import all_quantizers, assign_quantizers_, calibrate_, freeze_bit_widths_
from quantunet.nn.unet import UNet
from quantunet.quant.brevitas_adapter import BrevitasQuantizer


class Published(Int8WeightPerTensorFloat):
    """The weight quantizer of QuantU-Net."""

    bit_width_impl_type = BitWidthImplType.PARAMETER


def published_conv(bit_width: float) -> qnn.QuantConv2d:
    torch.manual_seed(3)
    conv = qnn.QuantConv2d(3, 5, 3, weight_quant=Published, bias=False)
    offset = conv.weight_quant.tensor_quant.msb_clamp_bit_width_impl.bit_width_offset
    offset.data.fill_(bit_width - 2)
    return conv


@pytest.mark.parametrize("bit_width", [2.0, 2.6, 3.4, 5.0, 7.5, 8.0])
def test_equals_brevitas_own_weight_quantizer(bit_width: float) -> None:
    conv = published_conv(bit_width)
    ours = BrevitasQuantizer(5, 0, True)
    ours.width_parameters()[0].data.fill_(bit_width - 2)
    theirs = conv.quant_weight()
    y = ours(conv.weight)
    assert torch.equal(y, theirs.value)
    assert torch.equal(ours.scale, theirs.scale.detach())
    assert torch.equal(ours.bit_width, theirs.bit_width.detach())
    assert torch.equal(ours.codes(conv.weight), theirs.int().to(y.dtype))
    grad = torch.randn(y.shape)
    y.backward(grad)
    found = conv.weight.grad.clone(), ours.width_parameters()[0].grad.clone()
    conv.weight.grad = None
    conv.quant_weight().value.backward(grad)
    offset = conv.weight_quant.tensor_quant.msb_clamp_bit_width_impl.bit_width_offset
    assert torch.equal(found[0], conv.weight.grad)
    assert torch.equal(found[1], offset.grad)
    assert float(offset.grad.abs()) > 0


def test_widths_stay_within_bounds_and_freeze() -> None:
    quantizer = BrevitasQuantizer(4, 0, True, min_bit_width=3, max_bit_width=6)
    (offset,) = quantizer.width_parameters()
    for raw, projected in ((-0.2, 3.0), (0.1, 3.0), (-2.0, 4.0), (9.0, 6.0)):  # brevitas' width is 2 + |offset|
        offset.data.fill_(raw)
        quantizer.project_()
        assert float(quantizer.soft_bit_width.detach()) == pytest.approx(projected)
    offset.data.fill_(2.7)
    assert float(quantizer.frozen_bit_width(0.5)) == 5
    assert float(quantizer.frozen_bit_width(-8)) == 3
    w = torch.randn(4, 3, 3, 3)
    quantizer.freeze_bit_width_(0.0)
    assert quantizer.width_parameters() == []
    quantizer(w)
    assert float(quantizer.bit_width) == 4
    assert quantizer.codes(w).abs().max() == 7, "narrow range, as Brevitas' weights"
    assert float(quantizer.frozen_bit_width(-8)) in (3.0, 4.0)


def test_activations_train_their_threshold() -> None:
    quantizer = BrevitasQuantizer(None, 1, False)
    x = torch.rand(2, 3, 8, 8) * 6 - 1
    quantizer.calibrate(x)
    assert float(quantizer.scale) == pytest.approx(float(x.abs().max()) / 255, rel=0.01)
    y = quantizer(x)
    assert float(y.detach().min()) == 0.0, "unsigned: takes the place of the ReLU"
    assert len(quantizer.codes(x).unique()) > 50
    (y * torch.randn(y.shape)).sum().backward()
    for parameter in (*quantizer.scale_parameters(), *quantizer.width_parameters()):
        assert float(parameter.grad.abs()) > 0


def brevitas_unet(seed: int) -> tuple[UNet, torch.Tensor]:
    torch.manual_seed(seed)
    network = UNet(1, 1 + seed % 3, 4, 3, ("nearest", "bilinear", "transposed")[seed % 3])
    for layer in conv_layers(network).values():
        layer.norm = None
        layer.conv.bias = nn.Parameter(torch.randn(layer.conv.out_channels) * 0.1)
    assign_quantizers_(
        network,
        lambda channels, axis: BrevitasQuantizer(channels, axis, True),
        lambda signed: BrevitasQuantizer(None, 1, signed),
    )
    images = torch.randn(2, 1, 32, 32)
    calibrate_(network, [images])
    for quantizer in all_quantizers(network):
        quantizer.width_parameters()[0].data.fill_(float(torch.rand(()) * 5 + 1))
    freeze_bit_widths_(network)
    network.eval()(images)
    return network, images


def test_lowers_to_multiplier_and_shift_with_few_differing_codes(capsys: pytest.CaptureFixture[str]) -> None:
    compared = differing = 0
    for seed in range(6):
        network, images = brevitas_unet(seed)
        graph = lower(network)
        stages = [node.requantize for node in graph.weight_nodes() if node.requantize is not None]
        assert any(not stage.is_shift_only for stage in stages)
        count = compare_codes(network, graph, list(images.numpy()))
        compared, differing = compared + count.compared, differing + count.differing
    with capsys.disabled():
        print(f"\nbrevitas lowered: {compared} codes compared, {differing} differ")
    # ratios are rounded to 31 bits, biases to the accumulator's step in another float order: a tie may fall otherwise
    assert differing <= compared * 1e-3
    assert compared > 300_000
