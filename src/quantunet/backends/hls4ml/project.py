"""The hls4ml project of an integer graph: Vitis backend, io_stream, exact types, FIFOs as deep as the skips need."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hls4ml.model.graph import ModelGraph
from numpy.typing import NDArray

from quantunet.backends.hls4ml import extension as hls4ml_extension
from quantunet.backends.hls4ml.layers import LayerList, layer_list
from quantunet.backends.hls4ml.streams import skip_depths
from quantunet.backends.project_folder import write_project
from quantunet.errors import UserError
from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph

Codes = NDArray[np.integer]
PROJECT = "quantunet"
PART = "xc7z020clg400-1"
TARGET_CYCLES = 1_000_000
"""100 images a second at 100 MHz."""
CHAIN_DEPTH = 16
"""Of FIFOs that no skip connection passes by; one token would do, a few keep neighbours busy."""
PIPELINE_TOKENS = 64
"""Added to the depth of a skip: results that are still in the pipelines of the longer way, an estimate."""


PRODUCTS = (
    "test_bench", "*.log", "*.o", "*.tar.gz", "firmware/*.so", "firmware/weights/*", "tb_data/*",
    *(f"{PROJECT}_prj{'/*' * depth}" for depth in range(1, 9)),
)  # fmt: skip
"""What make, hls4ml, Vitis and exports of other graphs leave in a project."""


def build_model(
    graph: IntegerGraph, size_px: tuple[int, int], out_dir: Path, target_cycles: int, part: str
) -> tuple[ModelGraph, LayerList]:
    """hls4ml's model, ready to be written or compiled into ``out_dir``, and which layer holds which tensor.

    Args:
        size_px: (height, width).
        target_cycles: clock cycles that each convolution may take for an image.

    Raises:
        GraphError: if the size does not fit the graph.
    """
    hls4ml_extension.register()
    found = layer_list(graph, *size_px, target_cycles)
    config = {
        "Backend": hls4ml_extension.BACKEND,
        "ProjectName": PROJECT,
        "OutputDir": str(out_dir),
        "IOType": "io_stream",
        "Part": part,
        "ClockPeriod": 10,
        "ClockUncertainty": "27%",
        "HLSConfig": {
            "Model": {"Precision": {"default": "fixed<32,32>"}, "ReuseFactor": 1, "Strategy": "latency"},
            "LayerName": found.settings,
        },
        "WriterConfig": {"Namespace": None, "WriteWeightsTxt": True, "WriteTar": False, "TBOutputStream": "both"},
    }
    with _silenced():
        model = ModelGraph.from_layer_list(config, found.layers)
    _set_depths(model, found, skip_depths(graph, *size_px))
    return model, found


def _set_depths(model: ModelGraph, found: LayerList, depths: dict[tuple[str, str], int]) -> None:
    for layer in model.get_layers():
        for variable in layer.get_variables():
            variable.pragma = ("stream", CHAIN_DEPTH)
    for name, (tensors, concat) in found.joins.items():
        join = model.graph[name]
        for tensor, source in zip(tensors, join.inputs, strict=True):
            if tensor != concat:  # a join of three has its first two joined before
                join.get_input_variable(source).pragma = ("stream", fifo_depth(depths[tensor, concat]))


def fifo_depth(needed: int) -> int:
    """What is written for a FIFO into a join that must hold ``needed`` tokens."""
    return needed + PIPELINE_TOKENS if needed > 1 else CHAIN_DEPTH


def export_hls4ml(
    graph: IntegerGraph,
    out_dir: Path,
    size_px: tuple[int, int],
    recorded: Sequence[Codes] = (),
    target_cycles: int = TARGET_CYCLES,
    part: str = PART,
) -> Path:
    """Write the project; all of it or nothing. Returns its path.

    Args:
        recorded: input codes (c, h, w), for the project's own test bench beside the interpreter's masks.

    Raises:
        UserError: if ``out_dir`` holds other files.
        GraphError: if the size does not fit the graph.
    """
    with tempfile.TemporaryDirectory(prefix="quantunet-hls4ml-") as name:
        work = Path(name) / "project"
        model, _ = build_model(graph, size_px, work, target_cycles, part)
        with _silenced():
            model.write()
        _write_recorded(graph, work / "tb_data", recorded)
        files: dict[str, str | bytes] = {
            path.relative_to(work).as_posix(): path.read_bytes().replace(str(work).encode(), b".")
            for path in sorted(work.rglob("*"))
            if path.is_file()
        }
    files |= {"Makefile": _MAKEFILE, "README.md": _readme(graph, size_px, target_cycles, part, len(recorded))}
    return write_project(out_dir, files, PRODUCTS)


def simulate(
    graph: IntegerGraph,
    images: Sequence[Codes],
    work: Path,
    optimisation: str = "-O1",
    target_cycles: int = TARGET_CYCLES,
) -> dict[str, NDArray[Any]]:
    """What the C simulation, compiled by g++ in ``work``, writes for images (c, h, w) of one size.

    Args:
        optimisation: of g++; -O3, hls4ml's own, compiles for longer and runs faster.

    Returns:
        by name of the graph's node, (n, c, h, w).

    Raises:
        UserError: if there is no g++.
        GraphError: if the size does not fit the graph.
    """
    if shutil.which("g++") is None:
        raise UserError("g++ is not on the path: install g++ for the C simulation")
    model, found = build_model(graph, (images[0].shape[1], images[0].shape[2]), work, target_cycles, PART)
    write_all = model.write

    def write() -> None:
        write_all()
        script = work / "build_lib.sh"
        script.write_text(script.read_text().replace("-O3", optimisation))

    model.write = write
    pixels = np.ascontiguousarray(np.stack(list(images)).transpose(0, 2, 3, 1).astype(np.float64))
    with _silenced():
        mask, traced = model.trace(pixels)
    traced[found.layer_of[graph.output.name]] = np.asarray(mask).reshape(-1, *model.get_output_variables()[0].shape)
    return {node.name: traced[found.layer_of[node.name]].transpose(0, 3, 1, 2) for node in graph.nodes[1:]}


def _write_recorded(graph: IntegerGraph, folder: Path, recorded: Sequence[Codes]) -> None:
    """The two files that hls4ml's test bench reads: an image a line, and the masks expected."""
    folder.mkdir(exist_ok=True)
    images = [codes.transpose(1, 2, 0).ravel() for codes in recorded]
    masks = [interpreter.run(graph, codes[None]).ravel() for codes in recorded]
    for name, rows in (("tb_input_features.dat", images), ("tb_output_predictions.dat", masks)):
        (folder / name).write_text("".join(" ".join(map(str, row.tolist())) + "\n" for row in rows))


def _readme(graph: IntegerGraph, size_px: tuple[int, int], target_cycles: int, part: str, images: int) -> str:
    source, (height, width) = graph.input, size_px
    rows = [
        f"| `{tensor}` into `{concat}` | {depth} | {fifo_depth(depth)} |"
        for (tensor, concat), depth in skip_depths(graph, height, width).items()
    ]
    return f"""# A segmentation model for hls4ml, written by quantunet

Vitis backend, `io_stream`, part {part}; every type as wide as the integer graph proves. Research use; not a
medical device.

Input: codes of {height}x{width} pixels, {source.channels} channel(s) a pixel, {source.output}:
{source.output.q_min} to {source.output.q_max}. A code is `floor(value / {source.scale!r} + 1/2)` of the normalised
value, saturated. Output: the index of a class for each pixel.

`make test` compiles the C simulation with g++, runs {images} recorded image(s) and compares the masks with the
reference. With Vitis HLS, `vitis_hls -f build_prj.tcl` synthesizes. Each convolution shares its multipliers as far as
{target_cycles:,} cycles an image allow.

| FIFO into a join | pixels it must hold | depth, with an estimate of what is in pipelines |
|---|---|---|
{chr(10).join(rows)}
"""


_MAKEFILE = """# The C simulation: hls4ml's test bench on the recorded images, compared with the masks of the reference.
CXX = g++
CXXFLAGS = -O1 -std=c++17 -w

test: test_bench
\t./test_bench > test_bench.log
\tdiff -q -b tb_data/csim_results.log tb_data/tb_output_predictions.dat
\t@echo "$$(wc -l < tb_data/tb_output_predictions.dat) images, 0 differing"

test_bench: firmware/quantunet.cpp quantunet_test.cpp
\t$(CXX) $(CXXFLAGS) -Ifirmware/ap_types -DWEIGHTS_DIR='"$(CURDIR)/firmware/weights"' $^ -o $@

.PHONY: test
"""


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """hls4ml tells on standard output and in warnings what it does by itself."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
