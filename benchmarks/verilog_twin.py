"""A learned model beside its uniform 8-bit twin: the same network and clocks, 8 bits for every weight and activation.

    python benchmarks/verilog_twin.py runs/isbi_em_s0 --fps 200 --nodes decoders.0.conv1 decoders.1.conv1

Tables and RAMs by formula, and by Yosys for the named nodes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from quantunet.backends.verilog_estimate import estimate
from quantunet.backends.verilog_project import plan_for
from quantunet.backends.verilog_synthesize import synthesize
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


def main() -> None:
    """Print both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--fps", type=float, default=200)
    parser.add_argument("--nodes", nargs="*", default=[])
    options = parser.parse_args()
    graph = IntegerModel.load(options.run).graph
    luts = []
    for name, each in (("learned", graph), ("8-bit twin", uniform_twin(graph))):
        plan = plan_for(each, options.size, options.size, {"fps": f"{options.fps:g}"})
        found = estimate(plan)
        whole = sum(found.values(), Resources())
        luts.append(whole.lut)
        macs = sum(node.folding.inputs * node.folding.filters for node in plan.weighted.values())
        print(f"{name}: {plan.clocks_per_frame:,} clocks a frame, {macs} products a clock, {whole}", flush=True)
        if options.nodes:
            for node, cost in synthesize(plan, nodes=options.nodes).by_node.items():
                print(f"  {node}: Yosys {cost.lut} LUT, {cost.bram18} RAM18; formula {found[node]}", flush=True)
    print(f"ratio of tables by formula: {luts[0] / luts[1]:.3f}")


if __name__ == "__main__":
    main()
