"""Folding batch norm leaves the function as it was."""

from __future__ import annotations

import pytest
import torch

from quantunet.nn.batch_norm import fold_batch_norm_
from quantunet.nn.layers import conv_layers
from quantunet.nn.unet import UNet


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed"])
def test_folded_network_computes_the_same(upsampling: str) -> None:
    torch.manual_seed(0)
    network = UNet(2, 3, 3, 3, upsampling)  # pyright: ignore[reportArgumentType]
    for layer in conv_layers(network).values():
        if layer.norm is not None:
            for values, low, high in (
                (layer.norm.weight, -1.5, 1.5),
                (layer.norm.bias, -1, 1),
                (layer.norm.running_mean, -2, 2),
                (layer.norm.running_var, 0.01, 4),
            ):
                values.data.uniform_(low, high)
    network = network.double().eval()
    x = torch.randn(2, 2, 16, 16, dtype=torch.float64)
    expected = network(x)
    fold_batch_norm_(network)
    assert all(layer.norm is None and layer.conv.bias is not None for layer in conv_layers(network).values())
    torch.testing.assert_close(network(x), expected, rtol=1e-11, atol=1e-11)  # products in another order, in float64
    again = [parameter.clone() for parameter in network.parameters()]
    fold_batch_norm_(network)
    assert all(torch.equal(a, b) for a, b in zip(again, network.parameters(), strict=True)), "nothing left to fold"
