"""Normalisation and padding."""

from __future__ import annotations

import json

import numpy as np
import pytest

from quantunet.data import NormalizationConfig, Sample, normalize, pad_to_multiple, resolve, unpad
from quantunet.errors import UserError

RNG = np.random.default_rng(5)


def samples(count: int = 4, channels: int = 2) -> list[Sample]:
    return [
        Sample((RNG.standard_normal((channels, 6, 5 + k)) * 40 + 900).astype(np.float32), None, f"c{k}", f"c{k}")
        for k in range(count)
    ]


def test_image_is_a_z_score_per_channel():
    spec = resolve(NormalizationConfig(kind="image"), [])
    y = normalize(samples()[0].image, spec)
    assert y.dtype == np.float32
    # float32 storage: 1e-6 is a few units in its last place
    np.testing.assert_allclose(y.mean(axis=(1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(axis=(1, 2)), 1, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 7.0, 0.1, 1e6])
def test_constant_channels_become_zeros(value):
    image = np.full((2, 9, 7), value, np.float32)
    image[1] = RNG.standard_normal((9, 7))
    y = normalize(image, {"kind": "image"})
    assert (y[0] == 0).all()
    assert y[1].std() > 0.9


def test_dataset_measures_all_training_pixels():
    train = samples()
    spec = resolve(NormalizationConfig(kind="dataset"), train)
    assert json.loads(json.dumps(spec)) == spec
    pixels = np.concatenate([sample.image.reshape(2, -1) for sample in train], axis=1).astype(np.float64)
    # sums in another order: 1e-12 relative is float64's rounding
    np.testing.assert_allclose(spec["mean"], pixels.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(spec["std"], pixels.std(axis=1), rtol=1e-12)
    expected = (train[0].image.astype(np.float64) - pixels.mean(1)[:, None, None]) / pixels.std(1)[:, None, None]
    np.testing.assert_allclose(normalize(train[0].image, spec), expected, rtol=1e-6, atol=1e-6)


def test_window_maps_its_ends_and_clips():
    spec = resolve(NormalizationConfig(kind="window", low=-100, high=300), [])
    image = np.array([[[-1000, -100, 100, 300, 5000]]], np.float32)
    np.testing.assert_array_equal(normalize(image, spec)[0, 0], [-1, -1, 0, 1, 1])


def test_refusals():
    with pytest.raises(UserError, match="training cases"):
        resolve(NormalizationConfig(kind="dataset"), [])
    flat = [Sample(np.full((1, 3, 3), 5, np.float32), None, "a", "a")]
    with pytest.raises(UserError, match="channel 0 is constant"):
        resolve(NormalizationConfig(kind="dataset"), flat)
    with pytest.raises(UserError, match="unknown"):
        normalize(flat[0].image, {"kind": "magic"})
    with pytest.raises(UserError, match="1 channels"):
        normalize(flat[0].image, {"kind": "dataset", "mean": [0, 0], "std": [1, 1]})


@pytest.mark.parametrize("shape", [(1, 16, 32), (3, 17, 31), (2, 1, 1), (1, 250, 511)])
@pytest.mark.parametrize("multiple", [1, 2, 16])
def test_padding_is_undone_exactly(shape, multiple):
    image = RNG.standard_normal(shape).astype(np.float32)
    padded, padding = pad_to_multiple(image, multiple)
    assert padded.shape[1] % multiple == 0
    assert padded.shape[2] % multiple == 0
    assert abs(padding[0] - padding[1]) <= 1
    assert abs(padding[2] - padding[3]) <= 1
    np.testing.assert_array_equal(unpad(padded, padding), image)
    assert padded[0, 0, 0] == image[0, 0, 0]
    assert padded[-1, -1, -1] == image[-1, -1, -1]
