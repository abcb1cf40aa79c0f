"""THE BRIDGE: from a trained network of quantized layers to the IntegerGraph.

Each call of a layer becomes a node. All scales are folded into
requantization: the deployed graph has integers only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from quantunet.arith import multiplier_and_shift
from quantunet.formats import BIAS, INT32, IntFormat
from quantunet.ir import ranges
from quantunet.ir.graph import (
    ArgMax,
    Concat,
    Conv2d,
    ConvTranspose2d,
    Input,
    IntegerGraph,
    MaxPool2d,
    Node,
    Requantize,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
)
from quantunet.ir.validate import MAX_CODE_BIT_WIDTH
from quantunet.nn import layers
from quantunet.nn.trace import layer_steps
from quantunet.quant.fake_quant import round_half_up
from quantunet.quant.quantizers import Quantizer

LARGEST_CODE = 255
"""Magnitude of any activation code."""
MOST_FRACTION_BITS = 12
"""Beyond the finest class, for logits of several scales."""


class LoweringError(ValueError):
    """The network holds something that has no integer form; the message names the layer."""


@torch.no_grad()
def lower(network: nn.Module, metadata: Mapping[str, Any] | None = None) -> IntegerGraph:
    """The IntegerGraph of ``network``, which has a method ``logits(image) -> Activation`` and only quantized layers.

    Computed in float64, so that with power-of-two scales every number is exact: the graph and the fake-quantized
    network in float64 then have equal codes in every tensor.

    Raises:
        LoweringError: if a layer is not quantized, or two tensors of different scale are concatenated.
        GraphError: if an accumulator could overflow int32.
    """
    network = copy.deepcopy(network).double().eval()
    nodes: list[Node] = []
    tensors: dict[str, _Source] = {}
    for name, layer, inputs in layer_steps(network):
        sources = [tensors[source] for source in inputs]
        try:
            node, scale, channels = _lower_layer(name, layer, sources)
        except LoweringError:
            raise
        except ValueError as error:  # scales so far apart that no multiplier and shift bring them together in int32
            raise LoweringError(f"layer {name}: {error}: its scales do not fit int32 together") from None
        nodes.append(node)
        tensors[name] = _Source(node.name, scale, channels)
    nodes.append(_mask_node(nodes))
    graph = IntegerGraph(tuple(nodes), dict(metadata or {}))
    _check_logits(graph)
    return graph


class _Source(NamedTuple):
    """What a traced node writes."""

    name: str
    scale: Tensor
    channels: int


def _lower_layer(name: str, layer: nn.Module, sources: list[_Source]) -> tuple[Node, Tensor, int]:
    inputs = tuple(source.name for source in sources)
    match layer:
        case layers.InputLayer():
            quantizer = _required(layer.activation_quantizer, name)
            if quantizer.truncates or quantizer.is_sign:
                raise LoweringError(f"layer {name}: an image is rounded to its codes: give it a quantizer that rounds")
            node = Input(name, (), layer.channels, _format(quantizer, name), float(quantizer.scale))
            return node, quantizer.scale, layer.channels
        case layers.ConvLayer():
            node, scale = _lower_conv(name, layer, inputs, sources[0].scale)
            return node, scale, layer.conv.out_channels
    scale, channels = sources[0].scale, sources[0].channels
    match layer:
        case layers.MaxPool():
            return MaxPool2d(name, inputs), scale, channels
        case layers.UpsampleNearest():
            return UpsampleNearest2d(name, inputs), scale, channels
        case layers.UpsampleBilinear():
            quantizer = _required(layer.activation_quantizer, name)
            if quantizer.truncates:
                raise LoweringError(f"layer {name}: interpolation that truncates has no integer form, it rounds")
            stage = _requantize(scale / 16, quantizer, channels, name)
            return UpsampleBilinear2d(name, inputs, stage), quantizer.scale, channels
        case layers.Concat():
            if any(float(source.scale) != float(scale) for source in sources):
                raise LoweringError(f"layer {name} joins tensors of different scale")
            return Concat(name, inputs), scale, sum(source.channels for source in sources)
        case _:
            raise LoweringError(f"layer {name} of type {type(layer).__name__} has no integer form")


def _lower_conv(name: str, layer: layers.ConvLayer, inputs: tuple[str, ...], scale: Tensor) -> tuple[Node, Tensor]:
    if layer.norm is not None:
        raise LoweringError(f"layer {name} has a batch norm that is not folded: it has no integer form")
    if not layer.integer_bias:
        raise LoweringError(f"layer {name} has a float bias: it has no integer form")
    quantizer = _required(layer.weight_quantizer, name)
    _check_width(quantizer, name)
    channels = layer.conv.out_channels
    weight = _integers(quantizer.codes(layer.conv.weight).transpose(0, layer.out_channel_axis))
    acc_scale = (scale * quantizer.scale).expand(channels)
    bias = np.zeros(channels, np.int32)
    if layer.conv.bias is not None:
        bias = _integers(round_half_up(layer.conv.bias / acc_scale).clamp(BIAS.q_min, BIAS.q_max))
    bit_width = _integers(quantizer.bit_width.expand(channels))
    if layer.activation_quantizer is not None:
        output = layer.activation_quantizer
        stage, out_scale = _requantize(acc_scale, output, channels, name), output.scale
        if output.truncates:  # floor(r acc) = floor(r (acc - 1 / 2r) + 1/2), with r a power of two and acc an integer
            bias = bias - _integers(torch.floor(0.5 * output.scale / acc_scale))
    else:
        magnitudes = np.abs(weight.astype(np.int64)).reshape(channels, -1).sum(1) * LARGEST_CODE + np.abs(bias)
        stage, out_scale = _align(acc_scale, torch.from_numpy(magnitudes).to(acc_scale.device))
    if layer.transposed:
        return ConvTranspose2d(name, inputs, weight, bit_width, bias, stage), out_scale
    stride, padding = int(layer.conv.stride[0]), int(layer.conv.padding[0])
    return Conv2d(name, inputs, weight, bit_width, bias, stage, stride, padding), out_scale


def _requantize(acc_scale: Tensor, quantizer: Quantizer, channels: int, name: str) -> Requantize:
    """From the accumulator's scale, () or (channels,), to the quantizer's."""
    ratios = (acc_scale / quantizer.scale).expand(channels)
    if quantizer.is_sign:
        ratios = torch.ones_like(ratios)  # clamped to -1 .. 1, an integer is its sign
    elif not quantizer.is_clamped:
        raise LoweringError(f"layer {name}: activations with fractional bits wrap: they have no integer form")
    elif quantizer.truncates and bool((torch.frexp(ratios).mantissa != 0.5).any()):
        raise LoweringError(f"layer {name}: truncated activations need weights whose scale is a power of two")
    pairs = [multiplier_and_shift(float(ratio)) for ratio in ratios]
    multiplier, shift = (np.array(values, np.int32) for values in zip(*pairs, strict=True))
    return Requantize(multiplier, shift, _format(quantizer, name))


def _align(acc_scale: Tensor, largest: Tensor) -> tuple[Requantize | None, Tensor]:
    """Logits whose classes differ in scale are brought to the finest one, so that they can be compared.

    ``largest`` (channels,): bounds of the accumulators' magnitudes.
    """
    finest = acc_scale.min()
    if bool((acc_scale == finest).all()):
        return None, finest
    if bool((torch.frexp(acc_scale / finest).mantissa != 0.5).any()):
        # left shifts are exact; other ratios round, so to a step as fine as int32 leaves room for
        room = math.floor(math.log2(INT32.q_max / float((largest * acc_scale / finest).max().clamp_min(1))))
        finest = finest / 2 ** min(max(room, 0), MOST_FRACTION_BITS)
    pairs = [multiplier_and_shift(float(ratio)) for ratio in acc_scale / finest]
    multiplier, shift = (np.array(values, np.int32) for values in zip(*pairs, strict=True))
    return Requantize(multiplier, shift, INT32), finest


def _mask_node(nodes: list[Node]) -> Node:
    head = nodes[-1]
    if not isinstance(head, Conv2d):
        raise LoweringError(f"the last layer {head.name} is no convolution")
    if head.weight.shape[0] == 1:
        return Threshold("mask", (head.name,), threshold=0)  # logit > 0, that is, probability > 1/2
    return ArgMax("mask", (head.name,))


def _check_logits(graph: IntegerGraph) -> None:
    """No accumulator overflows, and no left shift of the logits saturates, which would make classes equal."""
    proof = ranges.prove(graph)[-1]
    head = graph.weight_nodes()[-1]
    if head.requantize is not None:
        left = -int(head.requantize.shift.min())
        if max(-proof.low, proof.high) << max(left, 0) > INT32.q_max:
            raise LoweringError(f"layer {head.name}: logits of different scale do not fit int32 together")


def _required(quantizer: Quantizer | None, name: str) -> Quantizer:
    if quantizer is None:
        raise LoweringError(f"layer {name} is not quantized: only fully quantized networks have an integer form")
    return quantizer


def _format(quantizer: Quantizer, name: str) -> IntFormat:
    _check_width(quantizer, name)
    return IntFormat(int(quantizer.bit_width), quantizer.signed, quantizer.narrow_range)


def _check_width(quantizer: Quantizer, name: str) -> None:
    widest = int(quantizer.bit_width.max())
    if widest > MAX_CODE_BIT_WIDTH:
        raise LoweringError(
            f"layer {name} has {widest}-bit codes: an integer form has {MAX_CODE_BIT_WIDTH} bits at most"
        )


def _integers(x: Tensor) -> np.ndarray:
    return x.cpu().numpy().astype(np.int32)
