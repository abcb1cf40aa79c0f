"""Our engine: a model file, or the classic U-Net with random weights of given widths. Needs: quantunet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from serve import current_mib, serve

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from classic_graph import classic_graph

from quantunet.backends.host.engine import HostEngine
from quantunet.ir.packed_file import read_model


def main() -> None:
    """Prepare the engine, then serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--base", type=int, default=16)
    parser.add_argument("--levels", type=int, default=5)
    parser.add_argument("--upsampling", default="transposed")
    parser.add_argument("--weight-bits", type=int, default=8)
    parser.add_argument("--activation-bits", type=int, default=8)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--kernel")
    options = parser.parse_args()
    if options.model:
        graph = read_model(options.model)
    else:
        widths = (options.weight_bits, options.activation_bits)
        graph = classic_graph(options.base, options.levels, options.upsampling, *widths)
    limits = graph.input.output
    shape = (1, graph.input.channels, options.size, options.size)
    codes = np.random.default_rng(0).integers(limits.q_min, limits.q_max + 1, shape)
    codes = codes.astype(np.int8 if limits.signed else np.uint8)
    mib_before = current_mib()
    engine = HostEngine(graph, threads=options.threads, kernel=options.kernel)
    serve("quantunet", lambda: engine.run(codes), mib_before)


if __name__ == "__main__":
    main()
