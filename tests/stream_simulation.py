"""A streaming dataflow with bounded FIFOs, token by token: does it run to its end, or block?"""

from __future__ import annotations

from collections.abc import Mapping

from quantunet.backends.hls4ml.streams import input_pixels_needed
from quantunet.ir.graph import IntegerGraph


def runs_to_its_end(
    graph: IntegerGraph, height: int, width: int, depths: Mapping[tuple[str, str], int], other_depth: int = 1
) -> bool:
    """Whether the mask is complete once nothing can move any more.

    A node reads one token of each input together, and writes one token to every reader together, as in hls4ml.

    Args:
        depths: of the FIFO from a tensor to a node, by (tensor, node); all others hold ``other_depth``.
    """
    shapes = graph.shapes(height, width)
    nodes = graph.nodes
    readers = {node.name: [reader.name for reader in nodes if node.name in reader.inputs] for node in nodes}
    fifo = {(source, node.name): 0 for node in nodes for source in node.inputs}
    room = {key: depths.get(key, other_depth) for key in fifo}
    needed = {node.name: input_pixels_needed(node, shapes).tolist() for node in nodes[1:]}
    read, written = dict.fromkeys(readers, 0), dict.fromkeys(readers, 0)
    total = {name: shape[1] * shape[2] for name, shape in shapes.items()}
    moved = True
    while moved:
        moved = False
        for node in nodes:
            name = node.name
            outputs = [(name, reader) for reader in readers[name]]
            inputs = [(source, name) for source in node.inputs]
            while True:
                ready = written[name] < total[name] and (not node.inputs or needed[name][written[name]] <= read[name])
                if ready:
                    if any(fifo[key] >= room[key] for key in outputs):
                        break  # a full FIFO blocks the node, its reading too
                    for key in outputs:
                        fifo[key] += 1
                    written[name] += 1
                elif inputs and read[name] < total[node.inputs[0]] and all(fifo[key] for key in inputs):
                    for key in inputs:
                        fifo[key] -= 1
                    read[name] += 1
                else:
                    break
                moved = True
    return written[graph.output.name] == total[graph.output.name]
