"""How the engine's time and memory grow with the image: classic U-Nets of base 16, and learned models.

    python benchmarks/host_pixels.py benchmarks/models/isbi_em_s0.safetensors

Processor time of one thread a pixel, medians over rounds that go through all sizes in turn; activations and scratch a
pixel. "spread" is the largest time a pixel above the least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from classic_graph import classic_graph

from quantunet.backends.c.layout import code_dtype
from quantunet.backends.host.engine import HostEngine
from quantunet.ir.graph import IntegerGraph
from quantunet.ir.packed_file import read_model

SIZES_PX = (128, 192, 256, 512, 1024, 2048)
PIXELS_A_ROUND = 2**20
"""Smaller images run several times a round, so that no size rests on fewer pixels than one image of 1024 x 1024."""


def measure(graph: IntegerGraph, rounds: int) -> list[tuple[float, float]]:
    """Nanoseconds and bytes a pixel, by size."""
    engine, limits = HostEngine(graph, threads=1), graph.input.output
    rng = np.random.default_rng(0)
    images = [
        rng.integers(limits.q_min, limits.q_max + 1, (1, graph.input.channels, size, size)).astype(code_dtype(limits))
        for size in SIZES_PX
    ]
    times: list[list[float]] = [[] for _ in images]
    for image in images:
        engine.run(image)
    for _ in range(rounds):
        for image, found in zip(images, times, strict=True):
            for _ in range(max(1, PIXELS_A_ROUND // image[0, 0].size)):
                start = time.process_time()
                engine.run(image)
                found.append(time.process_time() - start)
    return [
        (statistics.median(found) / size**2 * 1e9, engine.memory_bytes(size, size) / size**2)
        for size, found in zip(SIZES_PX, times, strict=True)
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*", help="model files")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    graphs = {f"base 16, {w} / {a} bits": classic_graph(16, 5, "transposed", w, a) for w, a in ((8, 8), (4, 6))}
    graphs |= {path.stem: read_model(path) for path in options.models}
    print(f"| network | {' | '.join(f'{size}²' for size in SIZES_PX)} | spread |")
    print("|---" * (len(SIZES_PX) + 2) + "|")
    for name, graph in graphs.items():
        found = measure(graph, options.rounds)
        spread = max(ns for ns, _ in found) / min(ns for ns, _ in found) - 1
        print(f"| {name}, ns | {' | '.join(f'{ns:.0f}' for ns, _ in found)} | {spread:.1%} |")
        print(f"| bytes | {' | '.join(f'{size:.1f}' for _, size in found)} | |")


if __name__ == "__main__":
    main()
