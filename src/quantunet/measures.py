"""What a budget counts, of the integer model: bytes of file, C code and memory, operations, look-up tables, time."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from quantunet.backends.c.build import compile_sources, runtime_files, write_files
from quantunet.backends.c.layout import lay_out
from quantunet.backends.c.model_source import model_header, model_source, tiling_header
from quantunet.backends.c.plan import SMALL, lifetimes, plan
from quantunet.backends.host.latency import HostLatency
from quantunet.backends.verilog.estimate import estimate
from quantunet.backends.verilog.fold import PlanError
from quantunet.backends.verilog.project import plan_for
from quantunet.errors import UserError
from quantunet.ir.graph import IntegerGraph
from quantunet.ir.layer_table import layer_table, totals
from quantunet.ir.packed_file import encode_model

Size = tuple[int, int]


def file_bytes(graph: IntegerGraph) -> int:
    """Length of ``model.safetensors``."""
    return len(encode_model(graph))


def ram_bytes(graph: IntegerGraph, size: Size) -> int:
    """Static memory that the C code declares for an image of ``size`` (h, w): arena and scratch.

    The image and the mask are the caller's.
    """
    memory = plan(graph, *size)
    return memory.arena_bytes + memory.scratch_bytes


def flash_bytes(graph: IntegerGraph, size: Size) -> int:
    """Code and constants of the exported C, runtime and model, compiled for this machine with -Os: text and data.

    Raises:
        CompilerMissing: if there is no C compiler.
        UserError: if there is no ``size`` to read its output.
    """
    model = lay_out(graph, *size, SMALL)
    return _runtime_bytes() + _loaded_bytes({"model.h": model_header(model), "model.c": model_source(model)})


@cache
def _runtime_bytes() -> int:
    return _loaded_bytes({name: text for name, text in runtime_files().items() if name.endswith(".c")})


def _loaded_bytes(sources: Mapping[str, str]) -> int:
    """Text and data of the given C files, compiled beside the runtime's headers."""
    if shutil.which("size") is None:
        raise UserError(
            "the program 'size' is not on the path, which tells the bytes of compiled code: install binutils"
        )
    headers = {name: text for name, text in runtime_files().items() if name.endswith(".h")}
    with tempfile.TemporaryDirectory(prefix="quantunet-flash-") as name:
        folder = Path(name)
        write_files(folder, {**headers, "qn_tiling.h": tiling_header(SMALL), **sources})
        objects = []
        for source in (file for file in sources if file.endswith(".c")):
            objects.append(source.replace(".c", ".o"))
            compile_sources(folder, [source], objects[-1], ["-Os", "-c"])
        table = subprocess.run(["size", *objects], cwd=folder, capture_output=True, text=True, check=True).stdout
    return sum(int(text) + int(data) for text, data, *_ in map(str.split, table.splitlines()[1:]))


def macs(graph: IntegerGraph, size: Size) -> int:
    """Multiply-accumulates of an image of ``size`` (h, w)."""
    return totals(graph, layer_table(graph, *size), *size).macs


def bops(graph: IntegerGraph, size: Size) -> int:
    """Multiply-accumulates times weight bits times activation bits, of an image of ``size`` (h, w)."""
    return totals(graph, layer_table(graph, *size), *size).bops


def latency_ms(graph: IntegerGraph, size: Size) -> float:
    """Milliseconds of the host engine for an image of ``size`` (h, w), one thread, by formula."""
    return HostLatency(graph, *size).ms()


def latency_savings(graph: IntegerGraph, size: Size) -> dict[str, list[tuple[int, float]]]:
    """By layer: numbers of channels without which an image is faster, and the milliseconds saved."""
    return HostLatency(graph, *size).savings()


def lut(graph: IntegerGraph, size: Size, fps: float | None, clock_mhz: float) -> float:
    """Look-up tables, by formula, of the Verilog design for images of ``size`` (h, w).

    Args:
        fps: frames a second at ``clock_mhz``; None: as an export without ``--set fps``, 30 clocks a pixel.

    Raises:
        UserError: if no design reaches ``fps``.
    """
    options = {"clock_mhz": f"{clock_mhz:.9g}"} | ({} if fps is None else {"fps": f"{fps:.9g}"})
    try:
        design = plan_for(graph, *size, options)
    except PlanError as error:
        line = str(error).replace("--set fps=", "fpga.fps ").replace("--set clock_mhz=…", "fpga.clock_mhz")
        raise UserError(f"budget lut: {line}") from None
    return sum(cost.lut for cost in estimate(design).values())


def peak_tensors(graph: IntegerGraph, size: Size) -> dict[str, int]:
    """Bytes of the tensors in the arena at the step at which they take most, by name."""
    memory = plan(graph, *size)
    if memory.by_rows is not None:
        return dict(memory.tensor_bytes)  # rings are there all the time
    outside = {graph.input.name, graph.output.name}
    alive = [tensor for tensor in lifetimes(graph, *size) if tensor.name not in outside]
    steps = [[tensor for tensor in alive if tensor.first <= step <= tensor.last] for step in range(len(graph.nodes))]
    fullest = max(steps, key=lambda tensors: sum(tensor.size_bytes for tensor in tensors))
    return {tensor.name: tensor.size_bytes for tensor in fullest}
