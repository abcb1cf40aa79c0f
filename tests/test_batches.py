"""Training crops: a pure function of seed and step, cut out exactly where nothing is augmented."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quantunet.train.batches import TrainingSet, build_training_set, sample_batch
from quantunet.train.config import AugmentationConfig

PLAIN = AugmentationConfig(flip=False, rotate_degrees=0, scale=0, elastic_px=0, brightness=0, contrast=0, noise=0)
FULL = AugmentationConfig()  # pyright: ignore[reportCallIssue]


def training_set(size: tuple[int, int] = (50, 41), channels: int = 1, count: int = 3) -> TrainingSet:
    """Every pixel's value tells where it is: no two are equal."""
    images = np.arange(count * channels * size[0] * size[1], dtype=np.float32).reshape(count, channels, *size)
    masks = [np.zeros(size, np.uint8) for _ in range(count)]
    for index, mask in enumerate(masks):
        mask[5 + index : 12, 30:35] = 1 + index % 2
    return build_training_set(list(images), masks)


def draw(data: TrainingSet, step: int = 0, indices: range = range(4), crop: int = 32, **options: object):
    settings = {"foreground_share": 0.5, "augmentation": FULL, **options}
    return sample_batch(data, 7, step, indices, crop, **settings)  # pyright: ignore[reportArgumentType]


def test_same_seed_and_step_give_the_same_batch() -> None:
    data = training_set()
    first, again, other = draw(data, 3), draw(data, 3), draw(data, 4)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (4, 1, 32, 32)
    assert first[1].shape == (4, 32, 32)
    assert first[1].dtype == torch.int64


def test_processes_together_see_the_whole_batch() -> None:
    data = training_set()
    whole = draw(data, 5, range(6))
    for rank in range(2):
        images, target = draw(data, 5, range(rank, 6, 2))
        assert torch.equal(images, whole[0][rank::2])
        assert torch.equal(target, whole[1][rank::2])


@pytest.mark.parametrize("size", [(50, 41), (32, 32), (33, 200)])
def test_without_augmentation_a_crop_is_an_exact_cut_out(size: tuple[int, int]) -> None:
    data = training_set(size, channels=2)
    places = set()
    for step in range(12):
        images, targets = draw(data, step, augmentation=PLAIN)
        for crop, target in zip(images, targets, strict=True):
            value = int(crop[0, 0, 0].round())
            index, position = divmod(value, 2 * size[0] * size[1])
            top, left = divmod(position, size[1])
            cut = data.images[index][:, top : top + 32, left : left + 32]
            assert cut.shape == (2, 32, 32)
            # grid_sample weighs neighbours by coordinates in float32: a part in 10^5 of the steps between pixels
            torch.testing.assert_close(crop, cut, rtol=1e-5, atol=2e-2)
            assert torch.equal(target, data.masks[index][top : top + 32, left : left + 32].long())
            places.add((index, top, left))
    assert len({place[0] for place in places}) == 3
    if size != (32, 32):
        assert len(places) > 10


def test_images_smaller_than_the_crop_are_reflected() -> None:
    data = training_set((20, 16))
    for augmentation in (PLAIN, FULL):
        images, targets = draw(data, augmentation=augmentation)
        assert bool(torch.isfinite(images).all())
        assert targets.shape == (4, 32, 32)
    images, targets = draw(data, augmentation=PLAIN, foreground_share=0.0)
    padded = np.pad(data.masks[0].numpy(), ((6, 6), (8, 8)), mode="symmetric")
    masks = [np.pad(mask.numpy(), ((6, 6), (8, 8)), mode="symmetric") for mask in data.masks]
    assert padded.shape == (32, 32)
    for target in targets:
        assert any(np.array_equal(target.numpy(), mask) for mask in masks)


def test_foreground_share_puts_foreground_in_the_crop() -> None:
    size = (200, 200)
    mask = np.zeros(size, np.uint8)
    mask[190:193, 3:6] = 2
    data = build_training_set([np.zeros((1, *size), np.float32)], [mask])
    _, targets = draw(data, 0, range(20), foreground_share=1.0, augmentation=PLAIN)
    assert all(bool((target == 2).any()) for target in targets)
    _, targets = draw(data, 0, range(20), foreground_share=0.0, augmentation=PLAIN)
    assert not all(bool((target == 2).any()) for target in targets)


def test_without_any_foreground_crops_are_drawn_anywhere() -> None:
    data = build_training_set([np.zeros((1, 40, 40), np.float32)], [np.zeros((40, 40), np.uint8)])
    _, targets = draw(data, foreground_share=1.0)
    assert not targets.any()


def test_masks_stay_class_indices_under_full_augmentation() -> None:
    _, targets = draw(training_set(), 1, range(40))
    assert set(targets.unique().tolist()) == {0, 1, 2}


def test_flips_alone_give_the_four_mirror_images_and_no_other() -> None:
    data = training_set((32, 32), count=1)
    flips = AugmentationConfig(flip=True, rotate_degrees=0, scale=0, elastic_px=0, brightness=0, contrast=0, noise=0)
    _, targets = draw(data, 0, range(40), augmentation=flips)
    mask = data.masks[0].numpy()
    mirrors = [mask, mask[::-1], mask[:, ::-1], mask[::-1, ::-1]]
    found = {next(i for i, m in enumerate(mirrors) if np.array_equal(m, target.numpy())) for target in targets}
    assert found == {0, 1, 2, 3}
