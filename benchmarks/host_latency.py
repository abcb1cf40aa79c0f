"""The formula of the host engine's time (``backends/host/latency.py``) against measured times, and its fitted factors.

    python benchmarks/host_latency.py [--rounds 15] [MODEL.safetensors ...]

Factors are fitted to U-Nets of random weights and drawn channels, and tried on others and on models. One thread,
medians of processor time, interleaved. Prints the errors, and the factors to be copied into ``MS``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
from classic_graph import u_net
from scipy.optimize import nnls

from quantunet.backends.host.engine import HostEngine
from quantunet.backends.host.latency import Counts, HostLatency
from quantunet.ir.graph import IntegerGraph
from quantunet.ir.packed_file import read_model

NETWORKS = 64
SIZE = 256
FACTORS = [each.name for each in fields(Counts)]


def drawn_networks() -> dict[str, IntegerGraph]:
    """U-Nets of 3 and 4 levels, 3 to 40 channels at the top, of 4 / 6 and 8 / 8 bits."""
    rng, networks = np.random.default_rng(0), {}
    for k in range(NETWORKS):
        top = int(rng.integers(3, 40))
        channels = [max(3, int(top * 2**level * rng.uniform(0.4, 1.1))) for level in range(3 + k % 2)]
        if k % 3 == 0:  # as a budget of time would have them
            channels = [max(4, count // 8 * 8) for count in channels]
        bits = (8, 8) if k % 4 == 0 else (4, 6)
        upsampling = "transposed" if k % 8 == 1 else "nearest"
        networks[f"{channels} {bits[0]}/{bits[1]} {upsampling}"] = u_net(channels, upsampling, *bits)
    return networks


def measure(networks: dict[str, IntegerGraph], rounds: int) -> dict[str, float]:
    """Milliseconds by name: median of processor time."""
    rng, times = np.random.default_rng(0), {name: [] for name in networks}
    engines = {name: HostEngine(graph, threads=1) for name, graph in networks.items()}
    images = {name: rng.integers(0, 8, (1, graph.input.channels, SIZE, SIZE)) for name, graph in networks.items()}
    for _ in range(rounds):
        for name, engine in engines.items():
            started = time.process_time()
            engine.run(images[name])
            times[name].append(1e3 * (time.process_time() - started))
    return {name: statistics.median(of) for name, of in times.items()}


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    networks = drawn_networks()
    fitted = [name for k, name in enumerate(networks) if k % 5]
    networks |= {model.name: read_model(model) for model in options.models}
    measured = measure(networks, options.rounds)
    counts = {name: HostLatency(graph, SIZE, SIZE).counts() for name, graph in networks.items()}
    rows = {name: np.array([getattr(of, each) for each in FACTORS]) / 1e6 for name, of in counts.items()}
    factors, _ = nnls(np.array([rows[name] / measured[name] for name in fitted]), np.ones(len(fitted)))
    print("| network | in the fit | ms | by the new factors | by MS |")
    print("|---|---|---|---|---|")
    errors: dict[bool, list[float]] = {True: [], False: []}
    for name, graph in networks.items():
        error = float(rows[name] @ factors) / measured[name] - 1
        old = HostLatency(graph, SIZE, SIZE).ms() / measured[name] - 1
        errors[name in fitted].append(abs(error))
        print(f"| {name} | {name in fitted} | {measured[name]:.2f} | {100 * error:+.1f} % | {100 * old:+.1f} % |")
    for is_fitted, what in ((True, "in the fit"), (False, "not in the fit")):
        print(f"{what}: mean {100 * np.mean(errors[is_fitted]):.1f} %, largest {100 * max(errors[is_fitted]):.1f} %")
    print("MS = Counts(" + ", ".join(f"{n}={f:.4g}" for n, f in zip(FACTORS, factors, strict=True)) + ")")


if __name__ == "__main__":
    main()
