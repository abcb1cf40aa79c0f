"""Verilog against the interpreter: a trained model on crops of its real test images, and random graphs of every node.

    python benchmarks/verilog_proof.py --run runs/isbi_em_small_s0 --images 20 --size 128 --graphs 100

Needs Verilator; ccache makes the random graphs several times faster. Prints one line a graph, then the sums.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from random_graphs import random_codes, random_graph

from quantunet.backends.verilog.estimate import folding_cost
from quantunet.backends.verilog.plan import make_plan
from quantunet.backends.verilog.project import plan_for
from quantunet.backends.verilog.simulate import VerilogProof, verify_plan
from quantunet.cli.model_data import input_codes
from quantunet.integer_model import IntegerModel


def crops(codes: list[NDArray[np.int64]], size: int, count: int) -> list[NDArray[np.int64]]:
    """``count`` square crops, spread over the images and over each of them."""
    per_image = -(-count // len(codes))
    rng = np.random.default_rng(0)
    found = []
    for image in codes:
        for _ in range(per_image):
            y, x = (int(rng.integers(0, length - size + 1)) for length in image.shape[1:])
            found.append(image[:, y : y + size, x : x + size])
    return found[:count]


def prove_run(run: Path, count: int, size: int, fps: float) -> VerilogProof:
    """The model of ``run`` at ``fps`` frames a second and 100 MHz, two of the images with back-pressure too."""
    model = IntegerModel.load(run)
    images = crops(input_codes(run, None, model, None, at_most=count), size, count)
    plan = plan_for(model.graph, size, size, {"fps": f"{fps:g}"})
    with tempfile.TemporaryDirectory() as name:
        return verify_plan(plan, images, Path(name), stalled_images=2)


def prove_graphs(first: int, count: int) -> None:
    """Random graphs, each at a random number of clocks a frame."""
    compared = differing = 0
    kinds: set[str] = set()
    for seed in range(first, first + count):
        graph = random_graph(seed, extended=seed % 2 == 1)
        images = list(random_codes(graph, seed))
        clocks = int(np.exp(np.random.default_rng(seed).uniform(np.log(1000), np.log(20_000))))
        plan = make_plan(graph, *images[0].shape[1:], clocks, folding_cost)
        with tempfile.TemporaryDirectory() as name:
            proof = verify_plan(plan, images, Path(name), stalled_images=2, optimization="-O0")
        compared, differing = compared + proof.compared, differing + proof.differing
        kinds |= {type(node).__name__ for node in graph.nodes}
        print(f"graph {seed}: {proof.compared} codes, {proof.differing} differ {proof.first_difference}", flush=True)
    print(f"{count} graphs of {len(kinds)} kinds of nodes: {compared:,} codes compared, {differing:,} differ")


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, action="append", default=[])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--fps", type=float, default=200)
    parser.add_argument("--graphs", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    for run in options.run:
        started = time.time()
        proof = prove_run(run, options.images, options.size, options.fps)
        print(f"{run}: {proof} ({time.time() - started:.0f} s)", flush=True)
    if options.graphs:
        prove_graphs(options.first, options.graphs)


if __name__ == "__main__":
    main()
