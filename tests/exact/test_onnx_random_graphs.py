"""ONNX and QONNX equal the interpreter on random graphs, and on lowered networks: every code of every tensor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from random_graphs import random_codes, random_graph
from random_networks import random_network

from quantunet.backends.onnx.verify import verify_onnx, verify_qonnx
from quantunet.ir import interpreter
from quantunet.ir.graph import ConvTranspose2d, UpsampleBilinear2d, UpsampleNearest2d
from quantunet.lower import lower

ONNX_GRAPHS, QONNX_GRAPHS, NETWORKS = 120, 10, 10
"""benchmarks/onnx_proof.py runs more."""


def test_onnx_equals_the_interpreter_on_random_graphs(capsys: pytest.CaptureFixture[str]) -> None:
    compared = differing = at_default = pixels = 0
    kinds, widths = set(), set()
    for seed in range(ONNX_GRAPHS):
        graph = random_graph(seed)
        proof = verify_onnx(graph, random_codes(graph, seed), 21 if seed % 2 else 25)
        compared, differing = compared + proof.compared, differing + proof.differing
        at_default, pixels = at_default + proof.default_level_differing, pixels + proof.default_level_pixels
        kinds |= {type(node) for node in graph.nodes}
        widths |= {int(width) for node in graph.weight_nodes() for width in node.weight_bit_width}
    with capsys.disabled():
        print(
            f"\nONNX: {ONNX_GRAPHS} random graphs, {compared} codes compared, {differing} differ "
            f"(default optimisations: {at_default} of {pixels} pixels)"
        )
    assert differing == 0
    assert compared > 1_000_000
    assert widths == set(range(1, 9))
    assert {ConvTranspose2d, UpsampleBilinear2d, UpsampleNearest2d} < kinds
    assert len(kinds) == 10, "Input and nine others"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_qonnx_equals_the_interpreter_on_random_graphs(capsys: pytest.CaptureFixture[str]) -> None:
    compared = differing = 0
    for seed in range(1000, 1000 + QONNX_GRAPHS):
        graph = random_graph(seed)
        widths = "channel" if seed % 2 else "layer"
        proof = verify_qonnx(graph, random_codes(graph, seed), widths, with_passes=False)
        compared, differing = compared + proof.compared, differing + proof.differing
    with capsys.disabled():
        print(f"\nQONNX: {QONNX_GRAPHS} random graphs, {compared} codes compared, {differing} differ")
    assert differing == 0
    assert compared > 50_000


def test_lowered_networks_equal_onnx_at_twice_the_input_range() -> None:
    for seed in range(NETWORKS):
        network, images = random_network(seed)
        with torch.no_grad():
            graph = lower(network)
        assert verify_onnx(graph, interpreter.quantize_input(graph, images)).differing == 0
