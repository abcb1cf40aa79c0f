"""Operations, memory and time fall only when channels go: the least important ones, as many as a plan demands.

Importance of a channel is how much the loss would change without it, to first order: ``(sum_w w dL/dw + b dL/db)^2``,
averaged over the steps (Taylor expansion, Molchanov et al. 2019, 1906.10771, eq. 8), by unit of what it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from quantunet.nn.layers import ConvLayer, conv_layers
from quantunet.nn.removal import remove_channels_
from quantunet.nn.trace import layer_steps
from quantunet.nn.unet import UNet

AVERAGED_STEPS = 20
AT_ONCE = 0.02
"""Share of the channels that go before sizes are measured again."""


@torch.no_grad()
def update_importance_(network: UNet) -> None:
    """Take the gradients of a step into the averages, which every quantizer of channels that may vanish holds."""
    for layer in conv_layers(network).values():
        quantizer, weight, bias = layer.weight_quantizer, layer.conv.weight, layer.conv.bias
        if quantizer is None or quantizer.importance is None or weight.grad is None:
            continue
        change = (weight * weight.grad).transpose(0, layer.out_channel_axis).flatten(1).sum(1)
        if bias is not None and bias.grad is not None:
            change += bias * bias.grad
        quantizer.importance.lerp_(quantizer.averaged(change.square()), 1 / AVERAGED_STEPS)


def mac_costs(network: UNet) -> dict[str, float]:
    """Multiply-accumulates that go with one channel of each layer: its own, and those of whoever reads it."""
    origins, layers = _origins(network), conv_layers(network)
    costs = {name: layer.macs / layer.conv.out_channels for name, layer in layers.items()}
    for _, layer, inputs in layer_steps(network):
        if isinstance(layer, ConvLayer):
            for origin in origins[inputs[0]].keys() & costs.keys():
                costs[origin] += layer.macs / layer.conv.in_channels
    return costs


def ram_costs(network: UNet, peak_tensors: Mapping[str, int]) -> dict[str, float]:
    """Bytes of the fullest step's tensors that go with one channel of each layer, copies of it included."""
    costs: dict[str, float] = {}
    for name, origins in _origins(network).items():
        for origin in origins:
            costs[origin] = costs.get(origin, 0.0) + peak_tensors.get(name, 0) / sum(origins.values())
    return costs


def _origins(network: UNet) -> dict[str, dict[str, int]]:
    """By step: the layers whose channels its tensor holds, and how many of each."""
    origins: dict[str, dict[str, int]] = {}
    for name, layer, inputs in layer_steps(network):
        if isinstance(layer, ConvLayer):
            origins[name] = {name: layer.conv.out_channels}
        else:
            origins[name] = {origin: n for source in inputs for origin, n in origins[source].items()}
    return origins


def drop_channels_(
    network: UNet,
    excess: Callable[[], Mapping[str, float]],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Remove channels until nothing exceeds.

    Args:
        excess: what one channel of each layer costs of that which exceeds now; empty where all fits.
        optimizer: what it remembers of the channels goes with them.
    """
    layers = conv_layers(network)
    while costs := excess():
        candidates = sorted(
            (float(importance) / costs[name], name, channel)
            for name, layer in layers.items()
            if costs.get(name, 0.0) > 0
            and layer.conv.out_channels > 1
            and layer.weight_quantizer is not None
            and layer.weight_quantizer.importance is not None
            for channel, importance in enumerate(layer.weight_quantizer.importance)
        )
        if not candidates:
            return
        for _, name, channel in candidates[: max(1, round(AT_ONCE * len(candidates)))]:
            _silence_(layers[name], channel)
        if not remove_channels_(network, optimizer):
            return


def drop_groups_(
    network: UNet,
    savings: Callable[[], Mapping[str, Sequence[tuple[int, float]]]],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Remove groups of channels until there is nothing to save: vectors of a processor save by whole groups only.

    Each time the group goes whose importance, by unit of what it saves, is the least.

    Args:
        savings: by layer, numbers of channels and what is saved without so many; empty where all fits.
        optimizer: what it remembers of the channels goes with them.
    """
    layers = conv_layers(network)
    while options := savings():
        found = []
        for name, groups in options.items():
            quantizer = layers[name].weight_quantizer
            if quantizer is None or quantizer.importance is None:
                continue
            importance, order = quantizer.importance.sort()
            sums = importance.cumsum(0)
            found += [(float(sums[n - 1]) / saved, name, order[:n].tolist()) for n, saved in groups if n < len(order)]
        if not found:
            return
        _, name, channels = min(found)
        for channel in channels:
            _silence_(layers[name], channel)
        if not remove_channels_(network, optimizer):
            return


def _silence_(layer: ConvLayer, channel: int) -> None:
    assert layer.weight_quantizer is not None
    layer.weight_quantizer.silence_(channel)
