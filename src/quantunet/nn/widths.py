"""How many bits a network has now: by layer, by parameter, in bytes; and the trainable averages of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from quantunet.nn.layers import Concat, ConvLayer, InputLayer, MaxPool, UpsampleNearest, conv_layers
from quantunet.nn.prepare import activation_quantizers, all_quantizers, weight_quantizers
from quantunet.nn.trace import layer_steps
from quantunet.nn.unet import UNet
from quantunet.quant.quantizers import Quantizer

Weighting = Literal["parameters", "macs", "layers"]
WidthOf = Callable[[Quantizer], Tensor]
FLOAT_BITS = 32
"""What a number that is not quantized counts."""


def trainable_widths(network: UNet, weighting: Weighting) -> tuple[list[Tensor], list[Tensor]]:
    """Widths of the weights, with gradient, and what each counts: inputs of ``losses.mean_bit_width``.

    The shares are of the network as built: a weight that has been removed counts as one of 0 bits. ``macs`` needs a
    forward pass to have been made.
    """
    widths, shares, whole = [], [], 0.0
    for layer in conv_layers(network).values():
        if layer.weight_quantizer is None:
            continue
        soft = layer.weight_quantizer.soft_bit_width
        built = {"parameters": layer.float_weights, "macs": layer.float_macs, "layers": 1.0}[weighting]
        left = layer.conv.weight.numel() / layer.float_weights
        widths.append(soft)
        shares.append(torch.full_like(soft, built * left / soft.numel()).detach())
        whole += built
    return widths, [share / whole for share in shares]


def trainable_activation_widths(network: UNet) -> list[Tensor]:
    """Widths of the activations, with gradient, each tensor once."""
    return [quantizer.soft_bit_width for quantizer in activation_quantizers(network).values()]


@torch.no_grad()
def weight_bits(network: UNet, width_of: WidthOf = lambda quantizer: quantizer.bit_width) -> float:
    """Average width over all weights as built, in bits; 0 of one that is removed, 32 of one that is left in float."""
    bits = total = 0.0
    read = _read_channels(network, width_of)
    for name, layer in conv_layers(network).items():
        bits += float(_widths(layer, width_of).sum()) * read[name] * _kernel(layer)
        total += layer.float_weights
    return bits / total


@torch.no_grad()
def packed_weight_bytes(network: UNet, width_of: WidthOf = lambda quantizer: quantizer.bit_width) -> int:
    """Bytes of all packed weights: each output channel starts on a byte; float weights take four each."""
    total = 0
    read = _read_channels(network, width_of)
    for name, layer in conv_layers(network).items():
        total += int(torch.ceil(_widths(layer, width_of) * read[name] * _kernel(layer) / 8).sum())
    return total


@torch.no_grad()
def operations(network: UNet, width_of: WidthOf = lambda quantizer: quantizer.bit_width) -> tuple[float, float]:
    """Multiply-accumulates, and those times weight and activation bits (BOPs), by pixel of the image.

    Activation widths are those in use; float operands have 32 bits. A forward pass must have been made.
    """
    macs = bops = 0.0
    read, sources = _read_channels(network, width_of), read_quantizers(network)
    for name, layer in conv_layers(network).items():
        widths, source = _widths(layer, width_of), sources[name]
        by_channel = read[name] * layer.macs / (layer.conv.in_channels * layer.conv.out_channels)
        macs += by_channel * int((widths > 0).sum())
        bops += by_channel * float(widths.sum()) * (FLOAT_BITS if source is None else float(source.bit_width))
    return macs / network.input.pixels, bops / network.input.pixels


def read_quantizers(network: UNet) -> dict[str, Quantizer | None]:
    """The quantizer of what each layer reads, by layer."""
    written: dict[str, Quantizer | None] = {}
    read = {}
    for name, layer, inputs in layer_steps(network):
        if isinstance(layer, ConvLayer):
            read[name] = written[inputs[0]]
        quantizer = getattr(layer, "activation_quantizer", None)
        is_copy = isinstance(layer, MaxPool | UpsampleNearest | Concat)
        written[name] = written[inputs[0]] if is_copy else quantizer
    return read


def _kernel(layer: ConvLayer) -> int:
    return layer.conv.weight.numel() // (layer.conv.in_channels * layer.conv.out_channels)


def _read_channels(network: UNet, width_of: WidthOf) -> dict[str, int]:
    """Number of channels that each layer reads, without those of 0 bits, which will be removed."""
    layers = conv_layers(network)
    if not any(layer.weight_quantizer is not None and layer.weight_quantizer.can_vanish for layer in layers.values()):
        return {name: layer.conv.in_channels for name, layer in layers.items()}
    written: dict[str, int] = {}
    read = {}
    for name, layer, inputs in layer_steps(network):
        if isinstance(layer, ConvLayer):
            read[name] = written[inputs[0]]
            written[name] = int((_widths(layer, width_of) > 0).sum())
        elif isinstance(layer, InputLayer):
            written[name] = layer.channels
        else:  # pooling, up-sampling, concatenation
            written[name] = sum(written[source] for source in inputs)
    return read


def _widths(layer: ConvLayer, width_of: WidthOf) -> Tensor:
    if layer.weight_quantizer is None:
        return torch.full((layer.conv.out_channels,), float(FLOAT_BITS))
    return width_of(layer.weight_quantizer).expand(layer.conv.out_channels)


@torch.no_grad()
def activation_bits(network: UNet) -> float:
    """Average width over all quantized tensors, in bits; 32 where there is none."""
    widths = [float(quantizer.bit_width) for quantizer in activation_quantizers(network).values()]
    return sum(widths) / len(widths) if widths else float(FLOAT_BITS)


@torch.no_grad()
def widths_by_layer(network: UNet) -> dict[str, list[float]]:
    """[mean weight bits, bits of the layer's output or 0 for the logits], by layer."""
    table = {}
    for name, layer in conv_layers(network).items():
        output = layer.activation_quantizer
        weight = float(_widths(layer, lambda quantizer: quantizer.bit_width).mean())
        table[name] = [weight, float(output.bit_width) if output else FLOAT_BITS if layer.relu else 0.0]
    return table


@torch.no_grad()
def shifts_within(network: UNet, shift: float, fits: Callable[[WidthOf], bool]) -> dict[Quantizer, Tensor]:
    """``shift`` for every width of the weights, and ``ABOUT_TO_ROUND`` more for as many as fit of those it rounds up.

    Widths that learned alike round up together, which one shift for all cannot tell apart: among them the first ones
    in the order of the network are taken.

    Args:
        network: with trainable widths.
        shift: one that fits.
        fits: whether the network of given widths is within the budget; true for narrow ones, false for wide ones.
    """
    quantizers = list(weight_quantizers(network).values())
    plain = {
        quantizer: torch.full_like(parameter, shift) for quantizer in quantizers for parameter in _widths_of(quantizer)
    }
    ties = []
    for quantizer, shifts in plain.items():
        moved = quantizer.frozen_bit_width(shifts + ABOUT_TO_ROUND) != quantizer.frozen_bit_width(shifts)
        if shifts.dim() == 0:
            ties += [(quantizer, ())] if bool(moved.any()) else []
        else:
            ties += [(quantizer, (int(place),)) for place in quantizer.by_width(moved).nonzero().flatten()]

    def raised(count: int) -> dict[Quantizer, Tensor]:
        shifts = {quantizer: values.clone() for quantizer, values in plain.items()}
        for quantizer, index in ties[:count]:
            shifts[quantizer][index] += ABOUT_TO_ROUND
        return shifts

    low, high = 0, len(ties) + 1  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        trial = raised(middle)
        if fits(lambda quantizer: quantizer.frozen_bit_width(trial[quantizer])):  # noqa: B023  called at once
            low = middle
        else:
            high = middle
    return raised(low)


ABOUT_TO_ROUND = 2e-4
"""Bits; above the resolution to which ``budget.rounding_shift`` finds its shift."""


def _widths_of(quantizer: Quantizer) -> list[Tensor]:
    return [parameter.detach() for parameter in quantizer.width_parameters()]


def set_progress_(network: UNet, share: float) -> None:
    """Tell all quantizers which share of the training of widths is done, 0 to 1."""
    for quantizer in all_quantizers(network):
        quantizer.set_progress_(share)


def project_(network: UNet) -> None:
    """Bring all widths back into their bounds."""
    for quantizer in all_quantizers(network):
        quantizer.project_()
