"""BNN: signs, the masked gradient, and codes -1, 0, 1."""

from __future__ import annotations

import pytest
import torch
from quantizer_networks import build_network, count_codes, frozen_after_training

from quantunet.lower import lower
from quantunet.nn.prepare import weight_quantizers
from quantunet.quant.binary import BinaryActivation, BinaryWeight

GRID = (-2.0, -1.0, -0.3, 0.0, 0.3, 1.0, 1.01)


def test_signs_and_masked_gradient() -> None:
    x = torch.tensor(GRID, requires_grad=True)
    y = BinaryActivation()(x)
    assert y.tolist() == [-1, -1, -1, 0, 1, 1, 1]
    (y * torch.arange(1.0, 8.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_by_filter_are_signs_times_the_power_of_two_nearest_to_their_mean(axis: int) -> None:
    torch.manual_seed(1)
    weight = (torch.randn(4, 4, 3, 3) * torch.tensor([0.01, 0.2, 1.0, 5.0]).view(4, 1, 1, 1)).transpose(0, axis)
    quantizer = BinaryWeight(4, axis)
    y = quantizer(weight)
    mean = weight.abs().transpose(0, axis).flatten(1).mean(1)
    assert torch.equal(quantizer.scale, torch.exp2(torch.round(torch.log2(mean))))
    assert torch.equal(y, quantizer.codes(weight) * quantizer.along_channels(quantizer.scale))
    assert torch.equal(quantizer.codes(weight), weight.sign())
    assert torch.equal(BinaryWeight(4, axis, by_filter=False)(weight), weight.sign())


def test_a_kept_batch_norm_needs_no_scale_by_filter() -> None:
    for order, by_filter in (("conv_bn_relu", True), ("conv_relu_bn", False)):
        network = build_network({"name": "binary"}, order=order)
        assert {q.by_filter for q in weight_quantizers(network).values()} == {by_filter}  # pyright: ignore


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed"])
@pytest.mark.parametrize("classes", [2, 4])
def test_lowers_code_for_code(upsampling: str, classes: int) -> None:
    network = frozen_after_training({"name": "binary"}, upsampling=upsampling, classes=classes)
    graph = lower(network)
    assert {2} == {int(bits) for node in graph.weight_nodes() for bits in node.weight_bit_width}
    assert all(set(node.weight.flatten().tolist()) <= {-1, 0, 1} for node in graph.weight_nodes())
    assert count_codes(network).differing == 0
