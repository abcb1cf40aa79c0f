"""Masks written in the input's own format and geometry; descriptions and the examples picture."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from quantunet.data import (
    SplitConfig,
    describe,
    phantom_dataset,
    read_image,
    split_cases,
    write_examples_picture,
    write_masks,
)
from quantunet.data.image_file import read_label_pages
from quantunet.errors import UserError

RNG = np.random.default_rng(2)


def masks(pages: int, height: int = 9, width: int = 13) -> np.ndarray:
    return RNG.integers(0, 3, (pages, height, width)).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "expected"), [("a.png", "a_mask.png"), ("a.jpg", "a_mask.png"), ("a.bmp", "a_mask.bmp")]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures(tmp_path, name, expected, channels):
    array = RNG.integers(0, 256, (9, 13) if channels == 1 else (9, 13, 3)).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / name)
    samples = read_image(tmp_path / name)
    assert samples[0].image.shape == (channels, 9, 13)
    assert read_image(tmp_path / name, channels=1)[0].image.shape == (1, 9, 13)
    written = masks(1)
    path = write_masks(tmp_path / "out", tmp_path / name, written)
    assert path.name == expected
    np.testing.assert_array_equal(read_label_pages(path)[0], written)
    path = write_masks(tmp_path / "out", tmp_path / name, written, values=(0, 128, 255))
    np.testing.assert_array_equal(read_label_pages(path)[0], np.array([0, 128, 255])[written])
    assert [p.name for p in (tmp_path / "out").iterdir()] == [expected]


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib"},
        {"imagej": True, "metadata": {"axes": "ZYX", "unit": "um", "spacing": 2.0}},
        {"bigtiff": True, "byteorder": ">"},
        {"metadata": None, "resolutionunit": "CENTIMETER"},
    ],
)
@pytest.mark.parametrize("pages", [1, 2, 3, 4, 5])
def test_tiff_keeps_pages_and_resolution(tmp_path, options, pages):
    source = tmp_path / "s.tif"
    volume = RNG.integers(0, 60000, (pages, 9, 13)).astype(np.uint16)
    tifffile.imwrite(source, volume, photometric="minisblack", resolution=(4.0, 2.5), **options)
    samples = read_image(source)
    np.testing.assert_array_equal(np.stack([sample.image[0] for sample in samples]), volume.astype(np.float32))
    written = masks(pages)
    path = write_masks(tmp_path / "out", source, written)
    np.testing.assert_array_equal(read_label_pages(path)[0], written)
    with tifffile.TiffFile(source) as one, tifffile.TiffFile(path) as other:
        assert len(one.pages) == len(other.pages) == pages
        assert one.byteorder == other.byteorder
        for tag in ("XResolution", "YResolution", "ResolutionUnit"):
            assert one.pages.first.tags[tag].value == other.pages.first.tags[tag].value
        if "imagej" in options:
            assert other.imagej_metadata["unit"] == one.imagej_metadata["unit"]
    assert read_image(path)[0].spacing_mm == samples[0].spacing_mm


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL", "ILP"])
def test_nifti_keeps_header_and_affine_in_any_orientation(tmp_path, name, codes):
    axes = nibabel.orientations.axcodes2ornt(tuple(codes))
    affine = nibabel.orientations.inv_ornt_aff(axes, (5, 6, 7)) @ np.diag([0.7, 0.9, 2.5, 1.0])
    affine[:3, :3] = affine[:3, :3] @ _rotation(0.2)  # oblique
    image = nibabel.Nifti1Image(RNG.integers(0, 500, (5, 6, 7)).astype(np.int16), affine)
    image.header.set_slope_inter(0.5, -10)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=2)
    source = tmp_path / name
    nibabel.save(image, source)
    samples = read_image(source)
    assert len(samples) == 7
    stored = np.asanyarray(nibabel.load(source).dataobj)
    # a mask made by thresholding each slice must lie on the same voxels
    written = np.stack([sample.image[0] > 100 for sample in samples]).astype(np.uint8)
    path = write_masks(tmp_path / "out", source, written)
    assert path.name == name.replace("v", "v_mask", 1)
    back, original = nibabel.load(path), nibabel.load(source)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), stored.astype(np.float32) > 100)
    assert back.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(back.affine, original.affine)
    for field in ("qform_code", "sform_code", "pixdim", "srow_x", "quatern_b", "xyzt_units"):
        np.testing.assert_array_equal(back.header[field], original.header[field])
    assert read_image(path)[0].spacing_mm == samples[0].spacing_mm


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def test_refusals_leave_nothing_behind(tmp_path):
    Image.fromarray(np.zeros((9, 13), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"needs masks of shape \(1, 9, 13\)"):
        write_masks(tmp_path / "out", tmp_path / "a.png", masks(1, 9, 12))
    with pytest.raises(UserError, match="overwrite the image"):
        write_masks(tmp_path, tmp_path / "a.png", masks(1), suffix="")
    with pytest.raises(UserError, match="8 bits"):
        write_masks(tmp_path / "out", tmp_path / "a.png", masks(1), values=(0, 256, 3))
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "notes.txt").write_text("x")
    for path, word in (("absent.png", "no such file"), ("notes.txt", "unknown kind"), ("out", "a folder")):
        with pytest.raises(UserError, match=word):
            read_image(tmp_path / path)


def test_describe_and_picture(tmp_path: Path):
    data = phantom_dataset(cases=6, slices=2, size=64)
    split = split_cases(data, SplitConfig())
    described = describe(data, split)
    assert json.loads(json.dumps(described)) == described
    assert described["samples"] == 12
    assert described["shapes"] == {"64x64": 12}
    fraction = float(np.mean([sample.mask.mean() for sample in data.samples]))
    assert described["foreground_fraction"]["lesion"] == pytest.approx(fraction, rel=1e-12)
    assert sum(part["samples"] for part in described["split"].values()) == 12
    path = write_examples_picture(data, tmp_path / "examples.png")
    with Image.open(path) as picture:
        assert min(picture.size) > 300
