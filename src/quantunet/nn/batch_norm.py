"""Folding of batch norm into the convolution before it, ahead of quantization: later it destroys low-bit weights."""

from __future__ import annotations

import torch
from torch import nn

from quantunet.nn.layers import ConvLayer, conv_layers


@torch.no_grad()
def fold_batch_norm_(network: nn.Module) -> None:
    """Replace each ``conv, norm`` by one convolution with a bias, equal in evaluation mode up to float rounding.

    ``w' = w * gamma / sqrt(var + eps)`` and ``b' = beta + (b - mean) * gamma / sqrt(var + eps)``, by output channel.
    A norm after the ReLU is left where it is.
    """
    for layer in conv_layers(network).values():
        _fold(layer)


def _fold(layer: ConvLayer) -> None:
    norm, conv = layer.norm, layer.conv
    if norm is None or layer.norm_after_relu:
        return
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = torch.zeros_like(gain) if conv.bias is None else conv.bias
    shape = [1, 1, 1, 1]
    shape[layer.out_channel_axis] = -1
    conv.weight.mul_(gain.view(shape))
    conv.bias = nn.Parameter(norm.bias + (bias - norm.running_mean) * gain)
    layer.norm = None
