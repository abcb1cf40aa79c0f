"""The specification once more, as plain loops over Python integers: slow, and free of every NumPy trick."""

from typing import Any

from quantunet.formats import IntFormat
from quantunet.ir.graph import (
    ArgMax,
    Concat,
    Conv2d,
    ConvTranspose2d,
    MaxPool2d,
    Node,
    Requantize,
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
)

Image = list[list[list[int]]]  # (c, h, w)


def requantize_one(acc: int, stage: Requantize | None, channel: int) -> int:
    if stage is None:
        return acc
    multiplier, shift, output = int(stage.multiplier[channel]), int(stage.shift[channel]), stage.output
    product = acc * multiplier
    rounded = product << -shift if shift <= 0 else (product + (1 << (shift - 1))) >> shift
    return clamp(rounded, output)


def clamp(value: int, output: IntFormat) -> int:
    return min(max(value, output.q_min), output.q_max)


def evaluate_naively(node: Node, inputs: list[Image]) -> Image:
    x: Any = inputs[0]
    height, width = len(x[0]), len(x[0][0])
    rows, columns = range(height), range(width)
    match node:
        case Conv2d():
            return convolve(node, x)
        case ConvTranspose2d():
            out, source = node.weight.shape[:2]
            return [
                [
                    [
                        requantize_one(
                            int(node.bias[o])
                            + sum(int(node.weight[o, c, y % 2, z % 2]) * x[c][y // 2][z // 2] for c in range(source)),
                            node.requantize,
                            o,
                        )
                        for z in range(2 * width)
                    ]
                    for y in range(2 * height)
                ]
                for o in range(out)
            ]
        case MaxPool2d():
            return [
                [
                    [max(p[2 * y + i][2 * z + j] for i in (0, 1) for j in (0, 1)) for z in range(width // 2)]
                    for y in range(height // 2)
                ]
                for p in x
            ]
        case UpsampleNearest2d():
            return [[[p[y // 2][z // 2] for z in range(2 * width)] for y in range(2 * height)] for p in x]
        case UpsampleBilinear2d():
            return [bilinear(plane, node.requantize, c) for c, plane in enumerate(x)]
        case Rescale():
            return [[[requantize_one(v, node.requantize, c) for v in row] for row in p] for c, p in enumerate(x)]
        case Concat():
            return [plane for each in inputs for plane in each]
        case Threshold():
            return [[[int(v > node.threshold) for v in row] for row in x[0]]]
        case ArgMax():
            columns_of = [[[p[y][z] for p in x] for z in columns] for y in rows]
            return [[[values.index(max(values)) for values in row] for row in columns_of]]
        case _:
            raise AssertionError(node)


def convolve(node: Conv2d, x: Image) -> Image:
    out, source, kernel_height, kernel_width = node.weight.shape
    height, width = len(x[0]), len(x[0][0])
    result: Image = []
    for o in range(out):
        plane = []
        for y in range((height + 2 * node.padding - kernel_height) // node.stride + 1):
            row = []
            for z in range((width + 2 * node.padding - kernel_width) // node.stride + 1):
                acc = int(node.bias[o])
                for i in range(kernel_height):
                    for j in range(kernel_width):
                        u, v = y * node.stride + i - node.padding, z * node.stride + j - node.padding
                        if 0 <= u < height and 0 <= v < width:
                            acc += sum(int(node.weight[o, c, i, j]) * x[c][u][v] for c in range(source))
                row.append(requantize_one(acc, node.requantize, o))
            plane.append(row)
        result.append(plane)
    return result


def bilinear(plane: list[list[int]], stage: Requantize, channel: int) -> list[list[int]]:
    height, width = len(plane), len(plane[0])

    def taps(place: int, length: int) -> list[tuple[int, int]]:
        near = place // 2
        far = near - 1 if place % 2 == 0 else near + 1
        return [(near, 3), (min(max(far, 0), length - 1), 1)]

    return [
        [
            requantize_one(
                sum(a * b * plane[u][v] for u, a in taps(y, height) for v, b in taps(z, width)), stage, channel
            )
            for z in range(2 * width)
        ]
        for y in range(2 * height)
    ]
