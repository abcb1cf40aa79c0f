"""A learned model beside its uniform 8-bit twin: the same network and clocks, 8 bits for every weight and activation.

    python benchmarks/verilog_twin.py runs/isbi_em_small_s0 --fps 200 --synthesize --cache synthesized --dsp-tables 55

The twin has the channels that the learned model has; ``--twin RUN`` is another one, such as the same float network with
all channels after ``quantizer.name=uniform`` without training.

Tables, RAMs and multipliers by formula, and by Yosys node by node; without multipliers, and with those that are cheaper
than tables at the price of ``--dsp-tables``. LUT-equivalents are tables and that price for each multiplier.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np

from quantunet.backends.verilog.estimate import estimate
from quantunet.backends.verilog.plan import Plan
from quantunet.backends.verilog.project import plan_for
from quantunet.backends.verilog.synthesize import synthesize
from quantunet.formats import IntFormat
from quantunet.fpga_cost import Resources
from quantunet.integer_model import IntegerModel
from quantunet.ir.graph import Conv2d, Input, IntegerGraph, Node


def uniform_twin(graph: IntegerGraph, bits: int = 8) -> IntegerGraph:
    """The graph with random low bits added to every weight until it has ``bits``, activations and shifts to match."""
    rng, formats = np.random.default_rng(0), graph.formats()
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Input):
            nodes.append(replace(node, output=IntFormat(bits, node.output.signed)))
        elif isinstance(node, Conv2d):
            more = (bits - node.weight_bit_width)[:, None, None, None]
            weight = (node.weight << more) + rng.integers(0, 1 << more, node.weight.shape)
            wider_in = bits - formats[node.inputs[0]].bit_width
            stage, bias = node.requantize, node.bias.astype(np.int64) << (more[:, 0, 0, 0] + wider_in)
            if stage is not None:
                shift = stage.shift + more[:, 0, 0, 0] + wider_in - (bits - stage.output.bit_width)
                stage = replace(stage, shift=shift.astype(np.int32), output=IntFormat(bits, stage.output.signed))
            widths = np.full_like(node.weight_bit_width, bits)
            nodes.append(
                replace(
                    node,
                    weight=weight.astype(np.int32),
                    weight_bit_width=widths,
                    bias=bias.astype(np.int32),
                    requantize=stage,
                )
            )
        else:
            nodes.append(node)
    return IntegerGraph(tuple(nodes), graph.metadata)


def show(name: str, plan: Plan, synthesizes: bool, cache: Path | None) -> list[float]:
    """Print a design; its LUT-equivalents by formula, and by Yosys if asked."""
    formula = estimate(plan)
    found = [sum(formula.values(), Resources())]
    products = sum(node.folding.inputs * node.folding.filters for node in plan.weighted.values())
    print(f"{name}: {plan.clocks_per_frame:,} clocks a frame, {products} products a clock")
    if synthesizes:
        by_node = {}
        for node in [node.name for node in plan.graph.nodes[1:]]:
            by_node |= synthesize(plan, nodes=[node], cache=cache).by_node
        for node, cost in by_node.items():
            print(f"  {node}: {_text(cost)}; by formula {_text(formula[node])}", flush=True)
        found.append(sum(by_node.values(), Resources()))
    for source, whole in zip(("formula", "Yosys"), found, strict=False):
        print(f"  by {source}: {_text(whole)}", flush=True)
    price = 0 if plan.dsp_tables == inf else plan.dsp_tables
    return [whole.lut + price * whole.dsp for whole in found]


def _text(cost: Resources) -> str:
    return f"{cost.lut:,.0f} LUT, {cost.ff:,.0f} FF, {cost.bram18:.0f} RAM18, {cost.dsp:.0f} DSP"


def main() -> None:
    """Print both designs and the ratios, without and with multipliers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--twin", type=Path, help="run or model file to stand beside it")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--fps", type=float, default=200)
    parser.add_argument("--dsp-tables", type=float, nargs="*", default=[])
    parser.add_argument("--synthesize", action="store_true")
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    learned = IntegerModel.load(options.run).graph
    twin = uniform_twin(learned) if options.twin is None else IntegerModel.load(options.twin).graph
    for price in (None, *options.dsp_tables):
        set_options = {"fps": f"{options.fps:g}"} | ({} if price is None else {"dsp_tables": f"{price:g}"})
        kind = "no multipliers" if price is None else f"multipliers at {price:g} tables"
        pairs = []
        for name, graph in (("learned", learned), ("8-bit twin", twin)):
            plan = plan_for(graph, options.size, options.size, set_options)
            pairs.append(show(f"{name}, {kind}", plan, options.synthesize, options.cache))
        for source, ours, other in zip(("formula", "Yosys"), *pairs, strict=False):
            print(f"ratio of LUT-equivalents, {kind}, by {source}: {ours:,.0f} / {other:,.0f} = {ours / other:.3f}")


if __name__ == "__main__":
    main()
