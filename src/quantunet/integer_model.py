"""A deployed model for Python: raw image in, mask out, integers in between. Needs no torch.

It runs as compiled C where a compiler is found, else in the NumPy interpreter; both give the same mask.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantunet.backends.c.build import has_compiler
from quantunet.backends.host.engine import HostEngine
from quantunet.data.normalize import Padding, normalize, pad_to_multiple, unpad
from quantunet.data.sample import Sample
from quantunet.errors import UserError
from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph
from quantunet.ir.packed_file import read_model

MODEL_FILE = "model.safetensors"


class IntegerModel:
    """An ``IntegerGraph`` with what its metadata says of the input.

    Args:
        graph: the model; its metadata hold "normalization" and "class_names".
        use_compiler: False for the interpreter; None for C where there is a compiler.
        threads: that one mask is computed by; None for one a processor. The mask does not depend on it, and calls from
            several threads may run side by side.

    Raises:
        UserError: if the metadata lack one of these.
    """

    def __init__(self, graph: IntegerGraph, use_compiler: bool | None = None, threads: int | None = None) -> None:
        missing = [key for key in ("normalization", "class_names") if key not in graph.metadata]
        if missing:
            raise UserError(f"the model file does not say its {missing[0]}: it was not written by quantunet train")
        self.graph = graph
        self.class_names: tuple[str, ...] = tuple(graph.metadata["class_names"])
        self.uses_compiler = has_compiler() if use_compiler is None else use_compiler
        self._engine = (
            HostEngine(graph, threads=threads or len(os.sched_getaffinity(0))) if self.uses_compiler else None
        )

    @classmethod
    def load(cls, path: Path | str, threads: int | None = None) -> IntegerModel:
        """Read a model file, or the one in a run folder.

        Raises:
            UserError: if there is none, or it is damaged.
        """
        path = Path(path)
        if path.is_dir():
            path = path / MODEL_FILE
            if not path.exists():
                raise UserError(
                    f"{path.parent}: holds no {MODEL_FILE}: name a run folder whose training has ended (float runs "
                    "have none), or a model file"
                )
        return cls(read_model(path), threads=threads)

    @property
    def backend(self) -> str:
        """What executes the graph, in words."""
        return "compiled C" if self.uses_compiler else "NumPy interpreter (no C compiler found)"

    def codes(self, image: NDArray[np.float32]) -> tuple[NDArray[np.int64], Padding]:
        """Input codes (c, h, w) of a raw image (c, h, w), normalised and padded; and the padding.

        Raises:
            UserError: if the image has another number of channels than the model, or is not finite.
        """
        expected = self.graph.input.channels
        if len(image) != expected:
            raise UserError(f"the image has {len(image)} channel(s), the model was trained on {expected}")
        normalised = normalize(image, self.graph.metadata["normalization"])
        padded, padding = pad_to_multiple(normalised, self.graph.size_multiple())
        return interpreter.quantize_input(self.graph, padded), padding

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The mask (h, w) of a raw image (c, h, w), of class indices."""
        codes, padding = self.codes(image)
        return np.ascontiguousarray(unpad(self.run(codes), padding))

    def run(self, codes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The mask (h, w) of input codes (c, h, w)."""
        if self._engine is None:
            return interpreter.run(self.graph, codes[None])[0].astype(np.uint8)
        return self._engine.run(codes[None])[0].astype(np.uint8)

    def predict_cases(self, samples: Iterable[Sample]) -> dict[str, NDArray[np.uint8]]:
        """Masks (s, h, w) by case."""
        return stack_by_case(samples, lambda sample: self(sample.image))


def stack_by_case(
    samples: Iterable[Sample], mask_of: Callable[[Sample], NDArray[np.uint8]]
) -> dict[str, NDArray[np.uint8]]:
    """One array (s, h, w) a case, of ``mask_of(sample)`` for its samples in order.

    Raises:
        UserError: if the slices of a case differ in size.
    """
    masks: dict[str, list[NDArray[np.uint8]]] = {}
    for sample in samples:
        masks.setdefault(sample.case_id, []).append(mask_of(sample))
    for case_id, slices in masks.items():
        if len({mask.shape for mask in slices}) > 1:
            raise UserError(f"case {case_id!r}: its slices differ in size: make each picture a case of its own")
    return {case_id: np.stack(slices) for case_id, slices in masks.items()}
