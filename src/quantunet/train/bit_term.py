"""What each kind of budget adds to the loss: a stand-in for its size that has a gradient, about as large as a width."""

from __future__ import annotations

import torch
from torch import Tensor

from quantunet.losses import mean_bit_width
from quantunet.nn import widths
from quantunet.nn.layers import conv_layers
from quantunet.nn.unet import UNet
from quantunet.quant.quantizers import FULL_WIDTH
from quantunet.train.budget import PRODUCT_POWERS, Kind
from quantunet.train.config import BitLossConfig

ACTIVATION_WEIGHT = 0.3
"""The controller may raise the weight of a term a hundredfold to bring weights down. The activations' bits, which no
such budget counts, do not follow further than to this one: at one bit they tell a layer nothing (docs/lab_log.md)."""


def bit_term(kind: Kind, network: UNet, config: BitLossConfig, weight: float) -> Tensor:
    """The term of one budget, 0-dimensional, with the gradient of every width that it is about.

    Args:
        kind: of the budget.
        network: in training.
        config: what is averaged.
        weight: that the term will have in the loss. Where it is steered, and above `ACTIVATION_WEIGHT`, the share of
            the activations falls as it rises.
    """
    if kind in PRODUCT_POWERS:
        return _average_product(network)
    share = config.activation_share
    if config.fixed_weight is None and weight > ACTIVATION_WEIGHT:
        share *= ACTIVATION_WEIGHT / weight
    return _average_width(network, config, share)


def _average_width(network: UNet, config: BitLossConfig, share: float) -> Tensor:
    """Average weight width plus ``share`` of the average activation width, in bits to the stated power."""
    power = config.power
    weights, shares = widths.trainable_widths(network, config.weighting)
    bits = mean_bit_width([width**power for width in weights], shares)
    activations = [width**power for width in widths.trainable_activation_widths(network)]
    if not activations:
        return bits
    equal = [torch.full_like(width, 1 / len(activations)).detach() for width in activations]
    return bits + share * mean_bit_width(activations, equal)


def _average_product(network: UNet) -> Tensor:
    """Weight bits x activation bits / 8, averaged over multiply-accumulates: bit operations."""
    sources = widths.read_quantizers(network)
    weights, shares = widths.trainable_widths(network, "macs")
    quantized = [name for name, layer in conv_layers(network).items() if layer.weight_quantizer is not None]
    products = []
    for name, width in zip(quantized, weights, strict=True):
        source = sources[name]
        products.append(width * (FULL_WIDTH if source is None else source.soft_bit_width) / FULL_WIDTH)
    return mean_bit_width(products, shares)
