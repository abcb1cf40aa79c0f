"""The folder of an ONNX or QONNX export: model, recorded images and masks, a script that compares, README."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantunet.backends.onnx.finn import finn_model
from quantunet.backends.onnx.model import onnx_model
from quantunet.backends.onnx.qonnx import Widths, qonnx_model
from quantunet.backends.project_folder import write_project
from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph

Codes = NDArray[np.integer]


def export_onnx(graph: IntegerGraph, out_dir: Path, recorded: Sequence[Codes] = (), opset: int = 21) -> Path:
    """Write the project of ``onnx_model``, for images of any size; all of it or nothing. Returns its path.

    Args:
        recorded: input codes (c, h, w) of one size, kept beside the interpreter's masks.

    Raises:
        UserError: if ``out_dir`` holds other files.
        GraphError: if the graph has no ONNX form.
    """
    model = onnx_model(graph, opset).model
    dtype = np.int8 if graph.input.output.signed else np.uint8
    text = _ONNX_README.format(opset=opset, **_facts(graph))
    return _write(graph, out_dir, model.SerializeToString(), recorded, np.dtype(dtype), _ONNX_TEST, text)


def export_qonnx(
    graph: IntegerGraph,
    out_dir: Path,
    size_px: tuple[int, int],
    recorded: Sequence[Codes] = (),
    widths: Widths = "channel",
    for_finn: bool = False,
) -> Path:
    """Write the project of ``qonnx_model``, for images of (h, w) pixels; all of it or nothing. Returns its path.

    Args:
        for_finn: that of ``finn_model`` instead, which has one width a layer.

    Raises:
        UserError: if ``out_dir`` holds other files, or the size does not fit the graph.
        GraphError: if the graph has no QONNX form.
    """
    model = (finn_model(graph, *size_px) if for_finn else qonnx_model(graph, *size_px, widths)).model
    readme = _FINN_README if for_finn else _QONNX_README
    text = readme.format(height=size_px[0], width=size_px[1], **_facts(graph))
    return _write(graph, out_dir, model.SerializeToString(), recorded, np.dtype(np.float32), _QONNX_TEST, text)


def _write(
    graph: IntegerGraph,
    out_dir: Path,
    model: bytes,
    recorded: Sequence[Codes],
    dtype: np.dtype[np.generic],
    test: str,
    readme: str,
) -> Path:
    buffer = io.BytesIO()
    if len(recorded):
        images = np.stack(list(recorded))
        masks = np.concatenate([interpreter.run(graph, image[None]) for image in images])
        np.savez_compressed(buffer, images=images.astype(dtype), masks=masks)
    files: dict[str, str | bytes] = {"model.onnx": model, "test_model.py": test, "README.md": readme}
    return write_project(out_dir, files | ({"recorded.npz": buffer.getvalue()} if len(recorded) else {}), ["*.npz"])


def _facts(graph: IntegerGraph) -> dict[str, object]:
    limits = graph.input.output
    return {
        "name": graph.input.name,
        "channels": graph.input.channels,
        "format": limits,
        "q_min": limits.q_min,
        "q_max": limits.q_max,
        "scale": repr(graph.input.scale),
        "multiple": graph.size_multiple(),
        "type": "int8" if limits.signed else "uint8",
    }


_ONNX_TEST = '''\
"""Runs the recorded images and counts the pixels that differ from the reference; exit status 1 if one does."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder = Path(__file__).parent
recorded = np.load(folder / "recorded.npz")
options = onnxruntime.SessionOptions()
if "--default-level" not in sys.argv:
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
masks = np.concatenate([session.run(None, {name: image[None]})[0][:, 0] for image in recorded["images"]])
differing = int((masks != recorded["masks"]).sum())
print(f"{len(masks)} images, {masks.size} pixels compared, {differing} differing")
sys.exit(differing != 0)
'''

_QONNX_TEST = '''\
"""Runs the recorded images and counts the pixels that differ from the reference; exit status 1 if one does."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes

onnxruntime.set_default_logger_severity(3)
folder = Path(__file__).parent
recorded = np.load(folder / "recorded.npz")
model = ModelWrapper(str(folder / "model.onnx")).transform(InferShapes())
source, mask = model.graph.input[0].name, model.graph.output[0].name
masks = np.concatenate([execute_onnx(model, {source: image[None]})[mask][:, 0] for image in recorded["images"]])
differing = int((masks != recorded["masks"]).sum())
print(f"{len(masks)} images, {masks.size} pixels compared, {differing} differing")
sys.exit(differing != 0)
'''

_INPUT = """## Input and output

A code is `floor(value / {scale} + 1/2)` of the normalised value, computed in float64 and saturated to
{q_min} to {q_max} ({format}). How images are normalised, and the names of the classes, stand in the model's
metadata as JSON (`quantunet`). Height and width are multiples of {multiple}. The mask holds the index of a class for
each pixel.
"""

_ONNX_README = (
    """# A segmentation model in ONNX, written by quantunet

Integers between QuantizeLinear and DequantizeLinear, opset {opset}. Research use; not a medical device.

| | |
|---|---|
| input `{name}` | {type}, (n, {channels}, h, w): codes, any n, h, w |
| output | int64, (n, 1, h, w) |

`python test_model.py` runs the recorded images in ONNX Runtime with its optimisations off, where every code is equal to
the reference. With `--default-level` they are on: ONNX Runtime may then round otherwise, and pixels may differ.

"""
    + _INPUT
)

_QONNX_README = (
    """# A segmentation model in QONNX, written by quantunet

Integers in float32 tensors, the learned widths in `Quant` nodes. Research use; not a medical device.

| | |
|---|---|
| input `{name}` | float32, (1, {channels}, {height}, {width}): codes |
| output | int64, (1, 1, {height}, {width}) |

`python test_model.py` runs the recorded images in the executor of the qonnx package.

"""
    + _INPUT
)

_FINN_README = (
    """# A segmentation model for FINN, written by quantunet

QONNX with integer weights, integer `MultiThreshold` nodes and the type of every tensor stated. Research use; not a
medical device.

| | |
|---|---|
| input `{name}` | float32, (1, {channels}, {height}, {width}): codes |
| output | (1, 1, {height}, {width}) |

`python test_model.py` runs the recorded images in the executor of the qonnx package. FINN's steps from here to its
hardware layers, in the order that keeps every code, are quantunet's `benchmarks/finn_env/stages.py`.

"""
    + _INPUT
)
