"""Does FINN compute what the interpreter does, stage by stage, and what would it build? Exchanged as files.

    make finn-check                                   # drawn-up and random graphs, no data needed
    make finn-check RUN=runs/isbi_em_small_s0               # a model, its 8-bit twin beside it
    python benchmarks/finn_check.py runs/isbi_em_small_s0 --twin --size 128 --cycles 500000

FINN (``finn-plus`` on PyPI) has an environment of its own, ``.venv-finn``, which ``make finn-check`` sets up: its pins
are not ours. Resources are FINN's estimates, without FIFOs. Exit status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from classic_graph import classic_graph
from verilog_twin import uniform_twin

from quantunet.backends.onnx.finn import finn_model
from quantunet.backends.onnx.qonnx import qonnx_model
from quantunet.cli.model_data import input_codes
from quantunet.errors import UserError
from quantunet.formats import INT32
from quantunet.integer_model import IntegerModel
from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph, UpsampleBilinear2d

HERE = Path(__file__).resolve().parent
FINN_PYTHON = HERE.parent / ".venv-finn" / "bin" / "python"
Case = tuple[str, IntegerGraph, list[np.ndarray]]


def main() -> int:
    """A table a model; one line for all random graphs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*", help="run folders or model files; default: built-in graphs")
    parser.add_argument("--size", type=int, default=128, help="height and width of the images of a run")
    parser.add_argument("--images", type=int, default=6, help="images of a run, at the most")
    parser.add_argument("--twin", action="store_true", help="the uniform 8-bit twin of each run too")
    parser.add_argument("--graphs", type=int, default=0, help="random graphs without bilinear up-sampling")
    parser.add_argument("--part", default="xc7z020clg400-1", help="device of Xilinx, for FINN's choice of layers")
    parser.add_argument("--cycles", type=int, default=1_000_000, help="clocks an image of the folded design")
    parser.add_argument("--dialect", choices=("finn", "quant"), default="finn", help="quant: with widths by layer")
    parser.add_argument("--merged-thresholds", action="store_true", help="thresholds within the matrix layers")
    parser.add_argument("--layers", action="store_true", help="resources by layer too")
    arguments = parser.parse_args()
    if not FINN_PYTHON.exists():
        print("skipped: FINN's environment .venv-finn is not there; make finn-check sets it up")
        return 0
    cases = list(_of_runs(arguments) if arguments.runs else _built_in())
    random_cases = list(_random(arguments.graphs))
    with tempfile.TemporaryDirectory(prefix="quantunet-finn-") as name:
        folder = Path(name)
        for index, (_, graph, codes) in enumerate([*cases, *random_cases]):
            write_case(folder / f"{index:04d}", graph, codes, arguments.dialect)
        command = [str(FINN_PYTHON), str(HERE / "finn_env" / "check.py"), str(folder)]
        command += ["--part", arguments.part, "--cycles", str(arguments.cycles)]
        command += ["--merged-thresholds"] if arguments.merged_thresholds else []
        subprocess.run(command, check=True)
        results = [
            json.loads((folder / f"{index:04d}" / "result.json").read_text(encoding="utf-8"))
            for index in range(len(cases) + len(random_cases))
        ]
    for (title, _, _), result in zip(cases, results, strict=False):
        print_case(title, result, arguments.layers)
    if random_cases:
        print_random(random_cases, results[len(cases) :])
    wrong = sum("error" in result or differing(result) > 0 for result in results)
    return int(wrong > 0)


def write_case(folder: Path, graph: IntegerGraph, codes: Sequence[np.ndarray], dialect: str = "finn") -> None:
    """The model, its input codes, and what the interpreter computes: the mask and every tensor of few bits.

    Logits are left out: FINN takes their bias into the threshold, so that they are in no tensor.
    """
    folder.mkdir(parents=True)
    size = codes[0].shape[1:]
    form = finn_model(graph, *size) if dialect == "finn" else qonnx_model(graph, *size, widths="layer")
    (folder / "model.onnx").write_bytes(form.model.SerializeToString())
    images = np.stack(codes)
    traced = interpreter.trace(graph, images)
    formats = graph.formats()
    kept = [node.name for node in graph.nodes[1:-1] if formats[node.name] != INT32]
    tensors = {f"tensor_{index:03d}": traced[name] for index, name in enumerate(kept)}
    mask = traced[graph.output.name].reshape(len(images), 1, *images.shape[2:])
    np.savez_compressed(folder / "recorded.npz", images=images.astype(np.float32), mask=mask, **tensors)


def differing(result: dict[str, Any]) -> int:
    """Pixels and codes that differ, over all stages."""
    return sum(stage["differing_pixels"] + stage["differing_codes"] for stage in result["stages"])


def print_case(title: str, result: dict[str, Any], by_layer: bool) -> None:
    """Stages, what stays with the host, resources."""
    print(f"\n{title}\n{'stage':<24}{'pixels':>10}{'differ':>8}{'codes':>13}{'differ':>8}  operators")
    for stage in result["stages"]:
        operators = ", ".join(f"{count} {name}" for name, count in sorted(stage["operators"].items()))
        print(
            f"{stage['stage']:<24}{stage['pixels']:>10,}{stage['differing_pixels']:>8,}"
            f"{stage['codes']:>13,}{stage['differing_codes']:>8,}  {operators}"
        )
    if "host" in result:
        print(f"not hardware layers: {', '.join(result['host']) or 'none'}")
    for key, label in (("unfolded", "PE = SIMD = 1"), ("folded", "folded")):
        if key in result:
            found, total = result[key], result[key]["total"]
            print(
                f"{label}: {total['lut']:,} LUT, {total['bram18']} BRAM18, {total['dsp']} DSP (FINN's estimate, no "
                f"FIFOs); {found['cycles']:,} clocks an image in the slowest layer"
            )
            for layer in found["layers"] if by_layer else ():
                folding = ", ".join(f"{name} {layer[name]}" for name in ("PE", "SIMD") if name in layer)
                print(
                    f"  {layer['name']:<34}{layer['lut']:>7,} LUT{layer['bram18']:>4} BRAM18{layer['dsp']:>4} DSP"
                    f"{layer['cycles']:>12,} clocks  {folding}"
                )
    if "error" in result:
        print(f"FINN stopped at {result['error']}")


def print_random(cases: Sequence[Case], results: Sequence[dict[str, Any]]) -> None:
    """The sum over all graphs, and a line for each in which something is wrong."""
    pixels = codes = 0
    for (title, _, _), result in zip(cases, results, strict=True):
        pixels += sum(stage["pixels"] for stage in result["stages"])
        codes += sum(stage["codes"] for stage in result["stages"])
        if "error" in result:
            print(f"{title}: FINN stopped at {result['error'].splitlines()[0][:200]}")
        for stage in result["stages"]:
            if stage["differing_pixels"] + stage["differing_codes"]:
                print(
                    f"{title}: {stage['differing_pixels']} pixels, {stage['differing_codes']} codes: {stage['stage']}"
                )
    host = sorted({name for result in results for name in result.get("host", ())})
    stopped, wrong = sum("error" in result for result in results), sum(map(differing, results))
    print(
        f"{len(cases)} random graphs, all stages: {pixels:,} pixels and {codes:,} codes compared, {wrong} differ; "
        f"FINN stopped on {stopped} graphs; not hardware layers: {', '.join(host) or 'none'}"
    )


def _built_in() -> Iterator[Case]:
    for upsampling in ("nearest", "transposed"):
        graph = classic_graph(4, 3, upsampling, 4, 4)
        limits = graph.input.output
        codes = np.random.default_rng(0).integers(limits.q_min, limits.q_max + 1, (2, 1, 32, 32))
        yield f"built-in U-Net, {upsampling} up-sampling, 4 bits", graph, list(codes)


def _of_runs(arguments: argparse.Namespace) -> Iterator[Case]:
    for run in arguments.runs:
        model = IntegerModel.load(run)
        codes = input_codes(run, None, model, (arguments.size, arguments.size), arguments.images)
        yield str(run), model.graph, codes
        if arguments.twin:
            twin = uniform_twin(model.graph)
            more = twin.input.output.bit_width - model.graph.input.output.bit_width
            yield f"{run}, its 8-bit twin", twin, [each << more for each in codes]


def _random(count: int) -> Iterator[Case]:
    """Images of two to four times the size multiple: FINN takes an image of one row or column for one dimension."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from random_graphs import random_graph

    seed = 0
    while count:
        graph, rng = random_graph(seed), np.random.default_rng(seed)
        multiple, limits = graph.size_multiple(), graph.input.output
        size = [multiple * int(factor) for factor in rng.integers(2, 5, 2)]
        codes = rng.integers(limits.q_min, limits.q_max + 1, (2, graph.input.channels, *size))
        codes[1] = rng.choice([limits.q_min, limits.q_max], codes[1].shape)
        if not any(isinstance(node, UpsampleBilinear2d) for node in graph.nodes):
            yield f"random graph {seed}", graph, list(codes)
            count -= 1
        seed += 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
