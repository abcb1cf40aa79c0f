"""Does hls4ml's C simulation compute what the interpreter does? Random graphs, every code of every tensor.

Each graph is compiled by g++, 10 to 60 s; the run can be cut into parts.
Run: python benchmarks/hls4ml_proof.py [--first 0] [--graphs 100]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from random_graphs import random_codes, random_graph

from quantunet.backends.hls4ml.verify import verify_hls4ml


def main() -> None:
    """A line a graph, and the sum so far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="seed of the first graph")
    parser.add_argument("--graphs", type=int, default=100)
    arguments = parser.parse_args()
    compared = differing = 0
    for seed in range(arguments.first, arguments.first + arguments.graphs):
        graph = random_graph(seed)
        proof = verify_hls4ml(graph, list(random_codes(graph, seed)), "-O0")
        compared, differing = compared + proof.compared, differing + proof.differing
        print(f"graph {seed}: {proof.compared:,} codes, {proof.differing} differ {proof.first_difference}", flush=True)
    print(f"{arguments.graphs} graphs, {compared:,} codes compared, {differing} differ")


if __name__ == "__main__":
    main()
