"""Random integer graphs over every node kind, for the tests that compare a backend with the interpreter."""

from __future__ import annotations

import numpy as np

from quantunet.formats import IntFormat
from quantunet.ir import graph as ir
from quantunet.ir import ranges, validate

MAX_CHANNELS = 19
NAMES = ("enc", "dec.", "up-1/", "int")
ODD_NAMES = ("enc", "weird name/é ", 'q"*/', "int")


class GraphBuilder:
    """Adds random nodes; ``extended`` asks for names and widths beyond those that ``validate`` lets into a file."""

    def __init__(self, seed: int, extended: bool) -> None:
        self.extended = extended
        self.rng = np.random.default_rng(seed)
        self.nodes: list[ir.Node] = []

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def name(self, kind: str) -> str:
        return f"{self.rng.choice(ODD_NAMES if self.extended else NAMES)}{kind}{len(self.nodes)}"

    def add(self, node: ir.Node) -> str:
        self.nodes.append(node)
        return node.name

    def graph(self) -> ir.IntegerGraph:
        return ir.IntegerGraph(tuple(self.nodes))

    def channels(self, tensor: str) -> int:
        return self.graph().channels()[tensor]

    def format(self, tensor: str) -> IntFormat:
        return self.graph().formats()[tensor]

    def activation_format(self) -> IntFormat:
        widths = (9, 12, 16, 20) if self.extended and self.chance(0.15) else range(1, 9)
        bit_width, signed = int(self.rng.choice(list(widths))), self.chance(0.4)
        return IntFormat(bit_width, signed, narrow_range=signed and bit_width > 1 and self.chance(0.2))

    def input(self) -> str:
        bit_width = int(self.rng.choice([1, 4, 8, 8, 8, 12] if self.extended else [1, 4, 8, 8, 8]))
        source = IntFormat(bit_width, self.chance(0.5))
        return self.add(ir.Input(self.name("input"), (), self.integer(1, 4), source, 0.5))

    def requantize(self, acc_bits: int, channels: int) -> ir.Requantize:
        """Ratios that bring an accumulator of ``acc_bits`` bits near the output's range, sometimes far from it."""
        output = self.activation_format()
        shift = acc_bits - output.bit_width + self.rng.integers(-4, 3, channels)
        if self.chance(0.05):
            shift = shift - 12  # left shifts too
        shift = np.clip(shift, -31, 27)
        kind = self.rng.choice(["shift", "multiplier", "mixed"], p=[0.5, 0.3, 0.2])
        multiplier = np.ones(channels, np.int64)
        if kind != "shift":
            chosen = np.ones(channels, bool) if kind == "multiplier" else self.rng.random(channels) < 0.5
            chosen &= shift + 31 <= 62
            multiplier = np.where(chosen, self.rng.integers(2**30, 2**31, channels), 1)
            shift = np.where(chosen, shift + 31, shift)
        if self.chance(0.03):
            multiplier[0], shift[0] = 0, 0
        return ir.Requantize(multiplier.astype(np.int32), shift.astype(np.int32), output)

    def weights(self, shape: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        widths = self.rng.integers(1, 9, shape[0])
        weight = np.zeros(shape, np.int64)
        for channel, bit_width in enumerate(widths):
            limits = IntFormat(int(bit_width), True)
            weight[channel] = self.rng.integers(limits.q_min, limits.q_max + 1, shape[1:])
            if self.chance(0.1):
                weight[channel] = limits.q_min
        bias = self.rng.integers(-(2 ** self.integer(1, 16)), 2 ** self.integer(1, 16), shape[0])
        return weight.astype(np.int32), widths.astype(np.int32), bias.astype(np.int32)

    def conv(self, source: str, stride: int = 1, out: int | None = None, raw: bool = False, kernel: int = 0) -> str:
        kernel = kernel or int(self.rng.choice([1, 3, 3, 5]))
        fan_in, out = self.channels(source), out or self.integer(1, MAX_CHANNELS)
        weight, widths, bias = self.weights((out, fan_in, kernel, kernel))
        acc_bits = self.format(source).bit_width + 5 + int(np.log2(fan_in * kernel**2) / 2)
        stage = None if raw else self.requantize(acc_bits, out)
        return self.add(
            ir.Conv2d(self.name("conv"), (source,), weight, widths, bias, stage, stride=stride, padding=kernel // 2)
        )

    def upsample(self, source: str) -> str:
        match self.rng.choice(["nearest", "bilinear", "transposed"]):
            case "nearest":
                return self.add(ir.UpsampleNearest2d(self.name("up"), (source,)))
            case "bilinear":
                stage = self.requantize(self.format(source).bit_width + 4, self.channels(source))
                return self.add(ir.UpsampleBilinear2d(self.name("up"), (source,), stage))
            case _:
                out = self.integer(1, MAX_CHANNELS)
                weight, widths, bias = self.weights((out, self.channels(source), 2, 2))
                acc_bits = self.format(source).bit_width + 5 + self.channels(source).bit_length() // 2
                stage = self.requantize(acc_bits, out)
                return self.add(ir.ConvTranspose2d(self.name("up"), (source,), weight, widths, bias, stage))

    def rescale(self, source: str) -> str:
        stage = self.requantize(self.format(source).bit_width, self.channels(source))
        return self.add(ir.Rescale(self.name("rescale"), (source,), stage))

    def head(self, source: str) -> None:
        binary, raw, extra = self.chance(0.5), self.chance(0.8), self.chance(0.2)
        classes = 1 if binary else self.integer(2, 11)
        logits = self.conv(source, out=classes, raw=raw, kernel=int(self.rng.choice([1, 3])))
        if extra:
            logits = self.rescale(logits)  # so that the head is not fused
        if binary:
            self.add(ir.Threshold(self.name("mask"), (logits,), self.integer(-(2 ** self.integer(0, 14)), 2000)))
        else:
            self.add(ir.ArgMax(self.name("mask"), (logits,)))

    def unet(self) -> None:
        """A U-Net of 0 to 3 levels, down by pooling or by stride, up by any of three ways."""
        tensor, skips = self.input(), []
        for _ in range(self.integer(0, 3)):
            tensor = self.conv(tensor)
            skips.append(tensor)
            pooled = self.chance(0.6)
            tensor = self.add(ir.MaxPool2d(self.name("pool"), (tensor,))) if pooled else self.conv(tensor, stride=2)
        tensor = self.rescale(tensor) if self.chance(0.3) else self.conv(tensor)
        for skip in reversed(skips):
            tensor = self.upsample(tensor)
            parts = [tensor, skip] if self.chance(0.5) else [skip, tensor]
            if self.chance(0.3):
                parts[0] = self.rescale(parts[0])
            tensor = self.add(ir.Concat(self.name("cat"), tuple(parts)))
            if self.chance(0.8):
                tensor = self.conv(tensor)
        self.head(tensor)


def random_graph(seed: int, extended: bool = False) -> ir.IntegerGraph:
    """A graph that ``ranges.prove`` accepts, and ``validate`` too unless ``extended``; one seed, one graph."""
    for attempt in range(100):
        builder = GraphBuilder(seed * 1000 + attempt, extended)
        builder.unet()
        graph = builder.graph()
        try:
            ranges.prove(graph)
            if not extended:
                validate.validate(graph)
        except ir.GraphError:
            continue
        return graph
    raise AssertionError(f"seed {seed} gives no graph whose accumulators fit int32")


def random_codes(graph: ir.IntegerGraph, seed: int, images: int = 3) -> np.ndarray:
    """Input codes (n, c, h, w): uniform over the format, then only its two extremes, then all at one extreme."""
    rng = np.random.default_rng(seed)
    limits, multiple = graph.input.output, graph.size_multiple()
    height, width = (multiple * int(rng.integers(1, max(12 // multiple, 2) + 1)) for _ in range(2))
    codes = rng.integers(limits.q_min, limits.q_max + 1, (images, graph.input.channels, height, width))
    if images > 1:
        codes[1] = rng.choice([limits.q_min, limits.q_max], codes[1].shape)
    if images > 2:
        codes[2] = limits.q_max if rng.random() < 0.5 else limits.q_min
    return codes
