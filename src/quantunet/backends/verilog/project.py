"""The Verilog project of a graph: library, design, a simulation of recorded images, scripts for Yosys, README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantunet.backends.project_folder import write_project
from quantunet.backends.verilog.bench import bench_text
from quantunet.backends.verilog.estimate import estimate, folding_cost
from quantunet.backends.verilog.fold import PlanError
from quantunet.backends.verilog.plan import Plan, make_plan
from quantunet.backends.verilog.simulate import input_bytes
from quantunet.backends.verilog.synthesize import FAMILIES
from quantunet.backends.verilog.tools import library_files
from quantunet.backends.verilog.top import TOP, design_text, lane_bytes
from quantunet.errors import UserError
from quantunet.fpga_cost import Resources
from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph

PRODUCTS = ("obj/*", "mask.bin", "synth_*.json", "synth_*.txt")
CLOCKS_PER_PIXEL = 30
"""The aim where no frame rate is asked for: 200 frames of 128 x 128 pixels a second at 100 MHz."""
DEFAULT_CLOCK_MHZ = 100.0


def export_verilog(
    graph: IntegerGraph,
    out_dir: str | Path,
    height: int,
    width: int,
    recorded_inputs: Sequence[NDArray[np.integer]] = (),
    options: Mapping[str, str] | None = None,
) -> Path:
    """Write the project for images of ``height`` x ``width`` pixels; all of it or nothing. Returns the folder.

    Raises:
        PlanError: if no design reaches the frame rate.
        UserError: if an option is no number, or ``out_dir`` holds other files.
    """
    plan = plan_for(graph, height, width, options or {})
    return write_project(out_dir, project_files(plan, recorded_inputs), PRODUCTS)


def plan_for(graph: IntegerGraph, height: int, width: int, options: Mapping[str, str]) -> Plan:
    """The design that ``--set`` asks for.

    Raises:
        PlanError: if no design reaches the frame rate.
    """
    clock_mhz = _number("clock_mhz", options.get("clock_mhz", f"{DEFAULT_CLOCK_MHZ:g}"))
    dsp_tables = _number("dsp_tables", options["dsp_tables"]) if "dsp_tables" in options else inf
    cost = partial(folding_cost, dsp_tables=dsp_tables)
    if "fps" not in options:
        return make_plan(graph, height, width, CLOCKS_PER_PIXEL * height * width, cost, dsp_tables)
    fps = _number("fps", options["fps"])
    plan = make_plan(graph, height, width, int(clock_mhz * 1e6 / fps), cost, dsp_tables)
    if plan.clocks_per_frame > clock_mhz * 1e6 / fps:
        most = clock_mhz * 1e6 / plan.clocks_per_frame
        raise PlanError(
            f"--set fps={fps:g}: at {clock_mhz:g} MHz this design takes at most {most:.4g} frames of {height}x{width} "
            "a second: ask for fewer, or name a faster clock with --set clock_mhz=…"
        )
    return plan


def project_files(plan: Plan, recorded_inputs: Sequence[NDArray[np.integer]]) -> dict[str, str | bytes]:
    """Every file of the project, by path.

    Raises:
        UserError: if a recorded input has another size.
    """
    expected = (plan.graph.input.channels, plan.height, plan.width)
    for index, codes in enumerate(recorded_inputs):
        if codes.shape != expected:
            raise UserError(f"recorded input {index} has the shape {codes.shape}, the design takes {expected}")
    masks = [interpreter.run(plan.graph, codes[None])[0].astype(np.uint8).tobytes() for codes in recorded_inputs]
    return {
        **{f"rtl/{name}": text for name, text in library_files().items()},
        "design.v": design_text(plan),
        "main.cpp": bench_text(plan),
        "in.bin": input_bytes(plan, recorded_inputs),
        "expected.bin": b"".join(masks),
        "Makefile": makefile(len(recorded_inputs)),
        "README.md": readme(plan, len(recorded_inputs)),
    }


def makefile(images: int) -> str:
    """``make test`` simulates the recorded images, ``make synth_xc7`` and its like count cells."""
    synths = "".join(
        f"synth_{family}.txt: design.v\n\t$(YOSYS) -q -p 'read_verilog -sv $(RTL) design.v; "
        f"{command} -top {TOP}; tee -o $@ stat'\n\n"
        for family, command in FAMILIES.items()
    )
    return f"""VERILATOR ?= verilator
YOSYS ?= yosys
RTL := $(wildcard rtl/*.v)

.PHONY: all test clean
all: test

obj/simulate: design.v main.cpp $(RTL)
\t$(VERILATOR) --cc --exe --build -O3 -Wno-fatal -Wno-WIDTH -Wno-UNOPTFLAT -Wno-CASEINCOMPLETE --Mdir obj \\
\t  --top-module {TOP} -CFLAGS -O1 $(RTL) design.v main.cpp -o simulate

# Full speed, then with random pauses of the sender and the receiver; prints clocks: altogether, end of each image.
test: obj/simulate
\tobj/simulate {images} 0 256 256 && cmp mask.bin expected.bin
\tobj/simulate {images} 1 150 150 && cmp mask.bin expected.bin
\t@echo equal

{synths}clean:
\trm -rf obj mask.bin synth_*.txt
"""


def readme(plan: Plan, images: int) -> str:
    """What the design is, its ports, and what it takes by formula."""
    found = estimate(plan)
    whole = sum(found.values(), Resources())
    rows = "".join(
        f"| {name} | {plan.clocks.get(name, 0):,} | {cost.lut:,.0f} | {cost.bram18:.0f} |\n"
        for name, cost in found.items()
    )
    graph = plan.graph
    source, mask = plan.streams[graph.input.name], plan.streams[graph.output.name]
    beats = f"{source.beats} beats a pixel, pixels row by row; {plan.lanes} lane(s) of {lane_bytes(plan)} byte(s)"
    return f"""# Streaming design of an integer U-Net

Images of {plan.height} x {plan.width} pixels, {plan.clocks_per_frame:,} clocks a frame at full speed by plan.
`design.v` was generated, `rtl/` is its library. Top module: `{TOP}`; one clock, synchronous reset `rst`, active high.

| port | |
|---|---|
| `s_axis_*` | {beats}, a code each ({graph.input.output}), channels in order |
| `m_axis_*` | one byte a pixel ({mask.bits} bit used): the class; `tlast` with the last of an image |

`make test` simulates {images} recorded images with Verilator and compares the masks with the interpreter's;
`make synth_xc7.txt` (`xcup`, `ecp5`, `ice40`) has Yosys count cells.

## By formula

{whole.lut:,.0f} look-up tables, {whole.bram18:.0f} block RAMs of 18 kbit, {whole.dsp:.0f} multipliers. Not
counted: what place-and-route changes.

| node | clocks a frame | LUT | RAM18 |
|---|---|---|---|
{rows}"""


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise UserError(f"--set {name}={text}: is no positive number")
    return value
