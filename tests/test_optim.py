"""Parameter groups and their learning rates."""

from __future__ import annotations

import pytest
import torch

from quantunet.nn.batch_norm import fold_batch_norm_
from quantunet.nn.prepare import all_quantizers, assign_quantizers_
from quantunet.nn.unet import UNet
from quantunet.quant.brevitas_adapter import BrevitasQuantizer
from quantunet.quant.quantizers import LearnedPowerOfTwo, Quantizer
from quantunet.train.optim import build_optimizer, set_learning_rates, width_learning_rate


def network(kind: type[Quantizer] | None) -> UNet:
    net = UNet(1, 1, 2, 2)
    if kind is not None:
        fold_batch_norm_(net)
        assign_quantizers_(net, lambda c, axis: kind(c, axis, True), lambda signed: kind(None, 1, signed))
    return net


@pytest.mark.parametrize("kind", [None, LearnedPowerOfTwo, BrevitasQuantizer])
def test_every_parameter_is_in_one_group_and_only_weights_decay(kind: type[Quantizer] | None) -> None:
    net = network(kind)
    optimizer = build_optimizer(net, 1e-2, 1e-3, 0.05)
    groups = {group["name"]: group for group in optimizer.param_groups}
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    assert {name: group["weight_decay"] for name, group in groups.items() if group["weight_decay"]} == {"weights": 1e-3}
    assert all(p.dim() == 4 for p in groups["weights"]["params"])
    if kind is None:
        assert set(groups) == {"weights", "no_decay"}
        return
    ranges = {id(p) for q in all_quantizers(net) for p in (*q.width_parameters(), *q.scale_parameters())}
    assert {id(p) for p in groups["ranges"]["params"]} == ranges
    assert groups["ranges"]["peak"] == 0.05


@pytest.mark.parametrize("kind", [LearnedPowerOfTwo, BrevitasQuantizer])
def test_frozen_ranges_get_no_gradient_and_do_not_move(kind: type[Quantizer]) -> None:
    net = network(kind)
    before = {name: p.clone() for name, p in net.named_parameters()}
    optimizer = build_optimizer(net, 1e-1, 1e-3, None)
    assert [group["name"] for group in optimizer.param_groups] == ["weights", "no_decay"]
    net(torch.randn(1, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    ranges = {id(p) for q in all_quantizers(net) for p in (*q.width_parameters(), *q.scale_parameters())}
    for name, p in net.named_parameters():
        if id(p) in ranges:
            assert p.grad is None, name
            assert torch.equal(p, before[name]), name


def test_learning_rates_are_a_function_of_the_step() -> None:
    optimizer = build_optimizer(network(LearnedPowerOfTwo), 1e-2, 0.0, 0.05)
    course = {"weights": [], "no_decay": [], "ranges": []}
    for step in range(200):
        set_learning_rates(optimizer, step, 200)
        for group in optimizer.param_groups:
            course[group["name"]].append(group["lr"])
    weights, ranges = course["weights"], course["ranges"]
    assert weights == course["no_decay"]
    assert weights[:10] == sorted(weights[:10]), "warm-up"
    assert max(weights) == pytest.approx(1e-2, rel=0.02)
    assert weights[10:] == sorted(weights[10:], reverse=True)
    assert weights[-1] < 2e-4
    assert ranges[:160] == [0.05] * 160
    assert ranges[-1] == pytest.approx(0.005)
    set_learning_rates(optimizer, 37, 200)
    assert optimizer.param_groups[0]["lr"] == weights[37], "no memory"


def test_widths_can_cross_their_range_within_the_descent() -> None:
    for steps in (1, 100, 1000, 10_000, 100_000):
        assert 0.01 <= width_learning_rate(steps) <= 0.1
    assert width_learning_rate(1000) * 1000 >= 4 * 7
