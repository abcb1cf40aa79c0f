"""What Yosys makes of a design: look-up tables, flip-flops, block RAMs and multipliers, node by node."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from pathlib import Path

from quantunet.atomic_file import write_atomically
from quantunet.backends.verilog.nodes import module_name, node_module
from quantunet.backends.verilog.plan import Plan
from quantunet.backends.verilog.tools import find_yosys, library_files, run_tool
from quantunet.backends.verilog.top import TOP, design_text
from quantunet.errors import UserError
from quantunet.fpga_cost import Resources

FAMILIES = {
    "xc7": "synth_xilinx -family xc7 -noiopad -noclkbuf -flatten",
    "xcup": "synth_xilinx -family xcup -noiopad -noclkbuf -flatten",
    "ecp5": "synth_ecp5",
    "ice40": "synth_ice40",
}
"""Synthesis command by family: Xilinx 7 series, UltraScale+, Lattice ECP5 and iCE40."""
WITHOUT_DSP = {"xc7": "-nodsp", "xcup": "-nodsp", "ecp5": "-nodsp", "ice40": ""}
WITH_DSP = {"xc7": "", "xcup": "", "ecp5": "", "ice40": "-dsp"}

# Cells that take look-up tables, how many each: Xilinx's memories in tables take as many as their ports need. An
# inverter in front of a carry chain takes one too.
LUT_CELLS = {
    **{f"LUT{inputs}": 1 for inputs in range(1, 7)},
    "INV": 1, "SRL16E": 1, "SRLC16E": 1, "SRLC32E": 1,
    "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4,
    "RAM16X1D": 2, "RAM256X1D": 8, "RAM32X1S": 1, "RAM64X1S": 1,
    "LUT4_ECP5": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4, "TRELLIS_COMB": 1, "SB_LUT4": 1,
}  # fmt: skip
FF_CELLS = ("FDRE", "FDSE", "FDCE", "FDPE", "TRELLIS_FF", "SB_DFF", "FDRE_1")
RAM18_CELLS = {"RAMB18E1": 1, "RAMB36E1": 2, "RAMB18E2": 1, "RAMB36E2": 2, "DP16KD": 1, "PDPW16KD": 1, "SB_RAM40_4K": 1}
DSP_CELLS = ("DSP48E1", "DSP48E2", "MULT18X18D", "SB_MAC16")


@dataclass(frozen=True)
class Synthesis:
    """Resources of every module, by node name; the queues of skips count to the tensor that they keep."""

    family: str
    by_node: Mapping[str, Resources]

    @property
    def total(self) -> Resources:
        """All modules together, forks and counters of the top not counted."""
        return sum(self.by_node.values(), Resources())


def synthesize(
    plan: Plan, family: str = "xc7", nodes: Iterable[str] | None = None, cache: Path | None = None
) -> Synthesis:
    """Every node's module on its own, and the queues of skips; of ``nodes`` alone where given.

    Args:
        cache: a folder that keeps what was counted before, by the hash of all that Yosys reads.

    Raises:
        ToolMissing: if there is no Yosys.
        UserError: if the family is unknown.
    """
    wanted, dsp = None if nodes is None else set(nodes), plan.dsp_tables < inf
    by_node: dict[str, Resources] = {}
    with tempfile.TemporaryDirectory(prefix="quantunet-yosys-") as name:
        folder = Path(name)
        for node in plan.graph.nodes[1:]:
            if wanted is None or node.name in wanted:
                by_node[node.name] = _run(
                    folder, node_module(plan, node), module_name(plan, node), family, dsp, cache=cache
                )
        for (tensor, reader), depth in plan.skips.items():
            if depth and (wanted is None or tensor in wanted):
                bits = plan.streams[tensor].bits * plan.lanes
                before = f"chparam -set BITS {bits} -set DEPTH {depth} qn_fifo; "
                by_node[f"{tensor} → {reader}"] = _run(folder, "", "qn_fifo", family, dsp, before, cache)
    return Synthesis(family, by_node)


def synthesize_top(plan: Plan, family: str = "xc7") -> Resources:
    """The whole design in one run, forks and counters included."""
    with tempfile.TemporaryDirectory(prefix="quantunet-yosys-") as name:
        return _run(Path(name), design_text(plan), TOP, family, plan.dsp_tables < inf)


def _run(
    folder: Path, text: str, top: str, family: str, dsp: bool, before: str = "", cache: Path | None = None
) -> Resources:
    if family not in FAMILIES:
        raise UserError(f"family {family!r} is unknown: name one of {', '.join(FAMILIES)}")
    for file, content in library_files().items():
        (folder / file).write_text(content, encoding="utf-8")
    (folder / "node.v").write_text(text, encoding="utf-8")
    sources = " ".join([*library_files(), *(["node.v"] if text else [])])
    synth = f"{FAMILIES[family]} {(WITH_DSP if dsp else WITHOUT_DSP)[family]} -top {top}"
    script = f"read_verilog -sv {sources}; {before}{synth}; tee -o stat.json stat -json"
    kept = None
    if cache is not None:
        kept = cache / f"{sha256(repr((script, library_files(), text)).encode()).hexdigest()}.json"
        if kept.exists():
            return resources_of(json.loads(kept.read_text(encoding="utf-8")))
    run_tool([*find_yosys(), "-q", "-p", script], folder)
    report = (folder / "stat.json").read_text(encoding="utf-8")
    modules = json.loads(report[report.index("{") :])["modules"]
    cells: dict[str, int] = {}
    for found in modules.values():
        for cell, count in found["num_cells_by_type"].items():
            cells[cell] = cells.get(cell, 0) + count
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps(cells).encode())
    return resources_of(cells)


def resources_of(cells: Mapping[str, int]) -> Resources:
    """Count cells: tables (memories in tables and shift registers too), flip-flops, 18-kbit RAMs, multipliers."""
    return Resources(
        lut=sum(count * LUT_CELLS.get(cell, 0) for cell, count in cells.items()),
        ff=sum(count for cell, count in cells.items() if cell.startswith(FF_CELLS)),
        bram18=sum(count * RAM18_CELLS.get(cell, 0) for cell, count in cells.items()),
        dsp=sum(count for cell, count in cells.items() if cell in DSP_CELLS),
    )
