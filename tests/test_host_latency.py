"""The formula of the host engine's time: its choice of kernels is the engine's, and time falls with channels."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from quantunet.backends.c.build import has_compiler
from quantunet.backends.host.engine import HostEngine
from quantunet.backends.host.latency import HostLatency
from quantunet.backends.host.library import kernel_names

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from classic_graph import u_net

NETWORKS = [
    ([8, 40, 64], "nearest", 4, 6),
    ([40, 64], "nearest", 4, 6),
    ([48, 80], "nearest", 8, 6),
    ([36, 50], "transposed", 4, 6),
    ([32, 64], "nearest", 4, 8),
]


@pytest.mark.skipif(not has_compiler() or "winograd512" not in kernel_names(), reason="no AVX-512 VNNI here")
@pytest.mark.parametrize("network", NETWORKS)
def test_winograd_is_counted_where_the_engine_takes_it(network: tuple[list[int], str, int, int]) -> None:
    graph = u_net(*network)
    taken = {name for name, kernel in HostEngine(graph).kernels.items() if kernel == "winograd512"}
    latency = HostLatency(graph, 64, 64)
    counted = {name for name, counts in latency.by_node().items() if counts.tile_products > 0}
    assert counted == taken


def test_a_vector_of_channels_takes_as_long_as_its_first() -> None:
    def products(channels: int) -> float:
        return HostLatency(u_net([channels, 8], "nearest", 8, 8), 32, 32).counts({}).products

    assert products(15) == products(16) < products(17)
    assert products(8) < products(9)


def test_fewer_channels_are_those_of_a_smaller_graph() -> None:
    whole, smaller = (HostLatency(u_net(widths, "nearest", 4, 6), 64, 64) for widths in ([16, 32], [8, 32]))
    names = ["enc0a", "enc0b", "dec0a", "dec0b"]
    assert whole.ms(dict.fromkeys(names, 8)) == pytest.approx(smaller.ms(), rel=1e-9)
    assert np.isfinite(whole.ms())
    for name, groups in whole.savings().items():
        assert all(0 < n <= 16 and 0 < saved < whole.ms() for n, saved in groups), name
    assert "head" not in whole.savings()
