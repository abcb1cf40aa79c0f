"""The host engine equals the interpreter on random graphs, with every kernel: every code of every stored tensor."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from random_graphs import random_codes, random_graph

from quantunet.backends.c.build import has_compiler
from quantunet.backends.host.engine import HostEngine
from quantunet.backends.host.library import kernel_names
from quantunet.ir import interpreter

GRAPHS = 240
pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


def test_every_kernel_equals_the_interpreter_on_random_graphs(capsys: pytest.CaptureFixture[str]) -> None:
    cases = []
    for seed in range(GRAPHS):
        graph = random_graph(seed, extended=seed % 2 == 1)
        codes = random_codes(graph, seed)
        cases.append((graph, codes, interpreter.trace(graph, codes)))
    for kernel in kernel_names():
        compared, differing, generic, prepared = 0, [], 0, 0
        for seed, (graph, codes, expected) in enumerate(cases):
            engine = HostEngine(graph, kernel=kernel, threads=1 + seed % 3)
            generic += sum(name == "generic" for name in engine.kernels.values())
            prepared += sum(name == kernel for name in engine.kernels.values())
            traced = engine.trace(codes)
            for name, tensor in traced.items():
                compared += tensor.size
                if not np.array_equal(tensor, expected[name]):
                    differing.append((seed, name, graph.node(name)))
            assert np.array_equal(engine.run(codes), expected[graph.output.name][:, 0])
        with capsys.disabled():
            print(
                f"\nhost, {kernel}: {GRAPHS} random graphs, {compared} codes compared, {len(differing)} tensors differ"
            )
        assert not differing
        assert compared > 500_000
        assert prepared > (0 if kernel in ("winograd512", "avx2") else generic)
