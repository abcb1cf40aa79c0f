"""Which steps the host engine takes. Pure functions.

Concatenations and nearest up-samplings become sources of the convolutions that read them; pooling and the mask are done
while the convolution's rows lie in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quantunet.arith import round_up
from quantunet.backends.c.join import Part
from quantunet.backends.c.pack import tensor_bytes
from quantunet.backends.c.plan import Lifetime, check_size, fused_heads, place
from quantunet.ir.graph import (
    Concat,
    Conv2d,
    ConvTranspose2d,
    GraphError,
    Input,
    IntegerGraph,
    MaxPool2d,
    Node,
    Threshold,
    UpsampleNearest2d,
    WeightNode,
)

MAX_SOURCES = 4
ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class Step:
    """One node, with what is fused into it.

    Args:
        node: what is computed.
        sources: what it reads, of tensors that are stored.
        target: the tensor that it writes, or None where only its pooled form is read.
        pooled: the tensor of a max-pooling that is done on the way.
        is_prepared: whether it runs on prepared weights.
    """

    node: Node
    sources: tuple[Part, ...]
    target: str | None
    pooled: str | None = None
    is_prepared: bool = False


@dataclass(frozen=True)
class HostPlan:
    """Steps, and where each stored tensor lies in the arena; image and mask belong to the caller."""

    steps: tuple[Step, ...]
    offsets: Mapping[str, int]
    arena_bytes: int


def steps(graph: IntegerGraph) -> tuple[Step, ...]:
    """The steps of ``graph``, in order. They do not depend on the image's size."""
    fused, formats = fused_heads(graph), graph.formats()
    readers = graph.readers()
    prepared = {node.name for node in graph.weight_nodes() if _is_prepared(graph, node, node.name in fused)}
    sources = {name: _sources(graph, graph.node(name)) for name in prepared}
    inlined = {
        node.name
        for node in graph.nodes
        if isinstance(node, Concat | UpsampleNearest2d)
        and all(_is_inlined(graph, readers, prepared, sources, node.name, reader) for reader in readers[node.name])
    }
    pools: dict[str, str] = {}
    for node in graph.nodes:
        if (
            isinstance(node, MaxPool2d)
            and node.inputs[0] in prepared
            and node.inputs[0] not in pools
            and formats[node.name].storage_bit_width == 8
        ):
            pools[node.inputs[0]] = node.name
    result = []
    for node in graph.nodes:
        if isinstance(node, Input) or node.name in inlined or node.name in pools.values():
            continue
        if node.name in fused.values() and node.inputs[0] in fused:
            continue
        target: str | None = fused.get(node.name, node.name)
        if node.name in pools and all(reader.name == pools[node.name] for reader in readers[node.name]):
            target = None
        result.append(
            Step(
                node,
                sources[node.name] if node.name in prepared else tuple(map(Part, node.inputs)),
                target,
                pools.get(node.name),
                node.name in prepared,
            )
        )
    return tuple(result)


def plan_host(graph: IntegerGraph, height: int, width: int, keep_all: bool = False) -> HostPlan:
    """The steps of ``graph`` and its memory for images of ``height`` x ``width`` pixels.

    Args:
        keep_all: no tensor takes the place of another, so that all can be read at the end.

    Raises:
        GraphError: if the size does not fit the graph.
    """
    check_size(graph, height, width)
    taken = steps(graph)
    formats, shapes = graph.formats(), graph.shapes(height, width)
    first, last = {graph.input.name: -1}, {graph.output.name: len(taken)}
    for position, step in enumerate(taken):
        for name in filter(None, (step.target, step.pooled)):
            first[name] = position
            last.setdefault(name, position)
        for source in step.sources:
            last[source.name] = position
    outside = {graph.input.name, graph.output.name}
    stored = [
        Lifetime(
            name,
            aligned(tensor_bytes(shapes[name], formats[name])),
            first[name],
            len(taken) if keep_all else last[name],
        )
        for name in first
        if name not in outside
    ]
    offsets, arena_bytes = place(stored)
    return HostPlan(taken, offsets, arena_bytes)


def _is_prepared(graph: IntegerGraph, node: WeightNode, is_fused: bool) -> bool:
    """Whether a kernel of the host engine can run ``node``: bytes in, and bytes or 32 bits out, by right shifts."""
    formats, stage = graph.formats(), node.requantize
    if formats[node.inputs[0]].storage_bit_width > 8:
        return False
    if is_fused and formats[fused_heads(graph)[node.name]].storage_bit_width > 8:
        return False
    return stage is None or (stage.output.storage_bit_width == 8 and bool(np.all(stage.shift >= 0)))


def _sources(graph: IntegerGraph, node: Node) -> tuple[Part, ...]:
    """What a prepared convolution reads: through concatenations and up-samplings, as far as it can."""
    direct = (Part(node.inputs[0]),)
    if isinstance(node, ConvTranspose2d):
        return direct
    expanded = _expanded(graph, node.inputs[0])
    if len(expanded) > MAX_SOURCES or not isinstance(node, Conv2d) or node.weight.shape[2] > 31:
        return direct
    return expanded


def _expanded(graph: IntegerGraph, name: str) -> tuple[Part, ...]:
    node = graph.node(name)
    match node:
        case Concat():
            parts = [_expanded(graph, source) for source in node.inputs]
            return tuple(source for part in parts for source in part)
        case UpsampleNearest2d() if not isinstance(graph.node(node.inputs[0]), Concat | UpsampleNearest2d):
            return (Part(node.inputs[0], True),)
        case _:
            return (Part(name),)


def _is_inlined(
    graph: IntegerGraph,
    readers: Mapping[str, list[Node]],
    prepared: set[str],
    sources: Mapping[str, tuple[Part, ...]],
    name: str,
    reader: Node,
) -> bool:
    """Whether ``reader`` does without the tensor ``name``."""
    if reader.name in prepared:
        return all(source.name != name for source in sources[reader.name])
    return isinstance(reader, Concat) and all(
        _is_inlined(graph, readers, prepared, sources, reader.name, other)
        and all(source.name != name for source in sources.get(other.name, ()))
        for other in readers[reader.name]
    )


def aligned(size_bytes: int) -> int:
    """Bytes in memory, up to the next multiple of a vector."""
    return round_up(size_bytes, ALIGNMENT_BYTES)


def threshold_of(node: Node) -> int:
    """The threshold of a mask, clamped to where every int32 compares as with the threshold itself."""
    if not isinstance(node, Threshold):
        raise GraphError(f"node {node.name!r} is no threshold")
    return max(-(2**31) - 1, min(int(node.threshold), 2**31))
