"""Runs FINN over exported cases: after every stage, every code that the interpreter recorded is looked for.

    .venv-finn/bin/python benchmarks/finn_env/check.py build/finn --part xc7z020clg400-1 --cycles 1000000

Each case is a folder with ``model.onnx`` and ``recorded.npz``, as ``benchmarks/finn_check.py`` writes them; the result
goes to ``result.json`` beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from resources import HARDWARE, estimate, fold, hardware_part, specialise, with_folding_of
from stages import stages

CHANNELS_LAST = (0, 2, 3, 1)
Arrays = dict[str, np.ndarray]


def main() -> None:
    """One result a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", default="xc7z020clg400-1")
    parser.add_argument("--cycles", type=int, default=1_000_000, help="of the folded design, an image")
    parser.add_argument("--merged-thresholds", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for case in sorted(path for path in arguments.folder.iterdir() if (path / "model.onnx").exists()):
        result = check(case, arguments)
        (case / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


def check(case: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Counts by stage, layers that stay with the host, estimates; "error" where FINN gave up, and at which stage."""
    with np.load(case / "recorded.npz") as file:
        recorded = dict(file)
    images, mask = recorded.pop("images"), recorded.pop("mask")
    model = ModelWrapper(str(case / "model.onnx"))
    result: dict[str, Any] = {"stages": []}
    stage = ""
    try:
        for stage, change in stages(arguments.merged_thresholds):
            with contextlib.redirect_stdout(io.StringIO()):
                model = change(model)
                result["stages"].append({"stage": stage, **compare(model, images, mask, recorded)})
        result["host"] = [node.op_type for node in model.graph.node if not node.domain.startswith(HARDWARE)]
        stage = "folding"
        with contextlib.redirect_stdout(io.StringIO()):
            unfolded = specialise(hardware_part(model), arguments.part)
            result["unfolded"] = estimate(unfolded, arguments.part)
            folded = fold(unfolded, arguments.cycles)
            result["folded"] = estimate(folded, arguments.part)
            counts = compare(with_folding_of(model, folded), images, mask, recorded)
        result["stages"].append({"stage": stage, **counts})
    except Exception as error:  # FINN's own, of any kind: the case has its answer, the next one follows
        result["error"] = f"{stage}: {type(error).__name__}: {error}"
    return result


def compare(model: ModelWrapper, images: np.ndarray, mask: np.ndarray, recorded: Arrays) -> dict[str, Any]:
    """Pixels of the masks, and codes of inner tensors, compared and differing.

    FINN renames tensors and moves channels last. The partner of a recorded tensor is the one of the same shape, in
    either order of its axes, that differs in the fewest codes; where there is none, all of its codes differ.
    """
    pixels = differing_pixels = codes = differing_codes = 0
    source = model.graph.input[0].name
    for number, image in enumerate(images):
        x = image[None]
        if tuple(model.get_tensor_shape(source)) != x.shape:
            x = x.transpose(CHANNELS_LAST)
        found = execute_onnx(model, {source: x}, return_full_exec_context=True)
        output = found[model.graph.output[0].name]
        pixels, differing_pixels = pixels + mask[number].size, differing_pixels + _differing(output, mask[number])
        by_size: dict[int, list[np.ndarray]] = {}
        for tensor in found.values():
            if isinstance(tensor, np.ndarray) and tensor.ndim == 4:
                by_size.setdefault(tensor.size, []).append(tensor)
        for tensor in recorded.values():
            codes += tensor[number].size
            partners = by_size.get(tensor[number].size, [])
            differing_codes += min([_differing(each, tensor[number]) for each in partners] or [tensor[number].size])
    return {
        "pixels": pixels,
        "differing_pixels": differing_pixels,
        "codes": codes,
        "differing_codes": differing_codes,
        "operators": dict(Counter(node.op_type for node in model.graph.node)),
    }


def _differing(found: np.ndarray, expected: np.ndarray) -> int:
    """``expected`` is (c, h, w); ``found`` has a batch of one, and its channels may be last."""
    orders = [
        order for order in (expected[None], expected[None].transpose(CHANNELS_LAST)) if order.shape == found.shape
    ]
    return min([int(np.count_nonzero(found != order)) for order in orders] or [expected.size])


if __name__ == "__main__":
    main()
