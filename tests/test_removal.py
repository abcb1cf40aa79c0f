"""Channels of 0 bits: the network without them computes the same, trains on from where it was, and is smaller."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from random_networks import random_network
from torch import nn

from quantunet.backends.c.runner import build_engines, has_compiler
from quantunet.fake_quant_proof import compare_codes
from quantunet.ir import interpreter
from quantunet.ir.packed_file import encode_model
from quantunet.lower import lower
from quantunet.nn import widths
from quantunet.nn.layers import conv_layers
from quantunet.nn.prepare import weight_quantizers
from quantunet.nn.removal import load_smaller_, remove_channels_
from quantunet.quant.quantizers import LearnedPowerOfTwo


def vanishing(seed: int) -> tuple[nn.Module, np.ndarray]:
    """A random network of which about a third of the channels have 0 bits, though no layer has lost all of them."""
    network, images = random_network(seed)
    rng = np.random.default_rng(seed)
    for layer in conv_layers(network).values():
        quantizer = layer.weight_quantizer
        assert isinstance(quantizer, LearnedPowerOfTwo)
        if (
            not layer.relu
            or quantizer.width.dim() == 0
            or not layer.activation_quantizer
            or layer.activation_quantizer.signed
        ):
            continue
        quantizer.can_vanish, quantizer.min_bit_width = True, 0
        quantizer.width.data[torch.from_numpy(rng.random(quantizer.width.shape) < 0.35)] = 0.3
        quantizer.project_()
    return network, images


@pytest.mark.parametrize("seed", range(24))
def test_what_is_left_computes_the_same_numbers(seed: int) -> None:
    network, images = vanishing(seed)
    batch = torch.from_numpy(images).double()
    whole = network.double()(batch)
    bits, packed = widths.weight_bits(network), widths.packed_weight_bytes(network)  # pyright: ignore[reportArgumentType]
    zero = sum(int((quantizer.bit_width == 0).sum()) for quantizer in weight_quantizers(network).values())
    smaller = copy.deepcopy(network)
    assert remove_channels_(smaller) == zero
    assert torch.equal(smaller(batch), whole)
    assert remove_channels_(smaller) == 0
    assert widths.weight_bits(smaller) == pytest.approx(bits), "weights removed count as 0 bits, before and after"  # pyright: ignore
    assert widths.packed_weight_bytes(smaller) == packed  # pyright: ignore[reportArgumentType]
    assert all((quantizer.bit_width > 0).all() for quantizer in weight_quantizers(smaller).values())

    again = random_network(seed)[0].double()
    load_smaller_(again, smaller.state_dict())
    assert torch.equal(again(batch), whole)
    assert [layer.conv.out_channels for layer in conv_layers(again).values()] == [
        layer.conv.out_channels for layer in conv_layers(smaller).values()
    ]


def test_what_is_left_is_proven_in_integers_and_c(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    graphs = []
    for seed in range(12):
        network, images = vanishing(seed)
        removed = remove_channels_(network)
        graph = lower(network, {"seed": seed})
        assert compare_codes(network, graph, images).differing == 0
        graphs.append((graph, images, removed))
    assert sum(removed for *_, removed in graphs) > 20
    if not has_compiler():
        pytest.skip("no C compiler")
    engines = build_engines([(graph, *images.shape[2:]) for graph, images, _ in graphs], flags=["-O1"])
    for engine, (graph, images, _) in zip(engines, graphs, strict=True):
        codes = np.stack([interpreter.quantize_input(graph, image) for image in images])
        assert np.array_equal(engine.run(codes), interpreter.run(graph, codes))


def test_training_goes_on_where_it_was() -> None:
    network, images = vanishing(4)
    batch = torch.from_numpy(images)
    reference, smaller = copy.deepcopy(network), copy.deepcopy(network)
    optimizers = {net: torch.optim.AdamW(net.parameters(), lr=1e-3) for net in (reference, smaller)}

    def step(net: nn.Module) -> None:
        net(batch).square().mean().backward()
        optimizers[net].step()
        optimizers[net].zero_grad(set_to_none=True)

    for net in (reference, smaller):
        step(net)
        for quantizer, old in zip(weight_quantizers(net).values(), weight_quantizers(network).values(), strict=True):
            assert isinstance(quantizer, LearnedPowerOfTwo)
            assert isinstance(old, LearnedPowerOfTwo)
            quantizer.width.data.copy_(old.width)
    assert remove_channels_(smaller, optimizers[smaller]) > 0
    for parameter in smaller.parameters():
        for key, value in optimizers[smaller].state[parameter].items():
            assert key == "step" or value.shape == parameter.shape
    for net in (reference, smaller):
        step(net)
    remove_channels_(reference)
    for (name, kept), other in zip(smaller.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(kept, other, atol=2e-5), name


def test_one_channel_stays_where_all_would_go() -> None:
    quantizer = LearnedPowerOfTwo(4, 0, True, min_bit_width=0)
    quantizer.width.data = torch.tensor([0.1, 0.4, 0.2, -1.0])
    quantizer.project_()
    assert quantizer.bit_width.tolist() == [0, 1, 0, 0]
    assert quantizer.frozen_bit_width(-8).tolist() == [0, 1, 0, 0]
    w = torch.randn(4, 3, 3, 3)
    quantizer.calibrate(w)
    assert not quantizer(w)[[0, 2, 3]].any()
    quantizer.keep_all_channels_()
    quantizer.project_()
    assert quantizer.bit_width.tolist() == [1, 1, 1, 1]


def test_a_model_without_vanished_channels_is_smaller_by_them() -> None:
    network, _ = vanishing(4)
    remove_channels_(network)
    graph = lower(network)
    whole = lower(random_network(4)[0])
    assert len(encode_model(graph)) < len(encode_model(whole))
    layers = conv_layers(network)
    for node in graph.weight_nodes():
        assert node.weight.shape[:2] == (layers[node.name].conv.out_channels, layers[node.name].conv.in_channels)
