"""The loss against hand-made numbers."""

from __future__ import annotations

import math

import pytest
import torch

from quantunet.losses import distillation_loss, feature_loss, mean_bit_width, segmentation_loss, soft_dice_loss


def test_binary_loss_by_hand() -> None:
    # probabilities 1/2, 3/4, 1/4, 1/2; truth 1 1 0 0
    logits = torch.tensor([0.0, math.log(3), -math.log(3), 0.0]).view(1, 1, 2, 2)
    target = torch.tensor([[[1, 1], [0, 0]]])
    loss = segmentation_loss(logits, target)
    bce = -(math.log(0.5) + math.log(0.75) + math.log(0.75) + math.log(0.5)) / 4
    dice = (2 * 1.25 + 1) / (2 + 2 + 1)
    assert float(loss.bce) == pytest.approx(bce, rel=1e-6)
    assert float(loss.dice_loss) == pytest.approx(1 - dice, rel=1e-6)
    assert float(loss.total) == pytest.approx(bce + 1 - dice, rel=1e-6)
    weighted = segmentation_loss(logits, target, bce_weight=2.0, dice_weight=0.5)
    assert float(weighted.total) == pytest.approx(2 * bce + 0.5 * (1 - dice), rel=1e-6)


def test_three_classes_by_hand() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])  # two pixels
    logits = probs.log().T.view(1, 3, 1, 2)
    loss = segmentation_loss(logits, torch.tensor([[[2, 1]]]))
    assert float(loss.bce) == pytest.approx(-(math.log(0.25) + math.log(0.8)) / 2, rel=1e-6)
    first = (2 * 0.8 + 1) / (0.25 + 0.8 + 1 + 1)  # class 1: the background has no Dice
    second = (2 * 0.25 + 1) / (0.25 + 0.1 + 1 + 1)
    assert float(loss.dice_loss) == pytest.approx(1 - (first + second) / 2, rel=1e-6)


def test_two_logits_and_one_agree() -> None:
    torch.manual_seed(0)
    one, target = torch.randn(2, 1, 4, 4), torch.randint(2, (2, 4, 4))
    two = torch.cat((torch.zeros_like(one), one), 1)
    torch.testing.assert_close(segmentation_loss(two, target), segmentation_loss(one, target), rtol=1e-5, atol=1e-6)


def test_empty_truth_has_a_finite_loss_and_a_gradient() -> None:
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.zeros(1, 4, 4, dtype=torch.int64), bce_weight=0.0).total
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1 - 1 / 9)
    assert float(logits.grad.min()) > 0
    nothing = torch.zeros(1, 1, 2, 2)
    assert float(soft_dice_loss(nothing, nothing)) == 0.0


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[[[1e4, -1e4]]]], requires_grad=True)
    loss = segmentation_loss(logits, torch.tensor([[[0, 1]]])).total
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert bool(torch.isfinite(logits.grad).all())


def test_mean_bit_width_weights_what_it_is_told_to() -> None:
    by_channel = torch.tensor([2.0, 4.0], requires_grad=True)
    by_layer = torch.tensor(8.0, requires_grad=True)
    mean = mean_bit_width([by_channel, by_layer], [torch.tensor([0.125, 0.375]), torch.tensor(0.5)])
    assert float(mean.detach()) == pytest.approx((2 + 12 + 32) / 8)
    mean.backward()
    assert by_channel.grad.tolist() == [0.125, 0.375]
    assert float(by_layer.grad) == 0.5


def test_distillation_is_least_where_the_student_says_what_the_teacher_says() -> None:
    teacher = torch.tensor([[[[0.0, 2.0]]]])
    # against itself it is the entropy: ln 2 at logit 0, and at logit 2 that of p = 1 / (1 + e^-2)
    p = 1 / (1 + math.exp(-2))
    entropy = (math.log(2) - p * math.log(p) - (1 - p) * math.log(1 - p)) / 2
    assert float(distillation_loss(teacher, teacher)) == pytest.approx(entropy, rel=1e-6)  # float32
    assert float(distillation_loss(teacher + 1, teacher)) > entropy


def test_distillation_of_several_classes_equals_that_of_two() -> None:
    teacher, student = torch.tensor([[[[0.7, -1.5]]]]), torch.tensor([[[[-0.2, 0.4]]]])
    pair = [torch.cat((torch.zeros_like(logit), logit), dim=1) for logit in (student, teacher)]
    binary = float(distillation_loss(student, teacher))
    assert float(distillation_loss(*pair)) == pytest.approx(binary, rel=1e-6)  # float32


def test_feature_loss_has_the_gradient_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.rand(2, c, 3, 5, generator=generator, dtype=torch.float64) - 0.5 for c in (4, 7))

    def written_out(x: torch.Tensor) -> torch.Tensor:
        maps = [t.square().mean(1).flatten(1) for t in (x, theirs)]
        units = [m / m.norm(dim=1, keepdim=True) for m in maps]
        return (units[0] - units[1]).square().sum(1).mean()

    x = ours.requires_grad_()
    expected = torch.autograd.grad(written_out(x), x)[0]
    torch.testing.assert_close(torch.autograd.grad(feature_loss([x], [theirs]), x)[0], expected, rtol=1e-5, atol=1e-7)


def test_feature_loss_compares_where_networks_look_not_how_strongly_nor_with_how_many_channels() -> None:
    teacher = torch.zeros(1, 2, 1, 2)
    teacher[0, :, 0, 0] = 3.0
    same = torch.zeros(1, 1, 1, 2)
    same[0, 0, 0, 0] = -0.5
    elsewhere = same.flip(3)
    assert float(feature_loss([same], [teacher])) == 0
    assert float(feature_loss([elsewhere], [teacher])) == pytest.approx(2)  # two unit vectors at right angles
    assert float(feature_loss([same, elsewhere], [teacher, teacher])) == pytest.approx(1)
    silent = torch.zeros(1, 1, 1, 2, requires_grad=True)  # a network that has lost all channels of a level
    feature_loss([silent], [teacher]).backward()
    assert silent.grad is not None
    assert torch.isfinite(silent.grad).all()
