"""Integer graphs with random weights of given widths, for measuring speed alone: the classic U-Net."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantunet.formats import IntFormat
from quantunet.ir import graph as ir


def classic_graph(
    base_channels: int, levels: int, upsampling: str, weight_bits: int, activation_bits: int
) -> ir.IntegerGraph:
    """Two 3x3 convolutions a level, down by pooling, up by ``transposed`` 2x2 convolutions or ``nearest``."""
    return u_net([base_channels << level for level in range(levels)], upsampling, weight_bits, activation_bits)


def u_net(widths: Sequence[int], upsampling: str, weight_bits: int, activation_bits: int) -> ir.IntegerGraph:
    """The same with so many channels a level."""
    made = _Builder(weight_bits, activation_bits)
    x, skips = "image", []
    for level, width in enumerate(widths):
        if level:
            x = made.add(ir.MaxPool2d(f"pool{level}", (x,)), made.channels[x])
        x = made.conv(f"enc{level}b", made.conv(f"enc{level}a", x, width, 3), width, 3)
        skips.append(x)
    for level in reversed(range(len(widths) - 1)):
        width = widths[level]
        if upsampling == "transposed":
            x = made.conv(f"up{level}", x, width, 2)
        else:
            x = made.add(ir.UpsampleNearest2d(f"up{level}", (x,)), made.channels[x])
        both = made.channels[skips[level]] + made.channels[x]
        x = made.add(ir.Concat(f"cat{level}", (skips[level], x)), both)
        x = made.conv(f"dec{level}b", made.conv(f"dec{level}a", x, width, 3), width, 3)
    return made.finish(x)


class _Builder:
    def __init__(self, weight_bits: int, activation_bits: int) -> None:
        self.rng = np.random.default_rng(0)
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self.nodes: list[ir.Node] = [ir.Input("image", (), 1, IntFormat(activation_bits, False), 1.0)]
        self.channels: dict[str, int] = {"image": 1}

    def conv(self, name: str, source: str, out: int, kernel: int, is_raw: bool = False) -> str:
        limits, bits = IntFormat(self.weight_bits, True), self.activation_bits
        fan_in = self.channels[source]
        weight = self.rng.integers(limits.q_min, limits.q_max + 1, (out, fan_in, kernel, kernel)).astype(np.int32)
        widths = np.full(out, self.weight_bits, np.int32)
        bias = self.rng.integers(-50, 50, out).astype(np.int32)
        products = fan_in * (1 if kernel == 2 else kernel**2)
        spread = np.sqrt(products) * 2.0 ** (self.weight_bits - 1) * 2.0**bits / 3
        shift = max(int(np.log2(spread)) - bits + 1, 0)
        stage = ir.Requantize(np.ones(out, np.int32), np.full(out, shift, np.int32), IntFormat(bits, False))
        if kernel == 2:
            return self.add(ir.ConvTranspose2d(name, (source,), weight, widths, bias, stage), out)
        stage_or_none = None if is_raw else stage
        return self.add(ir.Conv2d(name, (source,), weight, widths, bias, stage_or_none, padding=kernel // 2), out)

    def add(self, node: ir.Node, count: int) -> str:
        self.nodes.append(node)
        self.channels[node.name] = count
        return node.name

    def finish(self, source: str) -> ir.IntegerGraph:
        head = self.conv("head", source, 1, 1, is_raw=True)
        self.add(ir.Threshold("mask", (head,), 0), 1)
        return ir.IntegerGraph(tuple(self.nodes))
