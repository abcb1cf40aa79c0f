"""Do ONNX and QONNX compute what the interpreter does? Random graphs and real models, every code of every tensor.

Run: python benchmarks/onnx_proof.py [--graphs 300] [--qonnx-graphs 100] [--passes 20] [--runs runs/isbi_em …]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from random_graphs import random_codes, random_graph

from quantunet.backends.onnx.verify import OnnxProof, QonnxProof, verify_onnx, verify_qonnx
from quantunet.cli.model_data import input_codes
from quantunet.integer_model import IntegerModel
from quantunet.ir.graph import IntegerGraph

Case = tuple[IntegerGraph, list[np.ndarray]]


def main() -> None:
    """A line a kind of proof."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=300, help="random graphs in ONNX Runtime")
    parser.add_argument("--qonnx-graphs", type=int, default=100, help="random graphs in qonnx")
    parser.add_argument("--passes", type=int, default=20, help="random graphs after qonnx's passes too (5 s each)")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="run folders with data at hand")
    parser.add_argument("--images", type=int, default=24, help="images of each run, at the most")
    arguments = parser.parse_args()
    report("ONNX, opset 21", random_cases(arguments.graphs), lambda graph, codes: verify_onnx(graph, codes))
    report("ONNX, opset 25", random_cases(arguments.graphs), lambda graph, codes: verify_onnx(graph, codes, 25))
    for widths in ("channel", "layer"):
        report(
            f"QONNX, widths by {widths}",
            random_cases(arguments.qonnx_graphs),
            lambda graph, codes, widths=widths: verify_qonnx(graph, codes, widths, with_passes=False),
        )
    report("QONNX with passes", random_cases(arguments.passes), lambda graph, codes: verify_qonnx(graph, codes[:1]))
    for run in arguments.runs:
        model = IntegerModel.load(run)
        case = (model.graph, list(input_codes(run, None, model, None, at_most=arguments.images)))
        report(f"ONNX, {run.name}", iter([case]), lambda graph, codes: verify_onnx(graph, codes))
        report(f"QONNX, {run.name}", iter([case]), lambda graph, codes: verify_qonnx(graph, codes, with_passes=False))


def random_cases(count: int) -> Iterator[Case]:
    """Graphs of every operation, width 1 to 8, stride and skip; images that reach the ends of the input's range."""
    for seed in range(count):
        graph = random_graph(seed)
        yield graph, list(random_codes(graph, seed))


def report(name: str, cases: Iterator[Case], verify: Callable[..., OnnxProof | QonnxProof]) -> None:
    """Compare, and print what was compared."""
    graphs = images = compared = differing = at_default = pixels = 0
    for graph, codes in cases:
        proof = verify(graph, codes)
        graphs, images = graphs + 1, images + proof.images
        compared, differing = compared + proof.compared, differing + proof.differing
        if isinstance(proof, OnnxProof) and proof.default_level_pixels >= 0:
            at_default, pixels = at_default + proof.default_level_differing, pixels + proof.default_level_pixels
    note = f"; default optimisations: {at_default:,} of {pixels:,} pixels" if pixels else ""
    print(
        f"{name}: {graphs} graphs, {images} images, {compared:,} codes compared, {differing} differ{note}", flush=True
    )


if __name__ == "__main__":
    main()
