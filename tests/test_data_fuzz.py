"""Damaged files: whatever a flipped byte does, the answer is an array or one clear line."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from quantunet.data import read_image
from quantunet.data.image_file import read_label_pages
from quantunet.errors import UserError

MUTATIONS = 150


def _write(path, kind):
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 256, (3, 12, 14)).astype(np.uint8)
    match kind:
        case "tiff":
            tifffile.imwrite(path, volume, photometric="minisblack")
        case "deflate":
            tifffile.imwrite(path, volume, photometric="minisblack", compression="zlib", metadata=None)
        case "imagej":
            tifffile.imwrite(path, volume, imagej=True, metadata={"axes": "ZYX"})
        case "nifti":
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
        case _:
            Image.fromarray(volume[0]).save(path)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("tiff", "a.tif"),
        ("deflate", "a.tif"),
        ("imagej", "a.tif"),
        ("png", "a.png"),
        ("jpeg", "a.jpg"),
        ("bmp", "a.bmp"),
        ("nifti", "a.nii"),
    ],
)
def test_mutated_files_never_raise_anything_but_a_user_error(tmp_path, kind, name):
    path = tmp_path / name
    _write(path, kind)
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    readers = [read_image] if kind == "nifti" else [read_image, read_label_pages]
    refused = 0
    for _ in range(MUTATIONS):
        broken = bytearray(content)
        # most of the bytes that matter are in the header
        reach = min(len(broken), 400) if rng.random() < 0.7 else len(broken)
        broken[rng.integers(reach)] = rng.integers(256)
        if rng.random() < 0.1:
            broken = broken[: rng.integers(len(broken))]
        path.write_bytes(bytes(broken))
        for read in readers:
            try:
                read(path)
            except UserError as error:
                refused += 1
                assert "\n" not in str(error)  # noqa: PT017 - both outcomes are right
                assert name in str(error)  # noqa: PT017
    assert refused > 0


def test_mutated_headers_inside_an_intact_gzip(tmp_path):
    _write(tmp_path / "a.nii", "nifti")
    content = (tmp_path / "a.nii").read_bytes()
    path = tmp_path / "b.nii.gz"
    rng = np.random.default_rng(2)
    for _ in range(MUTATIONS):
        broken = bytearray(content)
        broken[rng.integers(352)] = rng.integers(256)
        path.write_bytes(gzip.compress(bytes(broken), 1))
        try:
            read_image(path)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 - both outcomes are right
