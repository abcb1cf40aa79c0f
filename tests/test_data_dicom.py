"""DICOM series: Hounsfield units, order by position, every series that must not be stacked, labels and their flip."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from quantunet.data import DataConfig, read_dataset, read_image, write_masks
from quantunet.data.dicom_file import read_series
from quantunet.errors import UserError

RNG = np.random.default_rng(5)
HEIGHT, WIDTH, SLICES = 12, 10, 5
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def write_slice(path: Path, pixels: np.ndarray, z: float, number: int, uid: str, **changes) -> Path:
    """One CT slice; ``changes`` are attributes, None takes one away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CT_IMAGE, generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = CT_IMAGE, meta.MediaStorageSOPInstanceUID
    ds.Modality, ds.PatientID, ds.SeriesInstanceUID, ds.InstanceNumber = "CT", "P1", uid, number
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-50.0, -40.0, z], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.RescaleSlope, ds.RescaleIntercept = [0.8, 0.7], 2, -1024
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels.astype(np.uint16).tobytes()
    for key, value in changes.items():
        if value is None:
            delattr(ds, key)
        else:
            setattr(ds, key, value)
    ds.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, step: float = 2.5, uid: str = "1.2.3.4", first_is_top: bool = True) -> np.ndarray:
    """SLICES slices whose InstanceNumber 1 is the top one; returns stored values (s, h, w), feet first."""
    pixels = RNG.integers(0, 2000, (SLICES, HEIGHT, WIDTH))
    for index in range(SLICES):
        number = SLICES - index if first_is_top else index + 1
        write_slice(folder / f"1-{number:03d}.dcm", pixels[index], index * step - 30, number, uid)
    return pixels


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read_dataset(DataConfig.model_validate({"path": path, **options}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def label_volume(series_labels: np.ndarray, path: Path, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(series_labels.transpose(2, 1, 0).astype(np.uint8), affine), path)


def test_hounsfield_units_order_spacing_and_png_labels(tmp_path):
    pixels = write_series(tmp_path / "case_a")
    for number in range(1, SLICES + 1):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:number, :2] = 1
        Image.fromarray(mask).save(tmp_path / "case_a" / f"1-{number:03d}_label.png")
    data = read_dataset(DataConfig(path=tmp_path))
    assert data.reader == "dicom"
    np.testing.assert_array_equal([s.image[0] for s in data.samples], pixels * 2.0 - 1024)
    assert [int(s.mask.sum()) // 2 for s in data.samples] == [5, 4, 3, 2, 1]
    assert data.samples[0].spacing_mm == (2.5, 0.8, 0.7)
    assert data.samples[0].name == "case_a/slice_000"
    assert any("Hounsfield" in line for line in data.hints)
    window = {"kind": "window", "low": -160, "high": 240}
    assert read_dataset(DataConfig.model_validate({"path": tmp_path, "normalization": window})).hints == ()


def lps_to_ras(series_affine: np.ndarray, flips: tuple[int, ...]) -> np.ndarray:
    """The same grid with some axes (column, row, slice) counted from the other end."""
    affine = series_affine.copy()
    for axis, length in zip(range(3), (WIDTH, HEIGHT, SLICES), strict=True):
        if axis in flips:
            affine[:3, 3] += affine[:3, axis] * (length - 1)
            affine[:3, axis] *= -1
    return affine


@pytest.mark.parametrize("flips", [(), (0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_nifti_labels_follow_their_affine(tmp_path, flips):
    write_series(tmp_path / "data/PANCREAS_0001/study/series")
    labels = RNG.integers(0, 2, (SLICES, HEIGHT, WIDTH))
    series = read_series(sorted((tmp_path / "data/PANCREAS_0001/study/series").iterdir()))
    assert series is not None
    stored = np.flip(labels, tuple(2 - axis for axis in flips))
    label_volume(stored, tmp_path / "labels/label0001.nii.gz", lps_to_ras(series.affine, flips))
    data = read_dataset(DataConfig(path=tmp_path))
    np.testing.assert_array_equal([s.mask for s in data.samples], labels)
    assert not any("affine" in line for line in data.problems)


def test_pancreas_layout_and_the_flip(tmp_path):
    """Labels as NIH stores them: rows as in DICOM, slices by InstanceNumber, an affine that says otherwise."""
    expected = {}
    for patient in ("0001", "0002", "0003"):
        folder = tmp_path / f"Pancreas-CT/PANCREAS_{patient}/11-24-2015/Pancreas-{patient}"
        write_series(folder, uid=f"1.2.{int(patient)}", first_is_top=patient != "0002")
        labels = RNG.integers(0, 2, (SLICES, HEIGHT, WIDTH))
        expected[f"PANCREAS_{patient}"] = labels
        stored = labels[::-1] if patient != "0002" else labels
        label_volume(stored, tmp_path / f"TCIA_pancreas_labels/label{patient}.nii.gz", np.diag([0.7, 0.8, 2.5, 1]))
    label_volume(labels, tmp_path / "TCIA_pancreas_labels/label0025.nii.gz", np.eye(4))
    data = read_dataset(DataConfig(path=tmp_path))
    assert set(data.group_of.values()) == set(expected)
    for name, labels in expected.items():
        own = [s.mask for s in data.samples if s.group_id == name or s.case_id == name]
        np.testing.assert_array_equal(own, labels)
    assert sum("its affine does not fit the series" in line for line in data.problems) == 3
    assert any("label0025" in line and "without a series" in line for line in data.problems)
    assert any("carry the same PatientID" in line for line in data.problems)
    flipped = read_dataset(DataConfig(path=tmp_path, label_flip=("rows", "slices")))
    np.testing.assert_array_equal([s.mask for s in flipped.samples[:SLICES]], expected["PANCREAS_0001"][::-1, ::-1])


def test_labels_that_lie_on_air_are_noticed(tmp_path):
    pixels = np.zeros((SLICES, HEIGHT, WIDTH), int)  # -1024 HU
    pixels[:, : HEIGHT // 2] = 530  # 36 HU
    for index in range(SLICES):
        write_slice(tmp_path / f"a/{index}.dcm", pixels[index], 2.0 * index, index + 1, "1.2")
    labels = np.zeros_like(pixels)
    labels[:, 8:11, 2:6] = 1
    label_volume(labels, tmp_path / "a_label.nii.gz", np.eye(4))
    data = read_dataset(DataConfig(path=tmp_path))
    line = next(line for line in data.problems if "soft tissue" in line)
    assert "0% of its labels lie on soft tissue, 100% with rows reversed" in line
    mended = read_dataset(DataConfig(path=tmp_path, label_flip=("rows",)))
    assert not any("soft tissue" in line for line in mended.problems)
    assert (mended.samples[0].image[0][mended.samples[0].mask == 1] == 36).all()


def changed(folder: Path, number: int, **changes) -> None:
    path = folder / f"1-{number:03d}.dcm"
    ds = pydicom.dcmread(path)
    for key, value in changes.items():
        if value is None:
            delattr(ds, key)
        else:
            setattr(ds, key, value)
    ds.save_as(path, enforce_file_format=True)


REFUSED = {
    "position": ({"ImagePositionPatient": [-50, -40, -27.5]}, "1-004.dcm: at the same position as 1-002.dcm"),
    "uneven": ({"ImagePositionPatient": [-50, -40, -24.0]}, "a slice is missing or the spacing is uneven"),
    "series": ({"SeriesInstanceUID": "1.2.3.5"}, "another series than 1-001.dcm (1.2.3.5, 1.2.3.4)"),
    "modality": ({"Modality": "PT"}, "another modality than"),
    "patient": ({"PatientID": "P2"}, "another patient than 1-001.dcm (P2, P1)"),
    "pixel spacing": ({"PixelSpacing": [0.9, 0.7]}, "mixed series: pixel spacing"),
    "orientation": ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "mixed series: orientation"),
    "no position": ({"ImagePositionPatient": None}, "no position or orientation"),
    "no rescale": ({"RescaleSlope": None}, "Hounsfield units are not known"),
    "slope": ({"RescaleSlope": 0}, "rescale slope 0 and intercept -1024: damaged"),
    "frames": ({"NumberOfFrames": 4}, "4 frames in one file"),
    "pixels": ({"PixelData": b"\0" * 100}, "not readable as DICOM"),
    "no pixels": ({"PixelData": None}, "not readable as DICOM"),
    "size": ({"Rows": HEIGHT // 2, "PixelData": bytes(HEIGHT * WIDTH)}, "mixed series: 6x10 pixels, 12x10"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_slice_that_does_not_belong(tmp_path, name):
    changes, message = REFUSED[name]
    write_series(tmp_path / "a")
    changed(tmp_path / "a", 2, **changes)
    found = refusal(tmp_path)
    assert message in found
    assert ".dcm: " in found


def test_missing_slice_tilt_damage(tmp_path):
    write_series(tmp_path / "gap")
    (tmp_path / "gap/1-003.dcm").unlink()
    assert "5 mm after 1-004.dcm, elsewhere 2.5 mm: a slice is missing" in refusal(tmp_path / "gap")
    write_series(tmp_path / "tilt")
    for number in range(1, SLICES + 1):
        changed(tmp_path / "tilt", number, ImagePositionPatient=[-50, -40 + number, -2.5 * number])
    assert "gantry tilt of 21.8 degrees" in refusal(tmp_path / "tilt")
    write_series(tmp_path / "stated")
    for number in range(1, SLICES + 1):
        changed(tmp_path / "stated", number, GantryDetectorTilt=12)
    assert "gantry tilt of 12.0 degrees" in refusal(tmp_path / "stated")
    write_series(tmp_path / "cut")
    path = tmp_path / "cut/1-002.dcm"
    content = path.read_bytes()
    for keep in (0, 100, 200, 700, len(content) - 3):
        path.write_bytes(content[:keep])
        assert "1-002.dcm: " in refusal(tmp_path / "cut")


def test_labels_missing_or_of_another_size(tmp_path):
    write_series(tmp_path / "a")
    assert "0 label pictures: put 1-005_label.png beside it" in refusal(tmp_path)
    label_volume(np.ones((SLICES - 1, HEIGHT, WIDTH)), tmp_path / "label.nii.gz", np.eye(4))
    assert "label.nii.gz: 10x12x4 voxels, but the series" in refusal(tmp_path)
    write_series(tmp_path / "b", uid="1.9")
    assert "no label volume" in refusal(tmp_path)


def test_predictions_of_a_series_and_of_a_slice(tmp_path):
    pixels = write_series(tmp_path / "scan")
    samples = read_image(tmp_path / "scan", 1)
    np.testing.assert_array_equal([s.image[0] for s in samples], pixels * 2.0 - 1024)
    masks = RNG.integers(0, 3, (SLICES, HEIGHT, WIDTH)).astype(np.uint8)
    written = write_masks(tmp_path / "out", tmp_path / "scan", masks)
    assert written.name == "scan_mask.nii.gz"
    back = nibabel.load(written)
    # corner (column 0, row 0, slice 0): left, posterior, head of DICOM are minus NIfTI's right and anterior
    np.testing.assert_allclose(back.affine @ [0, 0, 0, 1], [50, 40, -30, 1], atol=1e-5)  # the header holds float32
    np.testing.assert_array_equal(np.asanyarray(back.dataobj).transpose(2, 1, 0), masks)
    (single,) = read_image(tmp_path / "scan/1-002.dcm")
    assert single.spacing_mm == (0.8, 0.7)
    one = write_masks(tmp_path / "out", tmp_path / "scan/1-002.dcm", masks[:1])
    assert one.name == "1-002_mask.png"
    np.testing.assert_array_equal(np.array(Image.open(one)), masks[0])
    # a mask in the written grid is read as labels of the series again
    again = read_dataset(DataConfig(path=tmp_path))
    np.testing.assert_array_equal([s.mask for s in again.samples], masks)


def test_inverted_and_extensionless(tmp_path):
    pixels = RNG.integers(0, 4096, (HEIGHT, WIDTH))
    changes = {"Modality": "DX", "PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": None}
    path = write_slice(tmp_path / "IM_0001", pixels, 0.0, 1, "1.2", **changes)
    (sample,) = read_image(path)
    np.testing.assert_array_equal(sample.image[0], 4095 - pixels)
    Image.fromarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8)).save(tmp_path / "IM_0001_mask.png")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    data = read_dataset(DataConfig(path=tmp_path, reader="dicom"))
    assert len(data.samples) == 1


def test_changed_bytes_are_read_or_refused_in_one_line(tmp_path):
    write_series(tmp_path / "a")
    path = tmp_path / "a/1-003.dcm"
    content = path.read_bytes()
    refused = 0
    for position in range(128, len(content) - HEIGHT * WIDTH * 2, 2):
        broken = bytearray(content)
        broken[position] ^= int(RNG.integers(1, 256))
        path.write_bytes(bytes(broken))
        try:
            read_image(tmp_path / "a")
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 - both outcomes are right, DICOM has no checksum
            refused += 1
    assert refused > 100
