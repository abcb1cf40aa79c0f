"""Builders: from the sections of a configuration to a network and its quantizers."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from quantunet.nn.batch_norm import fold_batch_norm_
from quantunet.nn.prepare import assign_quantizers_, calibrate_, leave_first_and_last_float_
from quantunet.nn.unet import UNet
from quantunet.quant.binary import BinaryActivation, BinaryWeight
from quantunet.quant.brevitas_adapter import BrevitasQuantizer
from quantunet.quant.dq import DifferentiableQuantizer
from quantunet.quant.fixed_point import FixedPointQuantizer
from quantunet.quant.hgq import HgqQuantizer
from quantunet.quant.interpolated import InterpolatedQuantizer
from quantunet.quant.quantizers import LearnedPowerOfTwo, Quantizer
from quantunet.quant.ternary import TernaryActivation, TernaryWeight
from quantunet.train.config import NetworkConfig, QuantizerConfig, WidthConfig


def build_float_network(config: NetworkConfig, in_channels: int, classes: int, seed: int) -> UNet:
    """A float U-Net with batch norm, initialised from ``seed``; ``classes`` counts the background."""
    torch.manual_seed(seed)
    network = UNet(
        in_channels,
        1 if classes == 2 else classes,
        config.base_channels,
        config.levels,
        config.upsampling,
        channels=config.channels,
        head_kernel=config.head_kernel,
        order=config.order,
    )
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - 1.3 to 1.4 x faster on a CPU
    return network


def build_quantized_network(float_network: UNet, config: QuantizerConfig, images: Iterable[Tensor]) -> UNet:
    """A copy of ``float_network``: batch norm folded, quantizers assigned and calibrated on batches of ``images``."""
    network = copy.deepcopy(float_network).eval()
    fold_batch_norm_(network)
    assign_quantizers_(
        network,
        lambda channels, axis: _build_weight_quantizer(config, channels, axis, network.norm_after_relu),
        lambda signed: _build_activation_quantizer(config, signed),
        _image_quantizer(config),
    )
    if network.head.weight_quantizer is not None:
        network.head.weight_quantizer.keep_all_channels_()
    if config.float_layers == "first_and_last":
        leave_first_and_last_float_(network)
    if config.int8_layers == "first_and_last":
        for layer in network.first_and_last_layers():
            layer.weight_quantizer = _int8(layer.conv.out_channels, layer.out_channel_axis)
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    calibrate_(network, images)
    return network


def _image_quantizer(config: QuantizerConfig) -> Quantizer | None:
    """Eight bits where widths are fixed: an image of 2 bits is another image; None: like all other tensors."""
    return _int8(None, 1) if config.name in ("uniform", "fixed_point", "ternary", "binary") else None


def _int8(channels: int | None, axis: int) -> Quantizer:
    return LearnedPowerOfTwo(channels, axis, True, trainable=False)


def _build_weight_quantizer(config: QuantizerConfig, channels: int, axis: int, keeps_norm: bool) -> Quantizer:
    match config.name:
        case "ternary":
            return TernaryWeight(channels, axis)
        case "binary":
            # a batch norm that stays restores the gain of each filter; one that is folded leaves it to the weights
            return BinaryWeight(channels, axis, by_filter=not keeps_norm)
        case _:
            return _build_ranged(config, config.weight, channels, axis, signed=True)


def _build_activation_quantizer(config: QuantizerConfig, signed: bool) -> Quantizer:
    match config.name:
        case "ternary":
            return TernaryActivation()
        case "binary":
            return BinaryActivation()
        case _:
            return _build_ranged(config, config.activation, None, 1, signed)


def _build_ranged(
    config: QuantizerConfig, section: WidthConfig, channels: int | None, axis: int, signed: bool
) -> Quantizer:
    """Quantizers that are made alike for weights and activations."""
    widths = {
        "bit_width": section.bit_width,
        "min_bit_width": section.min_bit_width,
        "max_bit_width": section.max_bit_width,
    }
    by_channel = {"channel_widths": config.per == "channel"}
    match config.name:
        case "fixed_point":
            return FixedPointQuantizer(
                channels,
                axis,
                signed,
                integer_bits=section.integer_bits or 0,
                fractional_bits=section.fractional_bits or 0,
                saturate=config.saturate,
            )
        case "brevitas":
            widths["min_bit_width"] = max(section.min_bit_width, 2)
            return BrevitasQuantizer(channels, axis, signed, **widths)
        case "interpolated":
            return InterpolatedQuantizer(channels, axis, signed, **widths, **by_channel)
        case "dq":
            return DifferentiableQuantizer(
                channels, axis, signed, **widths, **by_channel, power_of_two=config.power_of_two
            )
        case "hgq":
            return HgqQuantizer(channels, axis, signed, **widths, **by_channel)
        case _:
            group_size = {"channel": 1, "group": config.group_size, "layer": None}[config.per]
            trainable = config.name == "learned"
            return LearnedPowerOfTwo(channels, axis, signed, **widths, group_size=group_size, trainable=trainable)
