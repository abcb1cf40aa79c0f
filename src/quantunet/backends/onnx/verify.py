"""The proof that exported ONNX and QONNX models compute what the interpreter does: every code of every tensor."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from quantunet.backends.onnx.finn import finn_model
from quantunet.backends.onnx.model import onnx_model
from quantunet.backends.onnx.qonnx import Widths, qonnx_model
from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph

onnxruntime.set_default_logger_severity(3)  # qonnx runs each node as a model of its own, with a warning each

Codes = NDArray[np.integer]
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class OnnxProof:
    """What was compared with the interpreter, executed by ONNX Runtime.

    Args:
        tensors: kinds of tensors per image, the image itself not counted.
        compared, differing: codes over all images, with all optimisations off.
        default_level_pixels, default_level_differing: of the masks, with the optimisations that are on by default;
            they are no part of the promise. -1 where the runtime does not load the model at that level.
    """

    backend: str
    tensors: int
    compared: int
    differing: int
    images: int
    first_difference: str
    default_level_pixels: int
    default_level_differing: int
    runtime: str

    @property
    def note(self) -> str:
        """What else there is to say, in one line."""
        if self.default_level_pixels < 0:
            return f"{self.runtime}; at its default optimisations the runtime does not load the model"
        return (
            f"{self.runtime}; at its default optimisations {self.default_level_differing:,} of "
            f"{self.default_level_pixels:,} pixels of the masks differ"
        )


@dataclass(frozen=True)
class QonnxProof:
    """What was compared with the interpreter, executed by the qonnx package.

    Args:
        tensors, compared, differing: as in ``OnnxProof``; the masks after the two passes are among them.
        passes: qonnx's transformations, one after the other, after each of which an image of every size ran again.
    """

    backend: str
    tensors: int
    compared: int
    differing: int
    images: int
    first_difference: str
    passes: tuple[str, ...]
    runtime: str

    @property
    def note(self) -> str:
        """What else there is to say, in one line."""
        return f"{self.runtime}; the masks also {', '.join(self.passes)}" if self.passes else self.runtime


class _Count:
    """Codes compared and differing."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.compared = self.differing = 0
        self.first = ""

    def add(self, name: str, found: NDArray[Any], expected: NDArray[Any]) -> None:
        self.names.add(name)
        wrong = expected.size if found.shape != expected.shape else int(np.count_nonzero(found != expected))
        self.compared, self.differing = self.compared + expected.size, self.differing + wrong
        self.first = self.first or (name if wrong else "")


def verify_onnx(graph: IntegerGraph, inputs: Iterable[Codes], opset: int = 21) -> OnnxProof:
    """Run every input with optimisations off, every tensor an output, and with the default optimisations.

    Args:
        inputs: codes (c, h, w); sizes may differ from image to image.

    Raises:
        GraphError: if an input does not fit the graph, or the graph has no ONNX form.
    """
    traced = onnx_model(graph, opset, trace=True)
    session = onnx_session(traced.model, optimise=False)
    try:
        default: Any = onnx_session(onnx_model(graph, opset).model, optimise=True)
    except Exception:  # the runtime's own exceptions have no common class but this one
        default = None
    counted, at_default, images = _Count(), _Count(), 0
    for codes in inputs:
        expected = interpreter.trace(graph, codes[None])
        image = codes[None].astype(np.int8 if graph.input.output.signed else np.uint8)
        values = session.run(None, {session.get_inputs()[0].name: image})
        found = dict(zip((output.name for output in session.get_outputs()), values, strict=True))
        for node in graph.nodes[1:]:
            counted.add(node.name, np.asarray(found[traced.tensors[node.name]]), expected[node.name])
        images += 1
        if default is not None:
            mask = default.run(None, {default.get_inputs()[0].name: image})[0]
            at_default.add(graph.output.name, np.asarray(mask), expected[graph.output.name])
    return OnnxProof(
        "onnx",
        len(counted.names),
        counted.compared,
        counted.differing,
        images,
        counted.first,
        -1 if default is None else at_default.compared,
        -1 if default is None else at_default.differing,
        f"onnxruntime {onnxruntime.__version__}, opset {opset}, optimisations off",
    )


def onnx_session(model: onnx.ModelProto, optimise: bool) -> onnxruntime.InferenceSession:
    """A session on the processor, of one thread."""
    levels, options = onnxruntime.GraphOptimizationLevel, onnxruntime.SessionOptions()
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def verify_qonnx(
    graph: IntegerGraph,
    inputs: Iterable[Codes],
    widths: Widths = "channel",
    with_passes: bool = True,
    for_finn: bool = False,
) -> QonnxProof:
    """Run every input in the executor of qonnx; the first of each size also after its cleanup and its channels-last.

    Args:
        inputs: codes (c, h, w); sizes may differ from image to image.
        for_finn: the dialect of ``finn_model``, which has one width a layer.
        with_passes: the channels-last pass takes seconds, on large graphs a minute.

    Raises:
        GraphError: as ``verify_onnx``.
    """
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes

    counted, images = _Count(), 0
    wrapped: dict[tuple[int, int], Any] = {}
    tensors: dict[tuple[int, int], Any] = {}
    passes: list[str] = []
    for codes in inputs:
        size = (codes.shape[1], codes.shape[2])
        expected = interpreter.trace(graph, codes[None])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of qonnx, about itself
            is_new = size not in wrapped
            if is_new:
                form = finn_model(graph, *size) if for_finn else qonnx_model(graph, *size, widths)
                wrapped[size], tensors[size] = ModelWrapper(form.model).transform(InferShapes()), form.tensors
            found = _execute(wrapped[size], codes)
            for node in graph.nodes[1:]:
                counted.add(node.name, found[tensors[size][node.name]], expected[node.name])
            for name, model in _transformed(wrapped[size]) if is_new and with_passes else ():
                found = _execute(model, codes)
                counted.add(name, found[model.graph.output[0].name], expected[graph.output.name])
                passes = [*passes, *([] if name in passes else [name])]
        images += 1
    names = counted.names - set(passes)
    return QonnxProof(
        "qonnx",
        len(names),
        counted.compared,
        counted.differing,
        images,
        counted.first,
        tuple(passes),
        f"qonnx {version('qonnx')}",
    )


def _transformed(model: Any) -> Iterator[tuple[str, Any]]:
    """The model after each pass that tools run first of all."""
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.util.cleanup import cleanup_model

    cleaned = cleanup_model(model)
    yield "after cleanup", cleaned
    yield "after channels-last", cleaned.transform(ConvertToChannelsLastAndClean())


def _execute(model: Any, codes: Codes) -> Tensors:
    """Every tensor of one image."""
    from qonnx.core.onnx_exec import execute_onnx

    image = {model.graph.input[0].name: codes[None].astype(np.float32)}
    return execute_onnx(model, image, return_full_exec_context=True)
