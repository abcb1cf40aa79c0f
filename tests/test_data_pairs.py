"""Pictures with masks in folders: naming habits, formats, classes, channels, and every refusal in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from quantunet.data import DataConfig, read_dataset, split_cases, with_channels
from quantunet.errors import UserError

RNG = np.random.default_rng(7)


def picture(channels: int = 1, size: tuple[int, int] = (12, 10)) -> np.ndarray:
    return RNG.integers(0, 256, size if channels == 1 else (*size, channels)).astype(np.uint8)


def mask(value: int = 255, size: tuple[int, int] = (12, 10), corner: int = 3) -> np.ndarray:
    out = np.zeros(size, np.uint8)
    out[:corner, :corner] = value
    return out


def save(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, array, **options)
    else:
        Image.fromarray(array).save(path, **options)
    return path


def read(path: Path, **options):
    return read_dataset(DataConfig.model_validate({"path": path, **options}))


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


HABITS = [
    ("images/{}.png", "masks/{}.png"),
    ("imgs/{}.jpg", "masks_png/{}.png"),
    ("Images/{}.bmp", "Ground_Truth/{}.bmp"),
    ("image/{}.png", "label/{}.png"),
    ("img/{}.tif", "annotations/{}.png"),
    ("train/images/{}.png", "train/masks/{}.png"),
    ("images/train/{}.png", "masks/train/{}.png"),
    ("images/{}.jpg", "masks/{}_segmentation.png"),
    ("images/{}_img.png", "masks/{}_mask.png"),
    ("images/image_{}.png", "labels/label_{}.png"),
    ("{}.png", "{}_mask.png"),
    ("{}.jpg", "{}_seg.png"),
    ("{}.tif", "{}_label.tif"),
    ("deep/er/{}.png", "deep/er/{}-mask.png"),
    ("{}.png", "gt_{}.png"),
    ("train_images/{}.png", "train_masks/{}.png"),
    ("ISIC2018_Task1-2_Training_Input/{}.jpg", "ISIC2018_Task1-2_Training_GroundTruth/{}_segmentation.png"),
    ("Original/{}.png", "Ground Truth/{}.png"),
    ("train/{}.bmp", "train/{}_anno.bmp"),
    ("stage1_train/{0}/images/{0}.png", "stage1_train/{0}/masks/any-name-{0}0b.png"),
    ("lesion/{}.png", "lesion/{}_mask.png"),
]


@pytest.mark.parametrize(("image_name", "mask_name"), HABITS)
def test_naming_habits_are_found_by_themselves(tmp_path, image_name, mask_name):
    corners = {"p10": 2, "p2": 4, "p1": 5}
    for stem, corner in corners.items():
        save(tmp_path / image_name.format(stem), picture())
        save(tmp_path / mask_name.format(stem), mask(corner=corner))
    data = read(tmp_path)
    assert data.reader == "pairs"
    assert [sample.name.replace("_img", "").replace("image_", "") for sample in data.samples] == ["p1", "p2", "p10"]
    assert [int(sample.mask.sum()) for sample in data.samples] == [25, 16, 4]
    assert data.class_names == ("background", "foreground")
    assert data.samples[0].image.shape == (1, 12, 10)
    assert data.samples[0].image.dtype == np.float32


def test_test_folder_is_the_given_split(tmp_path):
    for k in range(6):
        save(tmp_path / f"images/{k}.png", picture())
        save(tmp_path / f"masks/{k}.png", mask())
    for k in range(2):  # the same stems as above: told apart by their folder
        save(tmp_path / f"test/images/{k}.png", picture())
        save(tmp_path / f"test/masks/{k}.png", mask())
    data = read(tmp_path)
    split = split_cases(data, DataConfig.model_validate({}).split)
    assert split.test == ("test/images/0", "test/images/1")
    assert len(split.train) == 5
    assert len(split.validation) == 1


def test_busi_masks_are_merged_by_union(tmp_path):
    for folder in ("benign", "normal"):
        save(tmp_path / folder / f"{folder} (1).png", picture(3))
        save(tmp_path / folder / f"{folder} (1)_mask.png", mask(corner=2))
    second = np.zeros((12, 10), np.uint8)
    second[-2:, -3:] = 255
    save(tmp_path / "benign/benign (1)_mask_1.png", second)
    data = read(tmp_path)
    assert [int(sample.mask.sum()) for sample in data.samples] == [4 + 6, 4]
    assert data.channels == 3
    assert any("1 images have several masks" in line for line in data.problems)


def test_case_pattern_groups_pictures_by_patient(tmp_path):
    for name in ("P_01-5", "P_01-6", "P_02-1"):
        save(tmp_path / f"images/{name}.png", picture())
        save(tmp_path / f"masks/{name}.png", mask())
    data = read(tmp_path, case_pattern=r"P_(\d+)-")
    assert data.case_ids == ("01", "02")
    assert data.samples[1].name == "01/P_01-6"
    assert "case_pattern" in refusal(tmp_path, case_pattern=r"Q_(\d+)-")


def test_palette_masks_are_read_as_indices(tmp_path):
    indices = mask(1) + np.flip(mask(2), 0)
    for k in range(2):
        save(tmp_path / f"images/{k}.png", picture())
        coloured = Image.fromarray(indices).convert("P")
        coloured.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
        coloured.putdata(indices.reshape(-1).tolist())
        (tmp_path / "masks").mkdir(exist_ok=True)
        coloured.save(tmp_path / f"masks/{k}.png")
    data = read(tmp_path)
    assert data.class_names == ("background", "class_1", "class_2")
    np.testing.assert_array_equal(data.samples[0].mask, indices)


def test_jpeg_masks_are_thresholded_with_a_note(tmp_path):
    big = mask(255, (64, 64), 30)
    for k in range(2):
        save(tmp_path / f"images/{k}.png", picture(1, (64, 64)))
        save(tmp_path / f"masks/{k}.jpg", big, quality=90)
    data = read(tmp_path)
    np.testing.assert_array_equal(data.samples[0].mask, big > 0)
    assert any("JPEG" in line for line in data.problems)
    save(tmp_path / "masks/0.jpg", picture(1, (64, 64)))
    assert "save masks as PNG" in refusal(tmp_path)


def test_declared_classes(tmp_path):
    for k in range(2):
        save(tmp_path / f"images/{k}.png", picture())
        save(tmp_path / f"masks/{k}.png", mask(1) + np.flip(mask(2), 0) + np.flip(mask(4), 1))
    data = read(tmp_path, classes={"core": [4], "whole": [1, 2]})
    assert data.class_names == ("background", "core", "whole")
    assert np.bincount(data.samples[0].mask.reshape(-1)).tolist() == [120 - 27, 9, 18]
    assert "mask value 4" in refusal(tmp_path, classes={"whole": [1, 2]})
    assert "none of its mask values [9]" in refusal(tmp_path, classes={"x": [9], "whole": [1, 2, 4]})
    with_background = read(tmp_path, classes={"whole": [1, 2], "background": [0, 4]})
    assert with_background.class_values == ((0, 4), (1, 2))


def test_zero_may_be_the_foreground_and_1_and_255_may_mean_the_same(tmp_path):
    for k, value in enumerate((1, 255)):
        save(tmp_path / f"images/{k}.png", picture())
        save(tmp_path / f"masks/{k}.png", mask(value))
    data = read(tmp_path)
    assert data.class_names == ("background", "foreground")
    assert all(sample.mask.sum() == 9 for sample in data.samples)
    assert any("1, others 255" in line for line in data.problems)
    save(tmp_path / "masks/0.png", mask(255))
    inverted = read(tmp_path, classes={"membrane": [0]})
    assert inverted.class_values == ((255,), (0,))
    assert inverted.samples[0].mask.sum() == 120 - 9


def test_grey_rgb_alpha_and_16_bit(tmp_path):
    grey = picture()
    save(tmp_path / "images/a.png", grey)
    save(tmp_path / "images/b.png", np.stack([grey] * 3, axis=2))
    save(tmp_path / "images/c.png", np.stack([grey] * 3 + [picture()], axis=2))
    save(tmp_path / "images/d.tif", grey.astype(np.uint16) * 257)
    for stem in "abcd":
        save(tmp_path / f"masks/{stem}.png", mask())
    data = read(tmp_path)
    assert data.channels == 1
    for sample, factor in zip(data.samples, (1, 1, 1, 257), strict=True):
        np.testing.assert_array_equal(sample.image[0], grey.astype(np.float32) * factor)


def test_mixed_channels_are_refused_unless_faintly_tinted_or_asked_for(tmp_path):
    save(tmp_path / "images/a.png", picture())
    save(tmp_path / "images/b.png", picture(3))
    for stem in "ab":
        save(tmp_path / f"masks/{stem}.png", mask())
    assert "data.channels: grey" in refusal(tmp_path)
    assert read(tmp_path, channels="grey").channels == 1
    assert read(tmp_path, channels="rgb").channels == 3
    tinted = np.stack([picture()] * 3, axis=2)
    tinted[..., 0] = np.minimum(tinted[..., 0], 250) + 3
    save(tmp_path / "images/b.png", tinted)
    data = read(tmp_path)
    assert data.channels == 1
    assert any("faintly tinted" in line for line in data.problems)


def test_luma_of_equal_channels_is_that_channel():
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(with_channels(np.repeat(grey, 3, 0), 1), grey.astype(np.float32))
    with pytest.raises(UserError, match="2 channels"):
        with_channels(np.zeros((2, 4, 4), np.float32), 1)


def two_pairs(folder: Path) -> Path:
    for k in range(2):
        save(folder / f"images/{k}.png", picture())
        save(folder / f"masks/{k}.png", mask())
    return folder


def test_refusals_name_the_file_and_the_repair(tmp_path):
    assert "no such folder" in refusal(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "no images in it" in refusal(tmp_path / "empty")

    root = two_pairs(tmp_path / "missing")
    (root / "masks/1.png").unlink()
    assert "images/1.png: has no mask" in refusal(root)

    root = two_pairs(tmp_path / "none")
    for path in (root / "masks").iterdir():
        path.unlink()
    assert "no masks" in refusal(root)

    root = two_pairs(tmp_path / "sizes")
    save(root / "masks/1.png", mask(size=(12, 11)))
    assert "masks/1.png: 12x11 pixels, but 1.png has 12x10" in refusal(root)

    root = two_pairs(tmp_path / "colour")
    save(root / "masks/1.png", picture(3))
    assert "colour mask" in refusal(root)

    root = two_pairs(tmp_path / "fractions")
    (root / "masks/1.png").unlink()
    save(root / "masks/1.tif", mask().astype(np.float32) / 510)
    assert "fractions (0.5)" in refusal(root)

    root = two_pairs(tmp_path / "grey")
    save(root / "images/1.png", picture(1, (40, 40)))
    save(root / "masks/1.png", picture(1, (40, 40)))
    assert "different values" in refusal(root)

    root = two_pairs(tmp_path / "blank")
    for k in range(2):
        save(root / f"masks/{k}.png", mask(0))
    assert "no foreground" in refusal(root)

    root = two_pairs(tmp_path / "nan")
    (root / "images/1.png").unlink()
    save(root / "images/1.tif", np.full((12, 10), np.nan, np.float32))
    assert "1.tif: has NaN" in refusal(root)


def test_a_mask_without_image_is_a_line(tmp_path):
    root = two_pairs(tmp_path)
    save(root / "masks/9.png", mask())
    data = read(root)
    assert len(data.samples) == 2
    assert any("masks/9.png: a mask without an image" in line for line in data.problems)


def test_parts_in_folder_names(tmp_path):
    for part in ("train", "val", "test"):
        for k in range(3):
            save(tmp_path / f"{part}_images/{part}{k}.png", picture())
            save(tmp_path / f"{part}_masks/{part}{k}.png", mask())
    split = split_cases(read(tmp_path), DataConfig.model_validate({}).split)
    assert split.validation == ("val0", "val1", "val2")
    assert split.test == ("test0", "test1", "test2")


@pytest.mark.parametrize("name", ["1.png", "1.tif", "1.jpg", "1.bmp"])
def test_truncated_pictures_are_refused(tmp_path, name):
    root = two_pairs(tmp_path)
    (root / "images/1.png").unlink()
    path = save(root / "images" / name, picture())
    content = path.read_bytes()
    for keep in (len(content) * 2 // 3, 10, 0):
        path.write_bytes(content[:keep])
        assert f"{name}: damaged" in refusal(root)


def test_every_flipped_bit_in_a_png_is_refused_or_harmless(tmp_path):
    root = two_pairs(tmp_path)
    path = root / "images/1.png"
    content = path.read_bytes()
    expected = read(root).samples[1].image
    refused = 0
    for position in range(8, len(content), 3):
        broken = bytearray(content)
        broken[position] ^= 0x10
        path.write_bytes(bytes(broken))
        try:
            np.testing.assert_array_equal(read(root).samples[1].image, expected)
        except UserError:
            refused += 1
    assert refused > 30
