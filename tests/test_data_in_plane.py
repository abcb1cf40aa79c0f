"""Resampling and centre crop of slices: what reaches the network, and masks brought back to the file's grid."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from quantunet.data import (
    DataConfig,
    InPlane,
    SplitConfig,
    in_plane_of,
    manifest,
    read_dataset,
    read_image,
    restore_mask,
    split_cases,
    write_masks,
)
from quantunet.data.in_plane import place, place_image, place_mask, placed_spacing_mm
from quantunet.errors import UserError
from quantunet.evaluate import evaluate_cases

RNG = np.random.default_rng(3)


@settings(deadline=None, max_examples=80)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    spacing=st.tuples(st.floats(0.2, 3), st.floats(0.2, 3)),
    target=st.none() | st.tuples(st.floats(0.2, 3), st.floats(0.2, 3)),
    crop=st.none() | st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_shapes_fit_and_the_restored_mask_has_the_files_size(size, spacing, target, crop):
    placement = place(size, (4.0, *spacing), InPlane(target, crop))
    image = np.full((2, *size), 7.5, np.float32)
    placed = place_image(image, placement)
    assert placed.shape == (2, *placement.size_px)
    assert (placed == 7.5).all()
    mask = np.ones(size, np.uint8)
    assert place_mask(mask, placement).shape == placement.size_px
    back = restore_mask(place_mask(mask, placement), placement)
    assert back.shape == size
    if crop is None:
        assert back.all()


def test_linear_resampling_is_scipys():
    image = RNG.standard_normal((1, 13, 17)).astype(np.float32)
    placement = place((13, 17), (0.8, 0.5), InPlane((0.5, 0.7), None))
    rows, columns = placement.resampled_px
    assert (rows, columns) == (21, 12)  # 13 x 0.8 / 0.5 = 20.8, 17 x 0.5 / 0.7 = 12.1
    grid = np.meshgrid(
        (np.arange(rows) - (rows - 1) / 2) * 0.5 / 0.8 + 6,
        (np.arange(columns) - (columns - 1) / 2) * 0.7 / 0.5 + 8,
        indexing="ij",
    )
    expected = map_coordinates(image[0].astype(np.float64), grid, order=1, mode="nearest")
    # float32 holds 24 bits; values are below 4
    np.testing.assert_allclose(place_image(image, placement)[0], expected, atol=5e-7)


def test_finer_grids_come_back_exactly_and_crops_are_centred():
    mask = RNG.integers(0, 3, (10, 12)).astype(np.uint8)
    finer = place((10, 12), (1.0, 1.0), InPlane((0.5, 0.25), None))
    assert finer.size_px == (20, 48)
    np.testing.assert_array_equal(restore_mask(place_mask(mask, finer), finer), mask)
    crop = place((10, 12), None, InPlane(None, (4, 20)))
    np.testing.assert_array_equal(place_mask(mask, crop), mask[3:7])
    expected = np.zeros_like(mask)
    expected[3:7] = mask[3:7]
    np.testing.assert_array_equal(restore_mask(place_mask(mask, crop), crop), expected)
    assert restore_mask(mask, None) is mask
    assert placed_spacing_mm((3.0, 1.0, 1.0), finer) == (3.0, 0.5, 0.25)
    assert placed_spacing_mm(None, crop) is None
    with pytest.raises(ValueError, match=r"expected \(4, 12\)"):
        restore_mask(mask, crop)


def volume(path, shape=(40, 30, 3), spacing=(0.5, 1.0, 4.0), centre_only=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing, 1.0])
    nibabel.save(nibabel.Nifti1Image(RNG.integers(0, 900, shape).astype(np.int16), affine), path)
    labels = np.zeros(shape, np.uint8)
    labels[15:25, 10:20] = 1
    if not centre_only:
        labels[0, 0, 0] = 1
    nibabel.save(nibabel.Nifti1Image(labels, affine), path.with_name(path.name.replace(".nii", "_seg.nii")))
    return path


def test_dataset_manifest_and_metrics_grid(tmp_path):
    for k in range(3):
        volume(tmp_path / f"p{k}.nii.gz")
    config = DataConfig.model_validate({"path": tmp_path, "resample_mm": 0.5, "crop_px": [32, 24]})
    assert config.resample_mm == (0.5, 0.5)
    assert DataConfig.model_validate(json.loads(config.model_dump_json())) == config
    data = read_dataset(config)
    assert {sample.image.shape for sample in data.samples} == {(1, 32, 24)}
    assert {sample.spacing_mm for sample in data.samples} == {(4.0, 0.5, 0.5)}
    # each volume loses the corner pixel of its first slice, which is two pixels (rows twice as fine)
    assert any("cuts off 6 of" in line and "of them in p0" in line for line in data.problems)
    written = manifest(data, split_cases(data, SplitConfig()))
    assert written["in_plane"] == {"resample_mm": [0.5, 0.5], "crop_px": [32, 24], "resize_px": None}
    assert InPlane.from_json(written["in_plane"]) == in_plane_of(config) == data.in_plane
    assert InPlane.from_json(None) is None
    plain = read_dataset(DataConfig(path=tmp_path))
    assert plain.in_plane is None
    assert in_plane_of(DataConfig(path=tmp_path)) is None


def test_a_volume_is_measured_in_three_dimensions(tmp_path):
    """A prediction one slice off is a slice distance away in mm; the diagonal of an empty one spans slices too."""
    volume(tmp_path / "p.nii.gz", centre_only=True)
    data = read_dataset(DataConfig(path=tmp_path, resample_mm=(0.5, 0.5), crop_px=(32, 24)))
    truth = np.stack([np.asarray(sample.mask) for sample in data.samples])
    truth[2] = 0
    shifted = np.zeros_like(truth)
    shifted[1:] = truth[:-1]
    spacing = {"p": data.samples[0].spacing_mm}
    result = evaluate_cases({"p": shifted}, {"p": truth}, data.class_names, spacing)
    assert result.distance_unit == "mm"
    assert result.mean["hd95"].mean == 4.0
    empty = evaluate_cases({"p": np.zeros_like(truth)}, {"p": truth}, data.class_names, spacing)
    assert empty.mean["hd95"].mean == pytest.approx(np.hypot(np.hypot(32 * 0.5, 24 * 0.5), 3 * 4.0))  # float sums


def test_a_prediction_is_pasted_back_into_the_file(tmp_path):
    path = volume(tmp_path / "p.nii.gz", centre_only=True)
    in_plane = InPlane((0.5, 0.5), (32, 24))
    samples = read_image(path, 1, in_plane)
    trained_on = read_dataset(DataConfig(path=tmp_path, resample_mm=(0.5, 0.5), crop_px=(32, 24))).samples
    for sample, other in zip(samples, trained_on, strict=True):
        np.testing.assert_array_equal(sample.image, other.image)
    masks = np.stack([restore_mask(np.asarray(s.mask), s.placement) for s in trained_on])
    back = read_image(write_masks(tmp_path / "out", path, masks))
    truth = read_image(tmp_path / "p_seg.nii.gz")
    np.testing.assert_array_equal([s.image for s in back], [s.image for s in truth])
    assert back[0].spacing_mm == (4.0, 1.0, 0.5)


def test_pictures_of_any_size_are_brought_to_one(tmp_path):
    """Linear interpolation at half the size is the mean of two pixels; masks come back to each picture's own grid."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    shapes = {"a": (64, 48), "b": (80, 32), "c": (32, 24)}
    for name, shape in shapes.items():
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", RNG.integers(0, 255, shape, np.uint8))
        tifffile.imwrite(tmp_path / "masks" / f"{name}.tif", (np.indices(shape).sum(0) > 60).astype(np.uint8))
    config = DataConfig.model_validate({"path": tmp_path, "resize_px": [32, 24]})
    data = read_dataset(config)
    assert [sample.image.shape for sample in data.samples] == [(1, 32, 24)] * 3
    assert [place(shape, None, data.in_plane).scale for shape in shapes.values()] == [(2, 2), (2.5, 4 / 3), (1, 1)]
    raw = read_image(tmp_path / "images" / "a.tif")[0].image
    means = raw.reshape(1, 32, 2, 24, 2).mean((2, 4))
    np.testing.assert_allclose(data.samples[0].image, means, atol=1e-4)
    assert InPlane.from_json(manifest(data, split_cases(data, SplitConfig()))["in_plane"]) == data.in_plane
    for sample, shape in zip(data.samples, shapes.values(), strict=True):
        back = restore_mask(np.asarray(sample.mask), sample.placement)
        assert back.shape == shape
        wanted = np.indices(shape).sum(0) > 60
        assert (back != wanted).mean() < 0.05


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="resample_mm and resize_px both say the grid"):
        DataConfig.model_validate({"path": tmp_path, "resample_mm": 0.5, "resize_px": 64})
    with pytest.raises(UserError, match=r"a\.png: its pixel spacing is not recorded: .*give data\.resize_px"):
        place((5, 5), None, InPlane((1.0, 1.0), None), "a.png")
    with pytest.raises(UserError, match="phantom: is not resampled"):
        read_dataset(DataConfig.model_validate({"path": "phantom", "crop_px": 64}))
