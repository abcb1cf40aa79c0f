"""Proof that no int32 accumulator can overflow, for any input whatever, by exact interval arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from quantunet.arith import Int64, requantize
from quantunet.formats import INT32
from quantunet.ir.graph import (
    Concat,
    Conv2d,
    ConvTranspose2d,
    GraphError,
    Input,
    IntegerGraph,
    Node,
    Requantize,
    Rescale,
    UpsampleBilinear2d,
)


@dataclass(frozen=True)
class Interval:
    """Bounds by channel, both inclusive: arrays of shape (c,)."""

    low: Int64
    high: Int64


@dataclass(frozen=True)
class AccumulatorProof:
    """Bounds of one node's accumulator and of every partial sum on the way to it, in whatever order it is summed."""

    name: str
    low: int
    high: int

    @property
    def bit_width(self) -> int:
        """Smallest signed width that holds the accumulator."""
        return max(max(self.high, 0).bit_length(), max(-self.low - 1, 0).bit_length()) + 1


def prove(graph: IntegerGraph) -> tuple[AccumulatorProof, ...]:
    """Bounds of every accumulator of ``graph``, in node order.

    Each bound holds for all subsets of the products, so for every summation order, and includes the rounding term
    that a right shift adds before it shifts.

    Raises:
        GraphError: if an accumulator could leave int32, naming the node.
    """
    proofs = []
    for node, proof in _proofs(graph, {}):
        if proof is not None:
            if proof.low < INT32.q_min or proof.high > INT32.q_max:
                raise GraphError(
                    f"node {node.name!r}: an accumulator could reach [{proof.low}, {proof.high}], outside int32: "
                    "use fewer bits for its weights or its input"
                )
            proofs.append(proof)
    return tuple(proofs)


def intervals(graph: IntegerGraph) -> dict[str, Interval]:
    """Bounds by channel of every tensor, by name."""
    bounds: dict[str, Interval] = {}
    for _ in _proofs(graph, bounds):
        pass
    return bounds


def product_sums(weight: np.ndarray, x: Interval) -> Interval:
    """Bounds of every partial sum of products by output channel, bias not counted: any product may be absent."""
    # zero padding and partial sums: every product may also be absent
    low = np.minimum(x.low, 0)[None, :, None, None]
    high = np.maximum(x.high, 0)[None, :, None, None]
    weight = weight.astype(np.int64)
    smallest = np.minimum(weight * low, weight * high).sum(axis=(1, 2, 3))
    largest = np.maximum(weight * low, weight * high).sum(axis=(1, 2, 3))
    return Interval(smallest, largest)


def _proofs(graph: IntegerGraph, bounds: dict[str, Interval]) -> Iterator[tuple[Node, AccumulatorProof | None]]:
    """Every node with its proof, if it accumulates; fills ``bounds`` on the way."""
    for node in graph.nodes:
        bounds[node.name], proof = _propagate(node, [bounds[name] for name in node.inputs])
        yield node, proof


def _propagate(node: Node, inputs: list[Interval]) -> tuple[Interval, AccumulatorProof | None]:
    match node:
        case Input():
            limits = np.full(node.channels, 1, np.int64)
            return Interval(limits * node.output.q_min, limits * node.output.q_max), None
        case Conv2d():
            return _weighted(node, inputs[0], node.weight)
        case ConvTranspose2d():
            # each output pixel sees one of the four kernel positions: bound each of them apart
            parts = [
                _weighted(node, inputs[0], node.weight[:, :, i : i + 1, j : j + 1]) for i in (0, 1) for j in (0, 1)
            ]
            low = np.min([interval.low for interval, _ in parts], axis=0)
            high = np.max([interval.high for interval, _ in parts], axis=0)
            bounds = [proof for _, proof in parts]
            return Interval(low, high), AccumulatorProof(
                node.name, min(bound.low for bound in bounds), max(bound.high for bound in bounds)
            )
        case UpsampleBilinear2d():
            sums = Interval(16 * inputs[0].low, 16 * inputs[0].high)
            partial = Interval(np.minimum(sums.low, 0), np.maximum(sums.high, 0))
            return _requantized(node, sums, partial, node.requantize)
        case Rescale():
            return _requantized(node, inputs[0], inputs[0], node.requantize)
        case Concat():
            return Interval(
                np.concatenate([part.low for part in inputs]), np.concatenate([part.high for part in inputs])
            ), None
        case _:
            return inputs[0], None


def _weighted(node: Conv2d | ConvTranspose2d, x: Interval, weight: np.ndarray) -> tuple[Interval, AccumulatorProof]:
    sums, bias = product_sums(weight, x), node.bias.astype(np.int64)
    smallest, largest = sums.low, sums.high
    partial = Interval(np.minimum(bias, 0) + smallest, np.maximum(bias, 0) + largest)
    return _requantized(node, Interval(bias + smallest, bias + largest), partial, node.requantize)


def _requantized(
    node: Node, acc: Interval, partial: Interval, stage: Requantize | None
) -> tuple[Interval, AccumulatorProof]:
    if stage is None:
        return acc, AccumulatorProof(node.name, int(partial.low.min()), int(partial.high.max()))
    half = np.where(stage.shift > 0, 1 << np.maximum(stage.shift.astype(np.int64) - 1, 0), 0)
    rounding = half if stage.is_shift_only else 0  # multipliers are applied in 64 bits
    proof = AccumulatorProof(node.name, int(partial.low.min()), int((partial.high + rounding).max()))
    output = Interval(
        requantize(acc.low, stage.multiplier, stage.shift, stage.output),
        requantize(acc.high, stage.multiplier, stage.shift, stage.output),
    )
    return output, proof
