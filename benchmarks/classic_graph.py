"""Integer graphs of the classic U-Net with random weights of given widths, for measuring speed alone."""

from __future__ import annotations

import numpy as np

from quantunet.formats import IntFormat
from quantunet.ir import graph as ir


def classic_graph(
    base_channels: int, levels: int, upsampling: str, weight_bits: int, activation_bits: int
) -> ir.IntegerGraph:
    """Two 3x3 convolutions a level, down by pooling, up by ``transposed`` 2x2 convolutions or ``nearest``."""
    rng = np.random.default_rng(0)
    nodes: list[ir.Node] = [ir.Input("image", (), 1, IntFormat(activation_bits, False), 1.0)]
    channels: dict[str, int] = {"image": 1}

    def conv(name: str, source: str, out: int, kernel: int, is_raw: bool = False) -> str:
        limits = IntFormat(weight_bits, True)
        fan_in = channels[source]
        weight = rng.integers(limits.q_min, limits.q_max + 1, (out, fan_in, kernel, kernel)).astype(np.int32)
        widths, bias = np.full(out, weight_bits, np.int32), rng.integers(-50, 50, out).astype(np.int32)
        products = fan_in * (1 if kernel == 2 else kernel**2)
        spread = np.sqrt(products) * 2.0 ** (weight_bits - 1) * 2.0**activation_bits / 3
        shift = max(int(np.log2(spread)) - activation_bits + 1, 0)
        stage = ir.Requantize(np.ones(out, np.int32), np.full(out, shift, np.int32), IntFormat(activation_bits, False))
        if kernel == 2:
            nodes.append(ir.ConvTranspose2d(name, (source,), weight, widths, bias, stage))
        else:
            padding = kernel // 2
            nodes.append(ir.Conv2d(name, (source,), weight, widths, bias, None if is_raw else stage, padding=padding))
        channels[name] = out
        return name

    def add(node: ir.Node, count: int) -> str:
        nodes.append(node)
        channels[node.name] = count
        return node.name

    x, skips = "image", []
    for level in range(levels):
        width = base_channels << level
        if level:
            x = add(ir.MaxPool2d(f"pool{level}", (x,)), channels[x])
        x = conv(f"enc{level}b", conv(f"enc{level}a", x, width, 3), width, 3)
        skips.append(x)
    for level in reversed(range(levels - 1)):
        width = base_channels << level
        if upsampling == "transposed":
            x = conv(f"up{level}", x, width, 2)
        else:
            x = add(ir.UpsampleNearest2d(f"up{level}", (x,)), channels[x])
        x = add(ir.Concat(f"cat{level}", (skips[level], x)), channels[skips[level]] + channels[x])
        x = conv(f"dec{level}b", conv(f"dec{level}a", x, width, 3), width, 3)
    head = conv("head", x, 1, 1, is_raw=True)
    nodes.append(ir.Threshold("mask", (head,), 0))
    return ir.IntegerGraph(tuple(nodes))
