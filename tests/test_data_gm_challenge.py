"""The 2016 grey-matter challenge: four raters, their vote, its tie rule."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from quantunet.data import DataConfig, read_dataset, split_cases
from quantunet.data.read_gm_challenge import majority
from quantunet.errors import UserError

RNG = np.random.default_rng(2)
SHAPE = (6, 7, 3)


def write(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([0.25, 0.25, 2.5, 1.0])), path)


def challenge(root: Path) -> dict[str, list[np.ndarray]]:
    votes = {}
    for site, number in ((1, 1), (1, 2), (2, 1), (3, 10)):
        subject = f"site{site}-sc{number:02d}"
        write(root / f"{subject}-image.nii.gz", RNG.integers(0, 900, SHAPE).astype(np.int16))
        (root / f"{subject}-levels.txt").write_text("C3\n")
        votes[subject] = [RNG.integers(0, 3, SHAPE).astype(np.uint8) for _ in range(4)]
        for rater, vote in enumerate(votes[subject], start=1):
            write(root / f"{subject}-mask-r{rater}.nii.gz", vote)
    return votes


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read_dataset(DataConfig.model_validate({"path": path, **options}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ((0, 0, 0, 1), 0),
        ((0, 1, 1, 1), 1),
        ((0, 0, 1, 1), 0),  # 2:2 is background
        ((1, 2, 1, 2), 1),  # 2:2 of grey and white is grey
        ((0, 1, 1, 2), 1),
        ((0, 1, 2, 2), 2),
        ((0, 0, 2, 1), 0),
        ((2, 2, 2, 1), 2),
    ],
)
def test_the_vote(votes, expected):
    arrays = [np.full((2, 1, 1), vote, np.uint8) for vote in votes]
    assert (majority(arrays) == expected).all()
    assert (majority(arrays[::-1]) == expected).all()


def test_majority_and_each_rater(tmp_path):
    votes = challenge(tmp_path)
    data = read_dataset(DataConfig(path=tmp_path))
    assert (data.reader, data.case_ids) == ("gm_challenge", tuple(votes))
    assert data.class_names == ("background", "grey_matter", "white_matter")
    assert data.samples[4].spacing_mm == (2.5, 0.25, 0.25)
    np.testing.assert_array_equal(data.samples[4].mask, majority(votes["site1-sc02"])[:, :, 1].T)
    for rater in (1, 4):
        own = read_dataset(DataConfig(path=tmp_path, rater=rater))
        np.testing.assert_array_equal(own.samples[4].mask, votes["site1-sc02"][rater - 1][:, :, 1].T)
    grey = {"grey_matter": [1], "background": [0, 2]}
    binary = read_dataset(DataConfig.model_validate({"path": tmp_path, "classes": grey}))
    np.testing.assert_array_equal(binary.samples[4].mask, majority(votes["site1-sc02"])[:, :, 1].T == 1)
    assert len(split_cases(data, DataConfig().split).train) == 2


def test_unlabelled_test_subjects_and_refusals(tmp_path):
    challenge(tmp_path / "train")
    write(tmp_path / "test/site1-sc11-image.nii.gz", np.ones(SHAPE, np.int16))
    data = read_dataset(DataConfig(path=tmp_path))
    assert "site1-sc11: no masks, left out" in data.problems
    assert "has no mask of rater 5, only of [1, 2, 3, 4]" in refusal(tmp_path, rater=5)
    (tmp_path / "train/site2-sc01-mask-r3.nii.gz").unlink()
    assert any("fewer raters" in line for line in read_dataset(DataConfig(path=tmp_path)).problems)
    assert "site2-sc01-image.nii.gz: has no mask of rater 3, only of [1, 2, 4]" in refusal(tmp_path, rater=3)
    write(tmp_path / "train/site2-sc01-mask-r2.nii.gz", np.ones((6, 7, 2), np.uint8))
    assert "site2-sc01-mask-r2.nii.gz: shape (6, 7, 2)" in refusal(tmp_path)
    write(tmp_path / "train/site4-sc01-image.nii.gz", np.ones(SHAPE, np.int16))
    assert "site4-sc01-image.nii.gz: has no masks" in refusal(tmp_path)
    write(tmp_path / "again/site1-sc01-image.nii.gz", np.ones(SHAPE, np.int16))
    assert "the same subject as" in refusal(tmp_path)
