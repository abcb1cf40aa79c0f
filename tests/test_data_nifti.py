"""NIfTI: layouts, geometry, and every damage that nibabel alone would let through."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from quantunet.data import DataConfig, read_dataset, read_image
from quantunet.errors import UserError

RNG = np.random.default_rng(11)
AFFINE = np.array([[-0.5, 0.01, 0, 10], [0.01, 0.7, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])
SHAPE = (7, 9, 4)


def write(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE, kind=nibabel.Nifti1Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(kind(data, affine), path)
    return path


def volume(dtype=np.int16) -> np.ndarray:
    return RNG.integers(0, 1000, SHAPE).astype(dtype)


def labels(values: int = 2) -> np.ndarray:
    return RNG.integers(0, values, SHAPE).astype(np.uint8)


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read_dataset(DataConfig.model_validate({"path": path, **options}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz"),
        ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz"),
        ("{}.nii.gz", "{}_seg.nii.gz"),
        ("{}/{}.nii", "{}/{}_mask.nii"),
        ("images/{}.nii", "masks/{}_label.nii"),
        ("{}.nii.gz", "{}_gmseg_manual.nii.gz"),
    ],
)
def test_layouts(tmp_path, image, mask):
    written = {}
    for case in ("hip_002", "hip_010"):
        written[case] = volume(), labels()
        write(tmp_path / image.format(case, case), written[case][0])
        write(tmp_path / mask.format(case, case), written[case][1])
    data = read_dataset(DataConfig(path=tmp_path))
    assert data.reader == "nifti"
    assert data.case_ids == ("hip_002", "hip_010")
    assert len(data.samples) == 2 * SHAPE[2]
    sample = data.samples[SHAPE[2] + 1]  # second volume, second slice
    assert sample.name == "hip_010/slice_001"
    np.testing.assert_array_equal(sample.image[0], written["hip_010"][0][:, :, 1].T)
    np.testing.assert_array_equal(sample.mask, written["hip_010"][1][:, :, 1].T)
    expected = (3.0, np.hypot(0.01, 0.7), np.hypot(0.5, 0.01))
    assert sample.spacing_mm == pytest.approx(expected, rel=1e-6)  # the header holds float32


def test_bids_label_choice_and_case_pattern(tmp_path):
    for session in ("sub-1Ses1", "sub-1Ses2", "sub-2"):
        write(tmp_path / session / "anat" / f"{session}_T2starw.nii.gz", volume())
        for tail in ("gmseg-manual", "seg-manual"):
            write(tmp_path / f"derivatives/labels/{session}/anat/{session}_T2starw_{tail}.nii.gz", labels())
    write(tmp_path / "sub-2/anat/sub-2_run-2_T2starw.nii.gz", volume())
    write(tmp_path / "other/x.nii.gz", volume())
    assert "choose one with data.label" in refusal(tmp_path)
    data = read_dataset(DataConfig(path=tmp_path, label="gmseg", case_pattern=r"sub-(\d+)"))
    assert data.case_ids == tuple(f"{session}_T2starw" for session in ("sub-1Ses1", "sub-1Ses2", "sub-2"))
    assert list(data.group_of.values()) == ["1", "1", "2"]  # a volume is a case, the patient what a split keeps whole
    by_itself = read_dataset(DataConfig(path=tmp_path, label="gmseg"))
    assert list(by_itself.group_of.values()) == ["sub-1", "sub-1", "sub-2"]
    assert any("patients found in the names (sub-1, ...): 2" in line for line in by_itself.hints)
    assert len(data.samples) == 3 * SHAPE[2]
    assert any("run-2" in line and "no mask" in line for line in data.problems)


def test_a_folder_per_case_with_the_same_names_in_each(tmp_path):
    written = {}
    for case in ("case_00", "case_01", "case_02"):
        written[case] = volume(), labels()
        write(tmp_path / case / "imaging.nii.gz", written[case][0])
        write(tmp_path / case / "segmentation.nii.gz", written[case][1])
    data = read_dataset(DataConfig(path=tmp_path))
    assert data.case_ids == tuple(written)
    assert data.channels == 1
    np.testing.assert_array_equal(data.samples[SHAPE[2]].mask, written["case_01"][1][:, :, 0].T)
    (tmp_path / "case_01/segmentation.nii.gz").unlink()
    assert "case_01/imaging.nii.gz: has no mask beside it" in refusal(tmp_path)
    write(tmp_path / "case_01/segmentation.nii.gz", labels())
    write(tmp_path / "case_01/other.nii.gz", volume())
    assert "number channels x_0000" in refusal(tmp_path)


def test_two_patients_of_one_name_are_never_channels(tmp_path):
    for hospital in ("north", "south"):
        write(tmp_path / f"{hospital}/images/p1.nii.gz", volume())
        write(tmp_path / f"{hospital}/labels/p1.nii.gz", labels())
    message = refusal(tmp_path)
    assert "south/images/p1.nii.gz: the same name as" in message
    assert "two cases of one name, rename one of them" in message


def test_dataset_json_names_the_classes(tmp_path):
    write(tmp_path / "imagesTr/a.nii.gz", volume())
    write(tmp_path / "labelsTr/a.nii.gz", labels(3))
    for stated in (
        {"0": "background", "1": "Anterior", "2": "Posterior"},
        {"background": 0, "Anterior": 1, "Posterior": 2},
    ):
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": stated}))
        assert read_dataset(DataConfig(path=tmp_path)).class_names == ("background", "Anterior", "Posterior")


def test_channels_scale_factors_and_nifti_2(tmp_path):
    image = nibabel.Nifti1Image(volume(np.int16), AFFINE)
    image.header.set_slope_inter(2.0, -1024.0)
    (tmp_path / "imagesTr").mkdir()
    nibabel.save(image, tmp_path / "imagesTr/a_0000.nii.gz")
    stored = np.asanyarray(nibabel.load(tmp_path / "imagesTr/a_0000.nii.gz").dataobj)
    write(tmp_path / "imagesTr/a_0001.nii.gz", volume(np.float32), kind=nibabel.Nifti2Image)
    write(tmp_path / "labelsTr/a.nii.gz", labels().astype(np.float64))
    data = read_dataset(DataConfig(path=tmp_path))
    assert data.channels == 2
    np.testing.assert_array_equal(data.samples[3].image[0], stored[:, :, 3].T.astype(np.float32))


def test_four_axes_are_channels(tmp_path):
    content = RNG.standard_normal((*SHAPE, 3)).astype(np.float32)
    samples = read_image(write(tmp_path / "a.nii", content))
    np.testing.assert_array_equal(samples[2].image, content[:, :, 2].transpose(2, 1, 0))


@pytest.mark.parametrize("affine_shift", [0.01, 2.0])
def test_geometry_of_image_and_mask_must_agree(tmp_path, affine_shift):
    write(tmp_path / "a.nii.gz", volume())
    moved = AFFINE.copy()
    moved[0, 3] += affine_shift
    write(tmp_path / "a_seg.nii.gz", labels(), moved)
    if affine_shift > 1:
        assert "a_seg.nii.gz: its affine differs" in refusal(tmp_path)
    else:
        assert len(read_dataset(DataConfig(path=tmp_path)).samples) == SHAPE[2]
    write(tmp_path / "a_seg.nii.gz", labels()[:, :, :-1])
    assert "shape (7, 9, 3), but a.nii.gz has (7, 9, 4)" in refusal(tmp_path)


def test_refusals(tmp_path):
    write(tmp_path / "a.nii.gz", volume())
    assert "no masks" in refusal(tmp_path)
    write(tmp_path / "b.nii.gz", volume())
    write(tmp_path / "b_seg.nii.gz", labels())
    assert "a.nii.gz: has no mask" in refusal(tmp_path)
    write(tmp_path / "a_seg.nii.gz", labels() * 0.5)
    assert "a_seg.nii.gz: the mask has fractions (0.5)" in refusal(tmp_path)
    write(tmp_path / "a_seg.nii.gz", labels())
    write(tmp_path / "c_seg.nii.gz", labels())
    assert any("c_seg.nii.gz: a mask without" in line for line in read_dataset(DataConfig(path=tmp_path)).problems)

    broken = volume(np.float32)
    broken[0, 0, 0] = np.nan
    write(tmp_path / "a.nii.gz", broken)
    assert "1 voxels are NaN" in refusal(tmp_path)


@pytest.mark.parametrize(("entry", "word"), [(np.nan, "NaN"), (0.0, "singular")])
def test_bad_affines(tmp_path, entry, word):
    path = write(tmp_path / "a.nii", volume())
    content = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]))
    header["qform_code"], header["sform_code"] = 0, 2
    header["srow_x"], header["srow_y"] = entry, entry
    path.write_bytes(header.binaryblock + bytes(content[348:]))
    with pytest.raises(UserError, match=word):
        read_image(path)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_every_flipped_bit_in_a_gzip_and_every_truncation_is_refused(tmp_path, name):
    path = write(tmp_path / name, volume())
    content = path.read_bytes()
    for keep in [0, 1, 100, 347, 352, *range(400, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:keep])
        with pytest.raises(UserError, match=name):
            read_image(path)
    if not name.endswith("gz"):
        return
    expected = [sample.image for sample in _write_back(path, content)]
    refused = 0
    for position in range(10, len(content), 3):
        broken = bytearray(content)
        broken[position] ^= 4
        path.write_bytes(bytes(broken))
        try:
            found = [sample.image for sample in read_image(path)]
        except UserError:
            refused += 1
        else:  # the name or comment in gzip's own header may change without harm
            np.testing.assert_array_equal(found, expected)
    assert refused > 100


def _write_back(path: Path, content: bytes):
    path.write_bytes(content)
    return read_image(path)


def test_bombs_are_refused_without_unpacking_them(tmp_path):
    content = write(tmp_path / "a.nii", volume()).read_bytes()
    header = nibabel.Nifti1Header(content[:348])
    header["dim"][1:4] = 30000
    (tmp_path / "huge.nii.gz").write_bytes(gzip.compress(header.binaryblock + content[348:]))
    with pytest.raises(UserError, match="GiB"):
        read_image(tmp_path / "huge.nii.gz")
    (tmp_path / "long.nii.gz").write_bytes(gzip.compress(content + bytes(64 << 20)))
    with pytest.raises(UserError, match="holds more than"):
        read_image(tmp_path / "long.nii.gz")
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"no volume at all" * 40))
    with pytest.raises(UserError, match="no NIfTI header"):
        read_image(tmp_path / "text.nii.gz")
