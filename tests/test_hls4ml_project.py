"""The hls4ml project: its C simulation equals the interpreter; types, FIFO depths and reuse factors are the graph's."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graph_examples import every_node, random_codes, unet
from random_graphs import random_graph
from stream_simulation import runs_to_its_end

from quantunet.backends.hls4ml.layers import fixed, layer_list, reuse_factor
from quantunet.backends.hls4ml.streams import skip_depths
from quantunet.errors import UserError
from quantunet.formats import IntFormat
from quantunet.ir import ranges
from quantunet.ir.graph import Concat, Conv2d

needs_hls4ml = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


@needs_hls4ml
def test_the_c_simulation_equals_the_interpreter_on_every_kind_of_node() -> None:
    pytest.importorskip("hls4ml", reason="needs quantunet[hls]")
    from quantunet.backends.hls4ml.verify import verify_hls4ml

    graph = every_node(seed=3, by_shift=False, binary=False)
    codes = random_codes(np.random.default_rng(0), graph.input.output, (3, 2, 16, 12))
    proof = verify_hls4ml(graph, codes, "-O0")
    assert (proof.differing, proof.first_difference, proof.images) == (0, "", 3)
    assert proof.tensors == len(graph.nodes) - 1


@needs_hls4ml
def test_the_exported_project_passes_its_own_test(tmp_path: Path) -> None:
    pytest.importorskip("hls4ml", reason="needs quantunet[hls]")
    from quantunet.backends.hls4ml.project import export_hls4ml

    graph = unet(base=2, levels=1)
    codes = list(random_codes(np.random.default_rng(0), graph.input.output, (2, 1, 16, 16)))
    folder = export_hls4ml(graph, tmp_path / "project", (16, 16), codes, target_cycles=100)
    assert str(tmp_path) not in (folder / "hls4ml_config.yml").read_text()
    source = (folder / "firmware" / "quantunet.cpp").read_text()
    depths = {int(depth) for depth in re.findall(r"depth=(\d+)", source)}
    assert depths == {16, skip_depths(graph, 16, 16)["encoder.0.b", "joined.0"] + 64}
    done = subprocess.run(["make", "test", "CXXFLAGS=-O0 -std=c++17 -w"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 images, 0 differing" in done.stdout
    export_hls4ml(unet(base=2, levels=2), folder, (16, 16))
    export_hls4ml(graph, folder, (16, 16), codes)  # an export may replace that of another graph
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="which no export wrote"):
        export_hls4ml(graph, folder, (16, 16), codes)


def test_types_are_as_wide_as_the_graph_proves() -> None:
    graph = every_node(seed=2)
    found = layer_list(graph, 16, 16, 1000)
    formats, proofs = graph.formats(), {proof.name: proof for proof in ranges.prove(graph)}
    for node in graph.nodes:
        precision = found.settings[found.layer_of[node.name]]["Precision"]
        if isinstance(node, Conv2d) and node.requantize is None:
            assert precision["result"] == fixed(IntFormat(proofs[node.name].bit_width, True))
        else:
            assert precision["result"] == fixed(formats[node.name])
    conv = found.settings[found.layer_of["enc.a"] + "_acc"]
    weights = graph.node("enc.a")
    assert isinstance(weights, Conv2d)
    widest = int(weights.weight_bit_width.max())
    assert conv["Precision"]["weight"] == f"fixed<{widest},{widest}>"
    assert conv["Precision"]["accum"] == conv["Precision"]["result"]
    texts = str(found.settings)
    assert "int<" not in texts, "hls4ml takes the -2 of an int<2> for 1"


def test_reuse_factors_keep_to_the_target_and_to_what_hls4ml_allows() -> None:
    hls4ml = pytest.importorskip("hls4ml", reason="needs quantunet[hls]")
    backend = hls4ml.backends.get_backend("Vitis")
    for n_in, n_out in ((9, 8), (72, 16), (27, 5), (8, 1), (13, 7)):
        allowed = backend.get_valid_reuse_factors(n_in, n_out)
        for at_most in (0, 1, 2, 5, 9, 50, 71, 100, 10_000):
            expected = max((factor for factor in allowed if factor <= at_most), default=1)
            assert reuse_factor(n_in, n_out, at_most) == expected, (n_in, n_out, at_most)


@pytest.mark.parametrize("seed", range(40))
def test_no_random_graph_blocks_with_the_computed_depths(seed: int) -> None:
    graph = random_graph(seed)
    size = graph.size_multiple() * 3
    assert runs_to_its_end(graph, size, size, skip_depths(graph, size, size))


def test_the_depth_of_a_skip_is_the_least_that_works() -> None:
    graph = unet(base=2, levels=2)
    for height, width in ((16, 16), (32, 12), (40, 40)):
        depths = skip_depths(graph, height, width)
        assert runs_to_its_end(graph, height, width, depths)
        for node in graph.nodes:
            if isinstance(node, Concat):
                upsampled, skip = node.inputs
                assert depths[upsampled, node.name] == 1
                one_less = depths[skip, node.name] - 1
                assert not runs_to_its_end(graph, height, width, {**depths, (skip, node.name): one_less})


def test_three_tensors_are_joined_two_at_a_time() -> None:
    found = layer_list(every_node(), 16, 16, 1000)
    joins = [layer for layer in found.layers if layer["class_name"] == "Concatenate"]
    assert [len(layer["inputs"]) for layer in joins] == [2, 2]
    assert joins[1]["inputs"][0] == joins[0]["name"]


def test_a_join_of_one_is_refused() -> None:
    graph = every_node()
    nodes = [replace(node, inputs=node.inputs[:1]) if isinstance(node, Concat) else node for node in graph.nodes]
    nodes[-2] = replace(nodes[-2], weight=nodes[-2].weight[:, :3])  # pyright: ignore
    with pytest.raises(UserError, match="'joined' joins one tensor"):
        layer_list(replace(graph, nodes=tuple(nodes)), 16, 16, 1000)
