"""BraTS 2015 to 2023: the layouts of the years, modalities as channels, regions, patients, and MetaImage files."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from quantunet.data import DataConfig, read_dataset, read_image, write_masks
from quantunet.data.metaimage_file import read_metaimage
from quantunet.errors import UserError

RNG = np.random.default_rng(9)
SHAPE = (6, 5, 3)


def nifti(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.0, -1.0, 1.0, 1.0])), path)


def metaimage(path: Path, data: np.ndarray, packed: bool = False, **changes: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {"int16": "MET_SHORT", "uint8": "MET_UCHAR", "float32": "MET_FLOAT"}
    voxels = data.tobytes(order="F")
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "CompressedData": str(packed),
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "10 20 -5",
        "ElementSpacing": "0.5 0.75 2",
        "DimSize": " ".join(map(str, data.shape)),
        "ElementType": kinds[str(data.dtype)],
        **changes,
        "ElementDataFile": "LOCAL",
    }
    text = "".join(f"{key} = {value}\n" for key, value in header.items())
    path.write_bytes(text.encode() + (zlib.compress(voxels) if packed else voxels))


def modality() -> np.ndarray:
    return RNG.integers(0, 900, SHAPE).astype(np.int16)


def label(values: tuple[int, ...], dtype=np.uint8) -> np.ndarray:
    """Every value occurs."""
    flat = np.resize(np.array((0, *values)), np.prod(SHAPE))
    return RNG.permutation(flat).reshape(SHAPE).astype(dtype)


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read_dataset(DataConfig.model_validate({"path": path, **options}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


LAYOUTS = {
    "2017": ("HGG/Brats17_2013_{k}_1/Brats17_2013_{k}_1_{m}.nii.gz", ("flair", "t1", "t1ce", "t2", "seg"), (1, 2, 4)),
    "2020": ("D/BraTS20_Train_{k}/BraTS20_Train_{k}_{m}.nii", ("flair", "t1", "t1ce", "t2", "seg"), (1, 2, 4)),
    "2021": ("BraTS2021_0000{k}/BraTS2021_0000{k}_{m}.nii.gz", ("flair", "t1", "t1ce", "t2", "seg"), (1, 2, 4)),
    "2023": ("BraTS-GLI-0000{k}-000/BraTS-GLI-0000{k}-000-{m}.nii.gz", ("t2f", "t1n", "t1c", "t2w", "seg"), (1, 2, 3)),
    "2015": (
        "LGG/brats_2013_pat000{k}_1/VSD.Brain.XX.O.{m}.5451{k}/VSD.Brain.XX.O.{m}.5451{k}.mha",
        ("MR_Flair", "MR_T1", "MR_T1c", "MR_T2", "OT"),
        (1, 2, 3, 4),
    ),
}  # fmt: skip


def write_layout(root: Path, name: str) -> dict[str, np.ndarray]:
    pattern, tokens, values = LAYOUTS[name]
    last = {}
    for k in range(3):
        for token in tokens:
            path = root / pattern.format(k=k, m=token)
            data = label(values) if token in ("seg", "OT") else modality()
            (metaimage if path.suffix == ".mha" else nifti)(path, data)
            last[token] = data
    return last


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_the_years(tmp_path, name):
    last = write_layout(tmp_path, name)
    data = read_dataset(DataConfig(path=tmp_path))
    assert (data.reader, len(data.case_ids), data.channels) == ("brats", 3, 4)
    assert data.problems == ()
    *tokens, mask = LAYOUTS[name][1]
    sample = data.samples[-1]
    np.testing.assert_array_equal(sample.image, [last[token][:, :, 2].T for token in tokens])
    assert data.class_names[2] == "oedema"
    core = {"2015": {1, 3, 4}, "2023": {1, 3}}.get(name, {1, 4})
    enhancing = 3 if name == "2023" else 4
    for region, values in (("whole_tumour", {*core, 2}), ("core", core), ("enhancing", {enhancing})):
        of_region = read_dataset(DataConfig.model_validate({"path": tmp_path, "region": region}))
        assert of_region.class_names == ("background", region)
        assert of_region.problems == ()
        truth = np.isin(last[mask][:, :, 2].T, list(values))
        np.testing.assert_array_equal(of_region.samples[-1].mask, truth)


def test_fewer_modalities_float_labels_and_a_brain_mask(tmp_path):
    """The subset that a public tool ships: names without the case, labels as floats just below whole numbers."""
    for part, case in (
        ("train", "brats_2013_pat0005_1"),
        ("train", "brats_2013_pat0006_1"),
        ("validation", "brats_2013_pat0003_1"),
    ):
        folder = tmp_path / part / case
        for name in ("Flair_subtrMeanDivStd", "T1c_subtrMeanDivStd"):
            nifti(folder / f"{name}.nii.gz", modality().astype(np.float32))
        nifti(folder / "OTMultiClass.nii.gz", label((1, 2, 3, 4), np.float32) * np.float32(0.99999997))
        nifti(folder / "brainmask.nii.gz", np.ones(SHAPE, np.float32))
    data = read_dataset(DataConfig(path=tmp_path))
    assert (data.reader, data.channels, len(data.class_names)) == ("brats", 2, 5)
    assert any("channels: flair, t1ce; no scan has t1, t2" in line for line in data.problems)
    assert data.given_split["validation"] == ("brats_2013_pat0003_1",)
    nifti(tmp_path / "train/brats_2013_pat0006_1/OTMultiClass.nii.gz", label((1, 2), np.float32) * np.float32(0.75))
    assert "OTMultiClass.nii.gz: the mask has fractions" in refusal(tmp_path)
    (tmp_path / "train/brats_2013_pat0006_1/OTMultiClass.nii.gz").unlink()
    assert "brats_2013_pat0006_1: has no labels" in refusal(tmp_path)


def test_a_missing_modality_names_the_scan(tmp_path):
    write_layout(tmp_path, "2021")
    (tmp_path / "BraTS2021_00001/BraTS2021_00001_t1ce.nii.gz").unlink()
    assert "BraTS2021_00001: has no t1ce, which other scans have" in refusal(tmp_path)
    nifti(tmp_path / "BraTS2021_00001/BraTS2021_00001_t1ce.nii.gz", modality()[:, :, :2])
    assert "t1ce.nii.gz: shape (6, 5, 2), but BraTS2021_00001_flair.nii.gz has (6, 5, 3)" in refusal(tmp_path)
    nifti(tmp_path / "BraTS2021_00001/BraTS2021_00001_t1gd.nii.gz", modality())
    assert "which says the same: keep one of the two" in refusal(tmp_path)


def test_time_points_of_a_patient_and_two_patients_of_one_name(tmp_path):
    for name in (
        "HGG/brats_tcia_pat105_0001",
        "HGG/brats_tcia_pat105_0283",
        "HGG/brats_2013_pat0001_1",
        "LGG/brats_2013_pat0001_1",
    ):
        for token in ("flair", "t1", "t1ce", "t2"):
            nifti(tmp_path / name / f"x_{token}.nii.gz", modality())
        nifti(tmp_path / name / "x_seg.nii.gz", label((1, 2, 3, 4)))
    data = read_dataset(DataConfig(path=tmp_path))
    assert data.group_of == {
        "HGG/brats_2013_pat0001_1": "HGG/brats_2013_pat0001",
        "brats_tcia_pat105_0001": "brats_tcia_pat105",
        "brats_tcia_pat105_0283": "brats_tcia_pat105",
        "LGG/brats_2013_pat0001_1": "LGG/brats_2013_pat0001",
    }


def test_region_needs_brats(tmp_path):
    nifti(tmp_path / "a.nii.gz", modality())
    nifti(tmp_path / "a_seg.nii.gz", label((1,)))
    assert "no BraTS layout, so no region 'core'" in refusal(tmp_path, region="core")


@pytest.mark.parametrize("packed", [False, True])
def test_metaimage(tmp_path, packed):
    data = modality()
    path = tmp_path / "a.mha"
    metaimage(path, data, packed)
    volume = read_metaimage(path)
    np.testing.assert_array_equal(volume.data[..., 0], data)
    assert volume.spacing_mm == (2.0, 0.75, 0.5)
    # left and posterior become right and anterior with the sign turned
    np.testing.assert_array_equal(volume.affine @ [1, 1, 1, 1], [-10.5, -20.75, -3.0, 1])
    masks = RNG.integers(0, 2, SHAPE[::-1]).astype(np.uint8)
    written = write_masks(tmp_path / "out", path, masks)
    assert written.name == "a_mask.nii.gz"
    np.testing.assert_array_equal([s.image[0] for s in read_image(written)], masks)
    np.testing.assert_array_equal(nibabel.load(written).affine, volume.affine)
    metaimage(path, data, packed, BinaryDataByteOrderMSB="True")
    np.testing.assert_array_equal(read_metaimage(path).data[..., 0], data.byteswap())


def test_damaged_metaimages(tmp_path):
    path = tmp_path / "a.mha"
    for packed in (False, True):
        metaimage(path, modality(), packed)
        content = path.read_bytes()
        for keep in (0, 5, 60, len(content) - 200 if not packed else len(content) - 9):
            path.write_bytes(content[:keep])
            with pytest.raises(UserError, match=r"a\.mha: "):
                read_image(path)
        path.write_bytes(content + b"\0" * (0 if packed else 4))
        if not packed:
            with pytest.raises(UserError, match="header announces"):
                read_image(path)
    for changes, word in (
        ({"DimSize": "6 5"}, "damaged MetaImage header"),
        ({"DimSize": "60000 60000 9000"}, "GiB"),
        ({"ElementType": "MET_OTHER"}, "damaged MetaImage header"),
        ({"ElementSpacing": "0 1 1"}, "singular"),
        ({"ElementNumberOfChannels": "3"}, "one channel"),
    ):
        metaimage(path, modality(), **changes)
        with pytest.raises(UserError, match=word):
            read_image(path)
    broken = modality().astype(np.float32)
    broken[0, 0, 0] = np.nan
    metaimage(path, broken)
    with pytest.raises(UserError, match="1 voxels are NaN"):
        read_image(path)
