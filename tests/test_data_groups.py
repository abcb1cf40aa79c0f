"""Who stays together: patients found in names, pictures with the same pixels (BUSI), absent public sets."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from quantunet.data import DataConfig, SplitConfig, check_no_leak, read_dataset, split_cases
from quantunet.data.known_sets import KNOWN_SETS, known_set
from quantunet.errors import UserError

RNG = np.random.default_rng(4)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def busi(root: Path) -> None:
    """12 pictures; benign (1) is also malignant (2), with another mask; benign (3) has two masks; normals are empty."""
    first = RNG.integers(0, 256, (9, 8)).astype(np.uint8)
    for kind in ("benign", "malignant", "normal"):
        for k in range(1, 5):
            is_double = (kind, k) in (("benign", 1), ("malignant", 2))
            pixels = first if is_double else RNG.integers(0, 256, (9, 8)).astype(np.uint8)
            save(root / kind / f"{kind} ({k}).png", pixels)
            mask = np.zeros((9, 8), np.uint8)
            if kind != "normal":
                mask[: k + 1, :2] = 255
            save(root / kind / f"{kind} ({k})_mask.png", mask)
    extra = np.zeros((9, 8), np.uint8)
    extra[-1, -1] = 255
    save(root / "benign" / "benign (3)_mask_1.png", extra)


def test_busi_duplicates_stay_together(tmp_path):
    busi(tmp_path)
    data = read_dataset(DataConfig(path=tmp_path))
    assert (data.reader, len(data.samples), len(data.case_ids)) == ("pairs", 12, 12)
    assert len(set(data.group_of.values())) == 11
    assert data.group_of["benign (1)"] == data.group_of["malignant (2)"] == "benign (1)"
    assert any("1 pictures have the same pixels as another, the first is malignant (2)" in p for p in data.problems)
    assert any("another mask than their double: malignant (2), benign (1)" in p for p in data.problems)
    assert int((data.samples[2].mask > 0).sum()) == 4 * 2 + 1  # both masks
    for seed in range(15):
        split = split_cases(data, SplitConfig(seed=seed))
        assert split.part_of("benign (1)") == split.part_of("malignant (2)")
        check_no_leak(data, split)  # no error


def test_doubles_that_folders_separate_are_a_leak(tmp_path):
    pixels = RNG.integers(0, 256, (9, 8)).astype(np.uint8)
    for part, names in (("train", "abcd"), ("test", "ef")):
        for name in names:
            own = pixels if name in "af" else RNG.integers(0, 256, (9, 8)).astype(np.uint8)
            save(tmp_path / part / f"images/{name}.png", own)
            save(tmp_path / part / f"masks/{name}.png", np.eye(9, 8, dtype=np.uint8))
    data = read_dataset(DataConfig(path=tmp_path))
    with pytest.raises(UserError, match=r"a \(train\) is the same image as f \(test\): a leak"):
        check_no_leak(data, split_cases(data, SplitConfig()))


@pytest.mark.parametrize(
    ("names", "cases"),
    [
        (("PANCREAS_0001-1106", "PANCREAS_0001-1107", "PANCREAS_0002-1106"), ("PANCREAS_0001", "PANCREAS_0002")),
        (("patient001_frame01", "patient001_frame12", "patient002_frame01"), ("patient001", "patient002")),
        (("sub-01_slice1", "sub-01_slice2", "sub-02_slice1"), ("sub-01", "sub-02")),
        (("PANCREAS_0001-1106", "other", "PANCREAS_0002-1106"), ("PANCREAS_0001-1106", "other", "PANCREAS_0002-1106")),
    ],
)
def test_patients_are_found_in_the_names_of_pictures(tmp_path, names, cases):
    for name in names:
        save(tmp_path / f"images/{name}.png", RNG.integers(0, 256, (9, 8)).astype(np.uint8))
        save(tmp_path / f"masks/{name}.png", np.eye(9, 8, dtype=np.uint8))
    data = read_dataset(DataConfig(path=tmp_path))
    assert sorted(data.case_ids) == sorted(cases)
    assert any("patients found in the names" in line for line in data.hints) == (len(cases) < len(names))
    by_file = read_dataset(DataConfig(path=tmp_path, case_pattern=r"images/(.+)\.png"))
    assert len(by_file.case_ids) == 3


def volume(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([1.0, 1.0, 5.0, 1.0])), path)


def test_msd_task_with_channels_and_names(tmp_path):
    for k in range(3):
        volume(tmp_path / f"imagesTr/prostate_{k}.nii.gz", RNG.standard_normal((5, 6, 2, 2)).astype(np.float32))
        volume(tmp_path / f"labelsTr/prostate_{k}.nii.gz", np.resize(np.arange(3, dtype=np.uint8), (5, 6, 2)))
    volume(tmp_path / "imagesTs/prostate_9.nii.gz", np.ones((5, 6, 2, 2), np.float32))
    volume(tmp_path / "imagesTr/._prostate_0.nii.gz", np.ones((2, 2, 2), np.float32))  # macOS leaves such files
    facts = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "PZ", "2": "TZ"}}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    data = read_dataset(DataConfig(path=tmp_path))
    assert (data.channels, len(data.case_ids), data.class_names) == (2, 3, ("background", "PZ", "TZ"))
    assert data.samples[0].spacing_mm == (5.0, 1.0, 1.0)
    assert any("prostate_9.nii.gz: no mask, left out" in line for line in data.problems)
    (tmp_path / "dataset.json").write_text(json.dumps(facts | {"modality": {"0": "T2"}}))
    with pytest.raises(UserError, match=r"prostate_0.nii.gz: 2 channel\(s\), but dataset.json names 1 \(T2\)"):
        read_dataset(DataConfig(path=tmp_path))
    for text in ("{", "[]"):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(UserError, match=r"dataset\.json: not readable as JSON"):
            read_dataset(DataConfig(path=tmp_path))


@pytest.mark.parametrize("key", ["modality", "channel_names"])
def test_modality_ct_suggests_a_window(tmp_path, key):
    volume(tmp_path / "imagesTr/spleen_2.nii.gz", RNG.integers(-100, 300, (5, 6, 2)).astype(np.int16))
    volume(tmp_path / "labelsTr/spleen_2.nii.gz", np.resize(np.arange(2, dtype=np.uint8), (5, 6, 2)))
    (tmp_path / "dataset.json").write_text(json.dumps({key: {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}}))
    hint = "the values are CT numbers (Hounsfield units): normalization: {kind: window, low: -160, high: 240}"
    assert any(hint in line for line in read_dataset(DataConfig(path=tmp_path)).hints)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("isbi2012_em", "ISBI 2012 EM"),
        ("Dataset_BUSI_with_GT", "BUSI breast ultrasound"),
        ("MICCAI_BraTS2020_TrainingData", "BraTS"),
        ("BraTS2021", "BraTS"),
        ("brats2015_small", "BraTS"),
        ("Pancreas-CT", "NIH Pancreas-CT"),
        ("pancreas_ct_nih_jpg", "NIH Pancreas-CT"),
        ("spinalcord_gm_t2star", "spinal cord grey matter, BIDS (gm-challenge-data)"),
        ("gm_challenge", "spinal cord grey matter challenge 2016"),
        ("gm-challenge-data", "spinal cord grey matter, BIDS (gm-challenge-data)"),
        ("Task09_Spleen", "Medical Segmentation Decathlon"),
        ("kaggle_3m", "LGG MRI (kaggle_3m)"),
        ("us_nerve_vessel_usgra", "usgra-seg nerve and vessel ultrasound"),
        ("my_images", None),
    ],
)
def test_an_absent_public_set_says_where_it_is(tmp_path, folder, name):
    one = known_set(Path(folder))
    assert (one.name if one else None) == name
    with pytest.raises(UserError) as caught:
        read_dataset(DataConfig(path=tmp_path / folder))
    message = str(caught.value)
    assert "\n" not in message
    assert f"{folder}: no such folder" in message
    if one is not None:
        assert one.page in message
        assert one.licence in message
        assert "not downloaded for you" in message


def test_every_known_set_is_complete():
    for one in KNOWN_SETS:
        assert all([one.name, one.page.startswith("http"), one.licence, one.citation, one.layout, one.aliases])
        assert all(alias.isalnum() and alias == alias.lower() for alias in one.aliases)
    aliases = [alias for one in KNOWN_SETS for alias in one.aliases]
    assert len(set(aliases)) == len(aliases)


def test_the_document_names_every_set_and_every_key():
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    for one in KNOWN_SETS:
        row = next(line for line in text.splitlines() if line.startswith(f"| {one.name} |"))
        assert one.licence in row
        assert all(word in row for word in one.page.replace(",", "").split() if word.startswith("http"))
    for key in DataConfig.model_fields:
        assert f"`{key}`" in text, key
