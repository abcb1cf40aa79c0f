"""How many instructions a model takes on a Cortex-M4, by formula: what chooses among plans. Pure functions.

The terms count loops, their factors are fitted to QEMU's exact counts of five U-Nets under six plans each, where whole
models are within 5 % (``benchmarks/mcu_formula.py``). A figure to be stated is measured, not taken from here.
"""

from __future__ import annotations

from collections.abc import Mapping

from quantunet.arith import round_up
from quantunet.backends.c import winograd as c_winograd
from quantunet.backends.c.join import parts_of
from quantunet.backends.c.layout import CModel
from quantunet.backends.c.plan import filter_block
from quantunet.ir.graph import Conv2d, ConvTranspose2d, MaxPool2d, Node, WeightNode

FACTORS: Mapping[str, float] = {
    "code": 1.95,
    "direct pixel": 240.22,
    "direct product": 1.29,
    "direct result": 60.77,
    "direct weight": 14.50,
    "doubled inputs": 283.21,
    "doubled inputs packed": 310.98,
    "doubled weights": 22.84,
    "gathered": 11.01,
    "pair": 796.97,
    "pair doubled": 255.85,
    "pair packed": 167.31,
    "part": 319.82,
    "plain inputs": 587.44,
    "plain inputs packed": 618.48,
    "plain weights": 85.62,
    "pooled": 14.09,
    "pooled packed": 27.86,
    "pooled pixel": 190.41,
    "weight": 16.93,
    "products": 1.00,
}
"""Instructions of one of each."""


def instructions(model: CModel) -> float:
    """Of one image, all nodes together."""
    return sum(node_instructions(model, node) for node in model.stored_nodes)


def node_instructions(model: CModel, node: Node) -> float:
    """Of the node whose tensor is stored: of a mask, with the convolution that is run as part of it."""
    return sum(FACTORS[name] * count for name, count in node_terms(model, node).items())


def node_terms(model: CModel, node: Node) -> dict[str, float]:
    """How often the loops of ``node`` run, by their names in ``FACTORS``."""
    channels, height, width = model.shapes[node.name]
    calls = -(-height // model.plan.by_rows.bands[node.name]) if model.plan.by_rows and node.inputs else 1
    kernel = model.runs_as.get(node.name, node)
    if kernel.name in model.plan.by_winograd and isinstance(kernel, Conv2d):
        return _winograd_terms(model, kernel, calls, height, width)
    if isinstance(kernel, Conv2d | ConvTranspose2d):
        return _direct_terms(model, kernel, calls, height * width)
    codes = channels * height * width
    if isinstance(kernel, MaxPool2d):
        return {
            "pooled packed" if kernel.inputs[0] in model.plan.packed else "pooled": codes,
            "pooled pixel": height * width,
        }
    return {"code": codes if kernel.inputs else 0}


def _winograd_terms(model: CModel, node: Conv2d, calls: int, height: int, width: int) -> dict[str, float]:
    channels, parts = model.graph.channels(), parts_of(node, model.plan.joins)
    fours = c_winograd.Fours.of(parts, channels)
    filters = node.weight.shape[0]
    pairs, tiles = -(-filters // 2), -(-height // 2) * -(-width // 4)
    blocks = -(-filters // fours.filter_block(node, model.tiling.winograd_bytes))

    def loop(count: int) -> float:  # see qn_lanes.h: 11 instructions, and 2 of the loop, which is unrolled four times
        return count * (11.5 if count % 4 == 0 else 13)

    terms = {
        "weight": calls * filters * 9 * node.weight.shape[1],
        "plain weights": calls * 2 * pairs * fours.plain,
        "doubled weights": calls * 2 * pairs * fours.doubled,
        "part": tiles * blocks * len(parts),
        "products": tiles * pairs * (16 * loop(fours.plain) + 9 * loop(fours.doubled)),
        "pair": tiles * pairs,
        "pair doubled": tiles * pairs * (fours.doubled > 0),
        "pair packed": tiles * pairs * (node.name in model.plan.packed),
    }
    for part in parts:
        kind = (
            f"{'doubled' if part.is_doubled else 'plain'} inputs{' packed' if part.name in model.plan.packed else ''}"
        )
        terms[kind] = terms.get(kind, 0) + tiles * blocks * -(-channels[part.name] // 4)
    return terms


def _direct_terms(model: CModel, node: WeightNode, calls: int, pixels: int) -> dict[str, float]:
    is_fused = any(node is fused for fused in model.runs_as.values())
    filters, length = node.weight.shape[0], node.weight[0].size
    blocks = -(-filters // filter_block(node, is_fused, model.tiling))
    return {
        "direct weight": calls * filters * length,
        "gathered": blocks * pixels * length,
        "direct product": pixels * round_up(filters, 4) * round_up(length, 4),
        "direct result": pixels * filters,
        "direct pixel": pixels * blocks,
    }
