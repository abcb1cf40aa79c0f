"""The built-in phantom: repeatable, varied, and beyond any threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import label

from quantunet.data import DataConfig, phantom_dataset, read_dataset, write_phantom


def best_threshold_dice(images: np.ndarray, masks: np.ndarray) -> float:
    """The best Dice over all pixels of any one global threshold, from either side."""
    best = 0.0
    for threshold in range(0, 256, 2):
        for predicted in (images > threshold, images < threshold):
            overlap = 2 * np.count_nonzero(predicted & masks) / max(1, predicted.sum() + masks.sum())
            best = max(best, float(overlap))
    return best


def test_no_threshold_finds_the_lesions():
    data = phantom_dataset(cases=20)
    images = np.stack([sample.image[0] for sample in data.samples])
    masks = np.stack([sample.mask for sample in data.samples]).astype(bool)
    assert best_threshold_dice(images, masks) < 0.6
    # and not one picture's own best threshold either, on average over the pictures with a lesion
    own = [best_threshold_dice(image, mask) for image, mask in zip(images, masks, strict=True) if mask.any()]
    assert np.mean(own) < 0.6


def test_it_is_varied_and_repeatable():
    data = phantom_dataset(cases=40, slices=2, size=96, seed=4)
    assert len(data.samples) == 80
    assert len(data.case_ids) == 40
    counts = {label(sample.mask)[1] for sample in data.samples}
    assert {0, 1, 2} <= counts
    again = phantom_dataset(cases=5, slices=2, size=96, seed=4)
    for one, other in zip(again.samples, data.samples, strict=False):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)
    other_seed = phantom_dataset(cases=1, slices=1, size=96, seed=5)
    assert not np.array_equal(other_seed.samples[0].image, data.samples[0].image)
    contrast = [
        np.sign(s.image[0][s.mask > 0].mean() - s.image[0][s.mask == 0].mean()) for s in data.samples if s.mask.any()
    ]
    assert {-1.0, 1.0} <= set(contrast)


def test_the_written_phantom_is_the_same_data(tmp_path):
    folder = write_phantom(tmp_path / "phantom", cases=6, slices=2, size=64)
    data = read_dataset(DataConfig(path=folder, case_pattern=r"(phantom_\d+)_slice"))
    drawn = phantom_dataset(cases=6, slices=2, size=64)
    assert data.case_ids == drawn.case_ids
    for read, made in zip(data.samples, drawn.samples, strict=True):
        np.testing.assert_array_equal(read.image, made.image)
        np.testing.assert_array_equal(read.mask, made.mask)


def test_the_path_phantom_needs_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = read_dataset(DataConfig(path=Path("phantom")))
    assert data.reader == "phantom"
    assert len(data.case_ids) == 40
