"""Running a graph by rows: a node computes a few rows when another needs them, and rows nobody needs are forgotten.

A tensor is then a ring of the rows that are still to be read. A skip connection keeps as many rows as the deeper levels
lag behind, not the whole image, so memory grows with the width of an image and hardly with its height. Nothing is
computed twice, and the codes are those of the graph run node by node. Pure functions.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from quantunet.backends.c.join import Joins, Part, parts_of
from quantunet.ir.graph import (
    Conv2d,
    ConvTranspose2d,
    IntegerGraph,
    MaxPool2d,
    Node,
    UpsampleBilinear2d,
    UpsampleNearest2d,
)


@dataclass(frozen=True)
class RowPlan:
    """Which node runs when, and how many rows of each tensor are kept.

    Args:
        schedule: positions of nodes; each entry computes the next ``band`` rows of that node, or what is left of them.
        bands: rows that a node computes at a time, by name.
        rows: rows of the ring, by name of the tensor; image and mask, which are the caller's, have all.
    """

    schedule: tuple[int, ...]
    bands: Mapping[str, int]
    rows: Mapping[str, int]


def plan_rows(
    graph: IntegerGraph,
    height: int,
    width: int,
    band_pixels: int,
    fused: Mapping[str, str] | None = None,
    in_pairs: Container[str] = (),
    joins: Joins | None = None,
) -> RowPlan:
    """The schedule that computes every row as late as it can be, for an image of ``height`` x ``width`` pixels.

    Args:
        band_pixels: a node computes as many rows at a time as hold so many pixels: more of them expand the packed
            weights less often and keep more rows.
        fused: convolutions that are run as part of the node they are mapped to, and store nothing.
        in_pairs: nodes that compute two rows at a time, where there are two.
        joins: nodes that are not run at all, since what reads them reads their inputs.
    """
    run = _Run(graph, height, width, band_pixels, dict(fused or {}), in_pairs, joins or {})
    for index in reversed(run.readers):  # the mask, then what the mask has no use for, if there is such
        run.compute(index, run.heights[graph.nodes[index].name])
    return RowPlan(tuple(run.schedule), run.bands, run.rows)


class _Run:
    """The schedule as it is drawn up: how far every node is, and the most rows that a tensor had to hold."""

    def __init__(
        self,
        graph: IntegerGraph,
        height: int,
        width: int,
        band_pixels: int,
        fused: dict[str, str],
        in_pairs: Container[str],
        joins: Joins,
    ) -> None:
        shapes = graph.shapes(height, width)
        self.heights = {name: shape[1] for name, shape in shapes.items()}
        self.nodes = graph.nodes
        runs_as = {mask: graph.node(conv) for conv, mask in fused.items()}
        self.kernel = [runs_as.get(node.name, node) for node in graph.nodes]
        """What computes a tensor: of a fused mask, its convolution."""
        position = {node.name: index for index, node in enumerate(graph.nodes)}
        stored = [index for index, node in enumerate(graph.nodes) if node.name not in fused and node.name not in joins]
        self.sources = [
            [(position[part.name], part) for part in parts_of(kernel, joins)] if index in stored else []
            for index, kernel in enumerate(self.kernel)
        ]
        self.readers: dict[int, list[tuple[int, Part]]] = {index: [] for index in stored}
        for index in stored:
            for source, part in self.sources[index]:
                self.readers[source].append((index, part))
        self.bands = {
            node.name: self._band(kernel, shapes[node.name][1:], band_pixels, node.name in in_pairs)
            for node, kernel in zip(graph.nodes, self.kernel, strict=True)
            if node.inputs
        }
        self.done = [0] * len(graph.nodes)
        self.done[0] = self.heights[graph.input.name]  # the whole image is there
        self.rows = {name: self.heights[name] for name in (graph.input.name, graph.output.name)}
        self.schedule: list[int] = []

    @staticmethod
    def _band(kernel: Node, size: tuple[int, int], band_pixels: int, in_pairs: bool) -> int:
        height, width = size
        rows = min(height, max(1, band_pixels // width))
        if isinstance(kernel, ConvTranspose2d) or (in_pairs and rows < height):
            return rows + rows % 2
        return rows

    def compute(self, index: int, rows: int) -> None:
        """Let node ``index`` run until it has computed ``rows`` rows."""
        name = self.nodes[index].name
        while self.done[index] < rows:
            after = min(self.done[index] + self.bands[name], self.heights[name])
            for source, part in self.sources[index]:
                needed = rows_before(self.kernel[index], after, part)
                self.compute(source, min(needed, self.heights[self.nodes[source].name]))
            self.schedule.append(index)
            self._hold(index, after)
            self.done[index] = after

    def _hold(self, index: int, after: int) -> None:
        """Let the ring be large enough for the rows before ``after`` that some reader has still to read."""
        name = self.nodes[index].name
        if name == self.nodes[-1].name:
            return
        oldest = [
            first_row_read(self.kernel[reader], self.done[reader], part)
            for reader, part in self.readers[index]
            if self.done[reader] < self.heights[self.nodes[reader].name]
        ]
        needed = after - min([max(0, row) for row in oldest], default=self.done[index])
        self.rows[name] = min(self.heights[name], max(self.rows.get(name, 0), needed))


def first_row_read(kernel: Node, row: int, part: Part) -> int:
    """The first row of ``part`` that ``kernel`` reads for row ``row`` and those after it; below 0 is padding."""
    match kernel:
        case Conv2d():
            first = row * kernel.stride - kernel.padding
            return first // 2 if part.is_doubled else first
        case MaxPool2d():
            return 2 * row
        case UpsampleNearest2d() | ConvTranspose2d():
            return row // 2
        case UpsampleBilinear2d():
            return (row + 1) // 2 - 1
        case _:
            return row


def rows_before(kernel: Node, after: int, part: Part) -> int:
    """How many rows of ``part``, from the first, ``kernel`` needs for its rows before ``after``; may exceed them."""
    last = after - 1
    match kernel:
        case Conv2d():
            rows = last * kernel.stride - kernel.padding + kernel.weight.shape[2]
            return (rows + 1) // 2 if part.is_doubled else rows
        case MaxPool2d():
            return 2 * after
        case UpsampleNearest2d() | ConvTranspose2d():
            return last // 2 + 1
        case UpsampleBilinear2d():
            return (last + 1) // 2 + 1
        case _:
            return after
