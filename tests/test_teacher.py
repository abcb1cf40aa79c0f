"""The teacher computes what the float network computes, as nearly as its numbers allow, and trains nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from quantunet.losses import distillation_loss, feature_loss
from quantunet.nn.layers import conv_layers
from quantunet.train import teacher as module
from quantunet.train.build import build_float_network
from quantunet.train.config import LossConfig, NetworkConfig
from quantunet.train.teacher import build_teacher, teacher_loss, teacher_outputs

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has_bfloat16", "tolerance"), [(False, 1e-5), (True, 0.03)])
def test_teacher_says_what_the_float_network_says(
    has_bfloat16: bool, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_multiplies_bfloat16", lambda device: has_bfloat16)
    network = build_float_network(NetworkConfig(base_channels=4, levels=3), 2, 2, seed=0)
    images = torch.randn(3, 2, 32, 32)
    network(images)  # statistics of batch norm that are not those of a new network
    network.eval()
    before = copy.deepcopy(network.state_dict())
    teacher = build_teacher(network, CPU)
    assert all(layer.norm is None for layer in conv_layers(teacher).values())
    logits, features = teacher_outputs(teacher, images)
    assert logits.dtype == torch.float32
    assert [tuple(each.shape) for each in features] == [(3, 16, 8, 8), (3, 8, 16, 16), (3, 4, 32, 32)]
    # folding rounds anew in float32; bfloat16 has 8 bits of mantissa
    difference = (logits.sigmoid() - network(images).sigmoid()).abs().max()
    assert difference < tolerance
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    student = logits.clone().requires_grad_()
    distillation_loss(student, logits).backward()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize(("share", "seen"), [(1.0, 5), (0.25, 2), (0.01, 1)])
def test_the_teacher_sees_its_share_of_the_crops_rounded_up(share: float, seen: int) -> None:
    network = build_float_network(NetworkConfig(base_channels=4, levels=3), 1, 2, seed=0).eval()
    teacher = build_teacher(network, CPU)
    images = torch.randn(5, 1, 32, 32)
    its_logits, its_features = teacher_outputs(teacher, images[:seen])
    logits = torch.randn(5, 1, 32, 32, requires_grad=True)
    features = [torch.randn(5, 2, *each.shape[2:], requires_grad=True) for each in its_features]
    weights = LossConfig(distillation=0.5, feature_distillation=2.0, distillation_share=share)
    loss = teacher_loss(teacher, images, logits, features, weights)
    expected = 0.5 * distillation_loss(logits[:seen], its_logits)
    expected = expected + 2 * feature_loss([each[:seen] for each in features], its_features)
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(expected, features, retain_graph=True)
    loss.backward()
    for feature, gradient in zip(features, gradients, strict=True):
        assert feature.grad is not None
        assert torch.equal(feature.grad, gradient)
    assert logits.grad is not None
    assert [bool(each.any()) for each in logits.grad] == [number < seen for number in range(5)]


def test_gradients_of_features_keep_their_layout() -> None:
    """Another one makes every layer before them slower."""
    teacher = build_teacher(build_float_network(NetworkConfig(base_channels=4, levels=3), 1, 2, seed=0), CPU)
    images, logits = torch.randn(5, 1, 32, 32), torch.randn(5, 1, 32, 32)
    shapes = [each.shape[1:] for each in teacher_outputs(teacher, images)[1]]
    layout = torch.channels_last
    features = [torch.randn(5, *shape).to(memory_format=layout).requires_grad_() * 2 for shape in shapes]
    kept: list[bool] = []
    for each in features:
        each.register_hook(lambda gradient: kept.append(gradient.is_contiguous(memory_format=layout)))
    weights = LossConfig(feature_distillation=1.0, distillation_share=0.25)
    teacher_loss(teacher, images, logits, features, weights).backward()
    assert kept == [True] * len(features)
