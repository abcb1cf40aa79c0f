"""The proof that hls4ml's C simulation computes what the interpreter does: every code of every tensor."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantunet.backends.hls4ml.project import simulate
from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph


@dataclass(frozen=True)
class Hls4mlProof:
    """What was compared with the interpreter.

    Args:
        tensors: kinds of tensors per image, the image itself not counted.
        compared, differing: codes over all images.
    """

    backend: str
    tensors: int
    compared: int
    differing: int
    images: int
    first_difference: str
    runtime: str

    @property
    def note(self) -> str:
        """What else there is to say, in one line."""
        return f"{self.runtime}, C simulation compiled by g++"


def verify_hls4ml(graph: IntegerGraph, inputs: Iterable[NDArray[np.integer]], optimisation: str = "-O1") -> Hls4mlProof:
    """Compile the C simulation of each image size, run every input, compare every code of every tensor.

    Args:
        inputs: codes (c, h, w); sizes may differ from image to image.
        optimisation: of g++.

    Raises:
        GraphError: if an input does not fit the graph.
    """
    sizes: dict[tuple[int, int], list[NDArray[np.integer]]] = {}
    for codes in inputs:
        sizes.setdefault((codes.shape[1], codes.shape[2]), []).append(codes)
    names: set[str] = set()
    compared = differing = images = 0
    first = ""
    for group in sizes.values():
        with tempfile.TemporaryDirectory(prefix="quantunet-hls4ml-") as work:
            found = simulate(graph, group, Path(work) / "project", optimisation)
        expected = interpreter.trace(graph, np.stack(group))
        images += len(group)
        for name, values in found.items():
            wrong = int(np.count_nonzero(values != expected[name]))
            names.add(name)
            compared, differing = compared + values.size, differing + wrong
            first = first or (name if wrong else "")
    return Hls4mlProof("hls4ml", len(names), compared, differing, images, first, f"hls4ml {version('hls4ml')}")
