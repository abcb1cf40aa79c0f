"""Running an integer graph as compiled C from Python, and comparing it with the interpreter."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantunet.backends.c.build import CompilerMissing, accepts, build_library, has_compiler, runtime_files
from quantunet.backends.c.layout import CModel, code_dtype, lay_out, stored_tensors
from quantunet.backends.c.model_source import model_header, model_source, tiling_header
from quantunet.backends.c.plan import FAST, Tiling
from quantunet.backends.c.verify import FloatCheck, Proof, VerificationError, float_free, verify_c
from quantunet.ir.graph import GraphError, IntegerGraph

__all__ = [
    "CEngine",
    "CompilerMissing",
    "FloatCheck",
    "Proof",
    "VerificationError",
    "build_engines",
    "float_free",
    "has_compiler",
    "verify_c",
]

TRACE_FLAG = "-DQN_TRACE=qn_engine_show"

_SHIM = """#include <stddef.h>
#include <stdint.h>
#include <string.h>

void qn_engine_watch(uint8_t **buffers);
void qn_engine_show(int32_t index, size_t offset, const uint8_t *codes, size_t size_bytes);

static uint8_t **watched; /* by node: where a copy of its tensor goes, or NULL; NULL altogether: nobody looks */

void qn_engine_watch(uint8_t **buffers)
{
    watched = buffers;
}

void qn_engine_show(int32_t index, size_t offset, const uint8_t *codes, size_t size_bytes)
{
    if (watched != NULL && watched[index] != NULL) {
        memcpy(watched[index] + offset, codes, size_bytes);
    }
}
"""


class CEngine:
    """A graph compiled for images of ``height`` x ``width`` pixels. Calls from several threads take turns.

    Raises:
        CompilerMissing: if there is no C compiler.
        GraphError: if the size does not fit the graph.
    """

    def __init__(
        self,
        graph: IntegerGraph,
        height: int,
        width: int,
        *,
        tiling: Tiling = FAST,
        model: CModel | None = None,
        library: Path | None = None,
    ) -> None:
        self._model = model or lay_out(graph, height, width, tiling)
        self._graph = graph
        path = library or build_library(_library_files([self._model]), _fast_flags())
        self._library, self._lock = _open_library(str(path))
        self._run = self._library[f"{self._model.prefix}_run"]
        self._run.argtypes, self._run.restype = [ctypes.c_void_p, ctypes.c_void_p], ctypes.c_int
        self._formats = graph.formats()
        self._shapes = graph.shapes(height, width)

    @property
    def arena_bytes(self) -> int:
        """Static memory of the activations; the image and the mask are not in it."""
        return self._model.plan.arena_bytes

    def run(self, codes: NDArray[np.integer]) -> NDArray[np.integer]:
        """The masks (n, h, w) of input codes (n, c, h, w).

        Raises:
            GraphError: if the codes do not fit the graph's input or the engine's size.
        """
        images = self._images(codes)
        masks = np.empty(
            (len(images), *self._shapes[self._graph.output.name][1:]), self._dtype(self._graph.output.name)
        )
        with self._lock:
            for image, mask in zip(images, masks, strict=True):
                self._call(image, mask)
        return masks

    def trace(self, codes: NDArray[np.integer]) -> dict[str, NDArray[np.integer]]:
        """Every tensor that the C code stores, by name, each (n, c, h, w); a head fused with its mask is absent."""
        images = self._images(codes)
        tensors = {}
        for name in stored_tensors(self._model):
            channels, height, width = self._shapes[name]
            tensors[name] = np.empty((len(images), height, width, channels), self._dtype(name))
        pointers = (ctypes.c_void_p * len(self._graph.nodes))()
        with self._lock:
            try:
                self._library.qn_engine_watch(pointers)
                for position, image in enumerate(images):
                    for index, node in enumerate(self._graph.nodes):
                        pointers[index] = tensors[node.name][position].ctypes.data if node.name in tensors else None
                    self._call(image, np.empty_like(tensors[self._graph.output.name][position]))
            finally:
                self._library.qn_engine_watch(None)
        return {name: tensor.transpose(0, 3, 1, 2) for name, tensor in tensors.items()}

    def _call(self, image: NDArray[np.integer], mask: NDArray[np.integer]) -> None:
        status = self._run(image.ctypes.data, mask.ctypes.data)
        if status:
            raise RuntimeError(f"the compiled model returned status {status}")

    def _dtype(self, name: str) -> np.dtype[Any]:
        return code_dtype(self._formats[name])

    def _images(self, codes: NDArray[np.integer]) -> NDArray[np.integer]:
        """Contiguous (n, h, w, c) codes in the input's own type."""
        expected = (self._graph.input.channels, self._model.height, self._model.width)
        limits = self._graph.input.output
        if codes.ndim != 4 or codes.shape[1:] != expected:
            raise GraphError(f"input codes of shape {codes.shape} do not fit (n, {', '.join(map(str, expected))})")
        if codes.size and (codes.min() < limits.q_min or codes.max() > limits.q_max):
            raise GraphError(f"input codes reach {codes.min()}..{codes.max()}, outside the format {limits}")
        return np.ascontiguousarray(codes.transpose(0, 2, 3, 1).astype(self._dtype(self._graph.input.name)))


def build_engines(
    sized_graphs: Sequence[tuple[IntegerGraph, int, int]], tiling: Tiling = FAST, flags: Sequence[str] | None = None
) -> list[CEngine]:
    """Engines of many (graph, height, width), compiled into one library: far faster than one by one."""
    models = [
        lay_out(graph, height, width, tiling, f"m{index}") for index, (graph, height, width) in enumerate(sized_graphs)
    ]
    library = build_library(_library_files(models), _fast_flags() if flags is None else [*flags, TRACE_FLAG])
    return [CEngine(model.graph, model.height, model.width, model=model, library=library) for model in models]


def _fast_flags() -> list[str]:
    native = ["-march=native"] if accepts("-march=native") else []
    return ["-O3", *native, TRACE_FLAG]


def _library_files(models: Sequence[CModel]) -> dict[str, str]:
    files = {**runtime_files(), "qn_tiling.h": tiling_header(models[0].tiling), "engine.c": _SHIM}
    for model in models:
        files[f"{model.prefix}.h"] = model_header(model)
        files[f"{model.prefix}.c"] = model_source(model, f"{model.prefix}.h")
    return files


@cache
def _open_library(path: str) -> tuple[ctypes.CDLL, threading.Lock]:
    """One handle and one lock a file: engines of the same file share its static arena."""
    library = ctypes.CDLL(path)
    library.qn_engine_watch.argtypes, library.qn_engine_watch.restype = [ctypes.c_void_p], None
    return library, threading.Lock()
