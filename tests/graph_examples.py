"""Graphs for the tests of the integer half: one with every kind of node, and a U-Net of a stated shape."""

import numpy as np

from quantunet.formats import IntFormat
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
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
)


def random_codes(rng: np.random.Generator, codes: IntFormat, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(codes.q_min, codes.q_max, shape, endpoint=True)


def random_requantize(rng: np.random.Generator, channels: int, output: IntFormat, by_shift: bool) -> Requantize:
    if by_shift:
        return Requantize(np.ones(channels, np.int32), rng.integers(0, 9, channels).astype(np.int32), output)
    multiplier = rng.integers(2**30, 2**31, channels).astype(np.int32)
    return Requantize(multiplier, rng.integers(31, 39, channels).astype(np.int32), output)


def random_conv(
    rng: np.random.Generator,
    name: str,
    source: str,
    in_channels: int,
    out_channels: int,
    requantize: Requantize | None,
    kernel: int = 3,
    stride: int = 1,
) -> Conv2d:
    width = rng.integers(1, 9, out_channels).astype(np.int32)
    half = (1 << (width - 1))[:, None, None, None]
    weight = rng.integers(-half, half, (out_channels, in_channels, kernel, kernel)).astype(np.int32)
    bias = rng.integers(-500, 500, out_channels).astype(np.int32)
    return Conv2d(name, (source,), weight, width, bias, requantize, stride, kernel // 2)


def random_conv_transpose(
    rng: np.random.Generator, name: str, source: str, in_channels: int, out_channels: int, requantize: Requantize | None
) -> ConvTranspose2d:
    conv = random_conv(rng, name, source, in_channels, out_channels, None, kernel=2)
    return ConvTranspose2d(name, (source,), conv.weight, conv.weight_bit_width, conv.bias, requantize)


def every_node(seed: int = 0, by_shift: bool = True, binary: bool = True) -> IntegerGraph:
    """A small graph in which every kind of node occurs, for images whose sides are multiples of 4."""
    rng = np.random.default_rng(seed)
    u4, s5, u3 = IntFormat(4, False), IntFormat(5, True), IntFormat(3, False)
    last = random_conv(rng, "head", "joined", 10, 1 if binary else 3, None, kernel=1)
    nodes: tuple[Node, ...] = (
        Input("image", (), 2, IntFormat(8, True), 0.03125),
        random_conv(rng, "enc.a", "image", 2, 3, random_requantize(rng, 3, u4, by_shift)),
        MaxPool2d("pool", ("enc.a",)),
        random_conv(rng, "enc.b", "pool", 3, 4, random_requantize(rng, 4, u4, by_shift), stride=2),
        UpsampleBilinear2d("bilinear", ("enc.b",), random_requantize(rng, 4, u4, True)),
        UpsampleNearest2d("nearest", ("bilinear",)),
        random_conv_transpose(rng, "up", "bilinear", 4, 3, random_requantize(rng, 3, s5, by_shift)),
        Rescale("skip", ("enc.a",), random_requantize(rng, 3, u3, by_shift)),
        Concat("joined", ("skip", "nearest", "up")),
        last,
        Threshold("mask", ("head",), -7) if binary else ArgMax("mask", ("head",)),
    )
    return IntegerGraph(nodes, {"classes": ["background", "lesion"], "normalize": {"mean": 0.5, "std": 0.25}})


def unet(seed: int = 0, base: int = 16, levels: int = 3, by_shift: bool = True) -> IntegerGraph:
    """A U-Net of 2 convolutions a level, nearest up-sampling: 4 x levels + 2 convolutions and a 1x1 head."""
    rng = np.random.default_rng(seed)
    u4 = IntFormat(4, False)
    nodes: list[Node] = [Input("image", (), 1, IntFormat(8, True), 0.0314)]
    channels = {"image": 1}

    def add_pair(prefix: str, source: str, in_channels: int, out_channels: int) -> str:
        for letter in "ab":
            name = f"{prefix}.{letter}"
            stage = random_requantize(rng, out_channels, u4, by_shift)
            nodes.append(random_conv(rng, name, source, in_channels, out_channels, stage))
            source, in_channels, channels[name] = name, out_channels, out_channels
        return source

    source, skips = "image", []
    for level in range(levels):
        source = add_pair(f"encoder.{level}", source, channels[source], base << level)
        skips.append(source)
        nodes.append(MaxPool2d(f"pool.{level}", (source,)))
        channels[f"pool.{level}"] = channels[source]
        source = f"pool.{level}"
    source = add_pair("bottom", source, channels[source], base << levels)
    for level in reversed(range(levels)):
        up, joined = f"up.{level}", f"joined.{level}"
        nodes.append(UpsampleNearest2d(up, (source,)))
        nodes.append(Concat(joined, (up, skips[level])))
        source = add_pair(f"decoder.{level}", joined, channels[source] + channels[skips[level]], base << level)
    nodes.append(random_conv(rng, "head", source, base, 1, None, kernel=1))
    nodes.append(Threshold("mask", ("head",), 0))
    metadata = {"classes": ["background", "foreground"], "normalize": {"kind": "z-score", "per": "image"}}
    return IntegerGraph(tuple(nodes), metadata)
