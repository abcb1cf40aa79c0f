"""Multi-page TIFFs and the kaggle_3m layout."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from quantunet.data import DataConfig, SplitConfig, read_dataset, read_image, split_cases
from quantunet.errors import UserError

RNG = np.random.default_rng(3)


def write_stack(folder, image="train-volume.tif", labels="train-labels.tif", pages=10, **options):
    folder.mkdir(parents=True, exist_ok=True)
    volume = RNG.integers(0, 256, (pages, 16, 20)).astype(np.uint8)
    values = (volume > 128).astype(np.uint8) * 255
    options = {"photometric": "minisblack", **options}
    tifffile.imwrite(folder / image, volume, **options)
    tifffile.imwrite(folder / labels, values, **options)
    return volume, values


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("train-volume.tif", "train-labels.tif"),
        ("cells.tiff", "cells_mask.tiff"),
        ("volume.tif", "labels.tif"),
        ("images/a.tif", "masks/a.tif"),
    ],
)
def test_stack_habits(tmp_path, image, labels):
    for name in (image, labels):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    volume, values = write_stack(tmp_path, image, labels)
    data = read_dataset(DataConfig(path=tmp_path))
    assert data.reader == "stack"
    assert data.case_ids == tuple(f"slice_{k:02d}" for k in range(10))
    np.testing.assert_array_equal(np.stack([s.image[0] for s in data.samples]), volume)
    np.testing.assert_array_equal(np.stack([s.mask for s in data.samples]), values // 255)
    assert [s.index for s in data.samples] == list(range(10))
    split = split_cases(data, SplitConfig())
    assert split.train + split.validation + split.test == data.case_ids  # blocks, the test block last
    assert [len(split.train), len(split.validation), len(split.test)] == [6, 2, 2]


@pytest.mark.parametrize(
    "options",
    [{"imagej": True, "metadata": {"axes": "ZYX"}}, {"compression": "zlib"}, {"bigtiff": True}, {"metadata": None}],
)
def test_kinds_of_tiff(tmp_path, options):
    volume, _ = write_stack(tmp_path, pages=4, **options)
    data = read_dataset(DataConfig(path=tmp_path, reader="stack"))
    np.testing.assert_array_equal(np.stack([s.image[0] for s in data.samples]), volume)


def test_unlabelled_test_volume_is_a_line(tmp_path):
    volume, _ = write_stack(tmp_path)
    tifffile.imwrite(tmp_path / "test-volume.tif", volume)
    data = read_dataset(DataConfig(path=tmp_path))
    assert any("test-volume.tif: no mask" in line for line in data.problems)


def test_imagej_spacing_is_read_in_mm(tmp_path):
    metadata = {"unit": "um", "spacing": 50.0, "axes": "ZYX"}
    write_stack(tmp_path, pages=3, imagej=True, resolution=(0.25, 0.5), metadata=metadata)
    sample = read_dataset(DataConfig(path=tmp_path)).samples[0]
    assert sample.spacing_mm == pytest.approx((0.05, 0.002, 0.004), rel=1e-6)  # tags are 32-bit fractions


def test_refusals(tmp_path):
    volume, _ = write_stack(tmp_path)
    tifffile.imwrite(tmp_path / "train-labels.tif", (volume > 128)[:9].astype(np.uint8))
    with pytest.raises(UserError, match=r"9 pages of 16x20, but train-volume.tif has 10"):
        read_dataset(DataConfig(path=tmp_path))
    (tmp_path / "train-labels.tif").unlink()
    with pytest.raises(UserError, match="no masks"):
        read_dataset(DataConfig(path=tmp_path))
    with pytest.raises(UserError, match=r"no .tif files"):
        read_dataset(DataConfig(path=_empty(tmp_path), reader="stack"))


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"imagej": True}])
def test_truncated_stacks_are_refused(tmp_path, options):
    write_stack(tmp_path, **options)
    path = tmp_path / "train-volume.tif"
    content = path.read_bytes()
    for keep in (len(content) - 40, len(content) // 2, 300, 6):
        path.write_bytes(content[:keep])
        with pytest.raises(UserError, match=r"train-volume.tif: damaged") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


def _empty(folder):
    empty = folder / "empty"
    empty.mkdir()
    return empty


def test_kaggle_3m(tmp_path):
    for patient in ("TCGA_CS_1_2000", "TCGA_DU_2_2001"):
        folder = tmp_path / "kaggle_3m" / patient
        folder.mkdir(parents=True)
        for k in (1, 2, 10):
            tifffile.imwrite(folder / f"{patient}_{k}.tif", RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8))
            tifffile.imwrite(folder / f"{patient}_{k}_mask.tif", np.eye(8, dtype=np.uint8) * 255 * (k > 1))
    data = read_dataset(DataConfig(path=tmp_path))
    assert data.reader == "kaggle_3m"
    assert data.channels == 3
    assert data.case_ids == ("TCGA_CS_1_2000", "TCGA_DU_2_2001")
    assert [s.name for s in data.samples[:3]] == [f"TCGA_CS_1_2000/slice_{k}" for k in ("01", "02", "10")]
    assert any("2 of 6 masks are empty" in line for line in data.problems)
    (tmp_path / "kaggle_3m/TCGA_CS_1_2000/TCGA_CS_1_2000_2_mask.tif").unlink()
    with pytest.raises(UserError, match=r"TCGA_CS_1_2000_2.tif: has no mask"):
        read_dataset(DataConfig(path=tmp_path))
