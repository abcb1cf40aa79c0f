"""Channels whose width has become 0 leave the network: its weights, bias, width and scale, and whoever reads them.

A channel of 0 bits has weights and bias of 0, so after the ReLU it is exactly zero, borders included; every
convolution behind it, through pooling, up-sampling and concatenation, multiplies zeros. Without them the network
computes the same numbers with fewer operations (Self-Compressing Neural Networks, 2301.13142, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantunet.nn.layers import Concat, ConvLayer, InputLayer, conv_layers
from quantunet.nn.trace import layer_steps


@torch.no_grad()
def remove_channels_(network: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Take all channels of 0 bits out of ``network``; return how many there were.

    Parameters stay the same objects, and what ``optimizer`` remembers of them shrinks with them, so that training
    goes on where it is.
    """
    kept: dict[str, Tensor] = {}  # by step: whether each channel stays, (channels,)
    removed = 0
    for name, layer, inputs in layer_steps(network):
        if isinstance(layer, InputLayer):
            kept[name] = torch.ones(layer.channels, dtype=torch.bool)
        elif isinstance(layer, ConvLayer):
            kept[name] = _stays(layer)
            removed += int((~kept[name]).sum())
            _select_(layer, kept[inputs[0]], kept[name], optimizer)
        elif isinstance(layer, Concat):
            kept[name] = torch.cat([kept[source] for source in inputs])
        else:
            kept[name] = kept[inputs[0]]
    return removed


def _stays(layer: ConvLayer) -> Tensor:
    quantizer = layer.weight_quantizer
    if quantizer is None or not quantizer.can_vanish:
        return torch.ones(layer.conv.out_channels, dtype=torch.bool)
    return (quantizer.bit_width > 0).cpu()


def _select_(layer: ConvLayer, inputs: Tensor, outputs: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Keep the input and output channels marked True."""
    axis = layer.out_channel_axis
    if not inputs.all():
        _index_(layer.conv.weight, 1 - axis, inputs, optimizer)
    if not outputs.all():
        _index_(layer.conv.weight, axis, outputs, optimizer)
        if layer.conv.bias is not None:
            _index_(layer.conv.bias, 0, outputs, optimizer)
        assert layer.weight_quantizer is not None
        widths = layer.weight_quantizer.by_width(outputs)
        for values in _by_channel(layer.weight_quantizer):
            _index_(values, 0, outputs if len(values) == len(outputs) else widths, optimizer)
    layer.resize_()


def _by_channel(quantizer: nn.Module) -> list[Tensor]:
    return [values for values in (*quantizer.parameters(), *quantizer.buffers()) if values.dim() == 1]


def _index_(values: Tensor, axis: int, kept: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    index = kept.nonzero().flatten().to(values.device)
    remembered = optimizer.state.get(values, {}) if optimizer is not None else {}
    for key, state in remembered.items():
        if isinstance(state, Tensor) and state.shape == values.shape:
            remembered[key] = _part(state, axis, index)
    values.data = _part(values.data, axis, index)
    values.grad = None


def _part(values: Tensor, axis: int, index: Tensor) -> Tensor:
    part = values.index_select(axis, index)
    return part.contiguous(memory_format=_memory_format(values)) if values.dim() == 4 else part


def _memory_format(values: Tensor) -> torch.memory_format:
    is_last = values.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


@torch.no_grad()
def load_smaller_(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """``load_state_dict`` for a checkpoint from which channels may have been removed.

    ``network`` is as built; its layers take the shapes of ``state``.
    """
    for name, values in (*network.named_parameters(), *network.named_buffers()):
        if name in state and state[name].shape != values.shape:
            empty = torch.empty(state[name].shape, dtype=values.dtype, device=values.device)
            values.data = empty.contiguous(memory_format=_memory_format(values)) if values.dim() == 4 else empty
    for layer in conv_layers(network).values():
        layer.resize_()
    network.load_state_dict(dict(state))
