"""``cost --fpga``: what the Verilog design takes, by formula and, if asked, by Yosys; its frame rate and energy."""

from __future__ import annotations

from dataclasses import asdict

from quantunet.backends.verilog.estimate import energies, estimate
from quantunet.backends.verilog.project import plan_for
from quantunet.backends.verilog.synthesize import synthesize
from quantunet.cli.app import console, print_json, print_table
from quantunet.energy import Energy
from quantunet.errors import UserError
from quantunet.fpga_cost import PARTS, Resources
from quantunet.ir.graph import IntegerGraph


def show_fpga_cost(
    graph: IntegerGraph,
    size_px: tuple[int, int],
    part: str,
    fps: float | None,
    clock_mhz: float,
    dsp_tables: float | None,
    with_yosys: bool,
    json_output: bool,
) -> None:
    """Print the table.

    Raises:
        UserError: if the part is unknown, or no design reaches ``fps``.
        ToolMissing: if Yosys is asked for and absent.
    """
    if part not in PARTS:
        raise UserError(f"--fpga {part!r} is unknown: name one of {', '.join(PARTS)}")
    options = {
        key: f"{value:.9g}"
        for key, value in (("clock_mhz", clock_mhz), ("fps", fps), ("dsp_tables", dsp_tables))
        if value is not None
    }
    plan = plan_for(graph, *size_px, options)
    found, energy = estimate(plan), energies(plan)
    family = "xcup" if part.startswith("xczu") else "xc7"
    measured = synthesize(plan, family).by_node if with_yosys else {}
    frames = clock_mhz * 1e6 / plan.clocks_per_frame
    whole, joules = sum(found.values(), Resources()), sum(energy.values(), Energy(0, 0, 0))
    (low, high), (least_mw, most_mw) = joules.range_uj, joules.power_mw(frames)
    if json_output:
        print_json(
            {
                "image": list(size_px), "part": part, "available": asdict(PARTS[part]),
                "clocks_per_frame": plan.clocks_per_frame, "frames_per_second": frames, "estimate": asdict(whole),
                "nodes": [
                    {"name": name, "clocks": plan.clocks.get(name)} | asdict(each) for name, each in found.items()
                ],
                "yosys": {name: asdict(each) for name, each in measured.items()},
                "energy_uj": [low, high], "power_mw": [least_mw, most_mw],
            }
        )  # fmt: skip
        return
    rows = []
    for name, each in found.items():
        cells = [
            name,
            f"{plan.clocks[name]:,}" if name in plan.clocks else "",
            f"{each.lut:,.0f}",
            f"{each.bram18:.0f}",
            f"{each.dsp:.0f}",
        ]
        if measured:
            yosys = measured[name]
            cells += [f"{yosys.lut:,.0f}", f"{yosys.bram18:.0f}", f"{yosys.dsp:.0f}"]
        rows.append([*cells, f"{sum(energy[name].range_uj) / 2:.1f}" if name in energy else ""])
    by_yosys = ["LUT, Yosys", "RAM18, Yosys", "DSP, Yosys"] if measured else []
    columns = ["node", "clocks a frame", "LUT", "RAM18", "DSP", *by_yosys, "energy µJ"]
    print_table(f"{size_px[0]}x{size_px[1]} image on {part}, estimates", columns, rows)
    share = PARTS[part]
    console.print(
        f"{plan.clocks_per_frame:,} clocks a frame: {frames:,.1f} frames/s at {clock_mhz:g} MHz, if placing and "
        f"routing reach it\n{whole.lut:,.0f} LUT ({100 * whole.lut / share.lut:.0f} %), {whole.bram18:.0f} RAM18 "
        f"({100 * whole.bram18 / share.bram18:.0f} %), {whole.dsp:.0f} DSP"
    )
    if measured:
        total = sum(measured.values(), Resources())
        error = 100 * (whole.lut / total.lut - 1)
        console.print(
            f"Yosys: {total.lut:,.0f} LUT, {total.bram18:.0f} RAM18, {total.dsp:.0f} DSP; the estimate of LUTs is "
            f"{error:+.1f} % off"
        )
    console.print(
        f"energy, estimated for 45 nm (Horowitz, ISSCC 2014), not for this part: {low:,.0f} to {high:,.0f} µJ a frame, "
        f"{least_mw:,.0f} to {most_mw:,.0f} mW at this rate"
    )
