"""Fake-quantized network in float64 = interpreter = C, in every tensor, on random networks of random widths."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from random_networks import random_network

from quantunet.backends.c.plan import SMALL
from quantunet.backends.c.runner import build_engines, has_compiler
from quantunet.fake_quant_proof import compare_codes
from quantunet.ir import interpreter
from quantunet.ir.graph import ConvTranspose2d, GraphError, IntegerGraph, UpsampleBilinear2d, UpsampleNearest2d
from quantunet.ir.packed_file import decode_model, encode_model
from quantunet.lower import LoweringError, lower

NETWORKS = 220
FLAGS = ("-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all")


def lowered_networks() -> list[tuple[nn.Module, IntegerGraph, np.ndarray]]:
    """The first ``NETWORKS`` seeds whose random logits and accumulators fit int32."""
    cases, refusals, seed = [], [], 0
    while len(cases) < NETWORKS:
        network, images = random_network(seed)
        seed += 1
        try:
            cases.append((network, lower(network, {"seed": seed}), images))
        except (LoweringError, GraphError) as error:
            refusals.append(str(error))
    assert all("int32" in refusal for refusal in refusals), refusals
    assert seed < NETWORKS * 1.2, "random ranges that do not fit int32 are the exception"
    return cases


@torch.no_grad()
def logit_codes(network: nn.Module, image: np.ndarray) -> np.ndarray:
    """Logits (1, c, h, w) as integers on the finest of their channels' steps, from the float64 network."""
    seen = {}
    hook = network.head.register_forward_pre_hook(lambda layer, inputs: seen.update(scale=inputs[0].scale))
    logits = network.double()(torch.from_numpy(image)[None].double())
    hook.remove()
    return (logits / (seen["scale"] * network.head.weight_quantizer.scale).min()).numpy()


def test_training_interpreter_and_c_agree_in_every_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cases = lowered_networks()
    compared = differing = clamped = 0
    kinds, widths, classes = set(), set(), set()
    for network, graph, images in cases:
        count = compare_codes(network, graph, images)
        compared, differing = compared + count.compared, differing + count.differing
        assert count.tensors == len(graph.nodes) - 1, "all but the logits, which are next"
        for image in images:
            codes = interpreter.quantize_input(graph, image)[None]
            limits = graph.input.output
            clamped += int(((codes == limits.q_min) | (codes == limits.q_max)).sum())
            integers = interpreter.trace(graph, codes)["head"]
            expected = logit_codes(network, image)
            compared, differing = compared + expected.size, differing + int((expected != integers).sum())
        kinds |= {type(node) for node in graph.nodes}
        widths |= {int(width) for node in graph.weight_nodes() for width in node.weight_bit_width}
        classes.add(graph.weight_nodes()[-1].weight.shape[0])
        again = decode_model(encode_model(graph))
        codes = np.stack([interpreter.quantize_input(graph, image) for image in images])
        assert np.array_equal(interpreter.run(again, codes), interpreter.run(graph, codes))
        assert again.metadata == graph.metadata
    in_c = c_differences([(graph, images) for _, graph, images in cases]) if has_compiler() else (0, 0)
    with capsys.disabled():
        print(
            f"\n{NETWORKS} random networks: training and interpreter, {compared} codes compared, {differing} differ; "
            f"interpreter and C, {in_c[0]} compared, {in_c[1]} differ"
        )
    assert differing == 0
    assert in_c[1] == 0
    assert compared > 1_000_000
    assert clamped > 10_000
    assert widths == set(range(1, 9))
    assert classes == {1, 2, 3, 4}
    assert {ConvTranspose2d, UpsampleBilinear2d, UpsampleNearest2d} < kinds


def c_differences(cases: list[tuple[IntegerGraph, np.ndarray]]) -> tuple[int, int]:
    """(compared, differing) codes between interpreter and C."""
    engines = build_engines([(graph, *images.shape[2:]) for graph, images in cases], SMALL, FLAGS)
    compared = differing = 0
    for (graph, images), engine in zip(cases, engines, strict=True):
        codes = np.stack([interpreter.quantize_input(graph, image) for image in images])
        expected = interpreter.trace(graph, codes)
        for name, tensor in engine.trace(codes).items():
            compared += tensor.size
            differing += int((tensor != expected[name]).sum())
        mask = engine.run(codes)
        compared, differing = compared + mask.size, differing + int((mask != expected[graph.output.name][:, 0]).sum())
    return compared, differing
