"""The formulas for convolutions against Yosys: layers synthesized, the factors fitted on some, the error on the rest.

    python benchmarks/fpga.py --run runs/isbi_em_small_s0 --fps 200 400 --graphs 8 --cache synthesized

Layers are those of the learned model, of its uniform 8-bit twin and of random graphs, equal ones counted once; what
the folder of ``--cache`` holds is not synthesized again. Every second layer is fitted on, the others judge.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from random_graphs import random_codes, random_graph
from verilog_twin import uniform_twin

from quantunet import fpga_cost
from quantunet.backends.verilog.estimate import conv_shape, folding_cost
from quantunet.backends.verilog.plan import Plan, make_plan
from quantunet.backends.verilog.project import plan_for
from quantunet.backends.verilog.synthesize import synthesize
from quantunet.fpga_cost import ConvShape, Resources
from quantunet.integer_model import IntegerModel


@dataclass(frozen=True)
class Row:
    """A convolution: its name, what the formulas see of it, what Yosys makes of it."""

    layer: str
    shape: ConvShape
    yosys: Resources


def designs(options: argparse.Namespace) -> list[tuple[str, Plan]]:
    """Every design whose convolutions count, with its name."""
    found: list[tuple[str, Plan]] = []
    height, width = options.size
    for run in options.run:
        graph = IntegerModel.load(run).graph
        for name, each in (("learned", graph), ("twin", uniform_twin(graph))):
            for fps in options.fps:
                found.append((f"{run.name} {name} {fps:g}", plan_for(each, height, width, {"fps": f"{fps:g}"})))
    for seed in range(options.graphs):
        graph = random_graph(seed, extended=seed % 2 == 1)
        height, width = random_codes(graph, seed)[0].shape[1:]
        clocks = int(np.exp(np.random.default_rng(seed).uniform(np.log(2000), np.log(40_000))))
        found.append((f"random {seed}", make_plan(graph, height, width, clocks, folding_cost)))
    return found


def measure(name: str, plan: Plan, known: dict[ConvShape, Row], family: str, cache: Path) -> None:
    """Synthesize the convolutions of a design and add those that are not known."""
    for node, weighted in plan.weighted.items():
        shape = conv_shape(plan, node, weighted)
        if shape not in known:
            cells = synthesize(plan, family, nodes=[node], cache=cache).by_node[node]
            known[shape] = Row(f"{name} {node}", shape, cells)
            print(f"{name} {node}: {cells}", file=sys.stderr, flush=True)


def fitted(rows: list[Row]) -> dict[str, float]:
    """Factors of the terms, none below 0, with the least squared relative error of tables."""
    names = list(fpga_cost.conv_terms(rows[0].shape))
    terms = np.array([[fpga_cost.conv_terms(row.shape)[name] for name in names] for row in rows])
    luts = np.array([row.yosys.lut for row in rows])
    factors = nnls(terms / luts[:, None], np.ones(len(rows)))[0]
    return dict(zip(names, (float(factor) for factor in factors), strict=True))


def errors(rows: list[Row], factors: dict[str, float]) -> np.ndarray:
    """Relative error of tables by row."""
    found = []
    for row in rows:
        tables = sum(factors[name] * value for name, value in fpga_cost.conv_terms(row.shape).items())
        found.append(tables / row.yosys.lut - 1)
    return np.array(found)


def main() -> None:
    """Synthesize, fit, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, action="append", default=[])
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128))
    parser.add_argument("--fps", type=float, nargs="+", default=[200.0])
    parser.add_argument("--graphs", type=int, default=0)
    parser.add_argument("--family", default="xc7")
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    known: dict[ConvShape, Row] = {}
    for name, plan in designs(options):
        measure(name, plan, known, options.family, options.cache)
    rows = list(known.values())
    fit, judge = rows[0::2], rows[1::2]
    factors = fitted(fit)
    print(f"fitted on {len(fit)} layers: " + ", ".join(f"{name} {value:.2f}" for name, value in factors.items()))
    for name, used in (("these factors", factors), ("the factors of fpga_cost", fpga_cost.FACTORS)):
        for part, which in (("fitted", fit), ("not fitted", judge)):
            found = errors(which, used)
            luts = np.array([row.yosys.lut for row in which])
            print(
                f"{name}, {len(which)} layers {part}: mean error {100 * np.abs(found).mean():.1f} %, largest "
                f"{100 * np.abs(found).max():.1f} %, sum {100 * ((1 + found) @ luts / luts.sum() - 1):+.1f} %"
            )
    for row, error in zip(rows, errors(rows, fpga_cost.FACTORS), strict=True):
        print(f"  {row.layer}: {row.yosys.lut:.0f} tables, {100 * error:+.1f} %")


if __name__ == "__main__":
    main()
