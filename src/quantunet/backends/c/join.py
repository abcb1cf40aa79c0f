"""Which tensors a convolution reads side by side, so that neither their concatenation nor an up-sampled copy is stored.

Winograd's kernel (``c/runtime/qn_winograd_*.c``) gathers its inputs from several tensors, and takes a tensor that is
up-sampled to the nearest pixel as it is: of its 16 transformed inputs only 9 differ from zero. Pure functions.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from quantunet.ir.graph import Concat, Conv2d, IntegerGraph, Node, UpsampleNearest2d


@dataclass(frozen=True)
class Part:
    """One tensor of those that a node reads side by side.

    Args:
        is_doubled: each of its pixels stands for 2x2 of what the node reads.
    """

    name: str
    is_doubled: bool = False


Joins = Mapping[str, tuple[Part, ...]]
"""By name of a tensor that is never stored: what is read in its place."""


def find_joins(graph: IntegerGraph, readers_by_parts: Container[str]) -> Joins:
    """The concatenations and nearest up-samplings that only convolutions named in ``readers_by_parts`` read."""
    formats, joins, readers = graph.formats(), dict[str, tuple[Part, ...]](), graph.readers()

    def reads_parts(node: Node) -> bool:  # tiles begin on even pixels: with one pixel of padding, pairs meet alike
        return isinstance(node, Conv2d) and node.padding == 1 and node.name in readers_by_parts

    for node in reversed(graph.nodes):
        if not isinstance(node, Concat | UpsampleNearest2d) or not readers[node.name]:
            continue
        is_doubled = isinstance(node, UpsampleNearest2d)
        is_joined = all(
            reads_parts(reader) or (is_doubled and isinstance(reader, Concat) and reader.name in joins)
            for reader in readers[node.name]
        )
        storages = {formats[name].c_type for name in (node.name, *node.inputs)}
        if is_joined and len(storages) == 1:
            joins[node.name] = tuple(Part(name, is_doubled) for name in node.inputs)
    return joins


def parts_of(node: Node, joins: Joins) -> tuple[Part, ...]:
    """The stored tensors that ``node`` reads, in the order of its input channels."""
    parts: list[Part] = []
    for name in node.inputs:
        for part in joins.get(name, (Part(name),)):
            (doubled,) = joins.get(part.name, (part,))
            parts.append(doubled)
    return tuple(parts)
