"""The readers on real data sets, where they are present: counts, classes, spacing, split, no leak."""

from __future__ import annotations

import numpy as np
import pytest
from real_data import real_data

from quantunet.data import (
    DataConfig,
    check_no_leak,
    describe,
    manifest,
    read_dataset,
    read_image,
    split_cases,
    write_masks,
)

SETS = {
    # folder: options, reader, samples, cases, channels, classes, foreground fraction of the first class
    "isbi2012_em": ({"classes": {"membrane": [0]}}, "stack", 30, 30, 1, ("membrane",), 0.21963),
    "lgg_kaggle3m": ({}, "kaggle_3m", 234, 10, 3, ("foreground",), 0.016677),
    "us_nerve_vessel_usgra": (
        {"classes": {"nerve": [1], "vessel": [2]}},
        "pairs",
        91,
        91,
        1,
        ("nerve", "vessel"),
        0.03238,
    ),
    "pancreas_ct_nih_jpg": ({}, "pairs", 264, 61, 1, ("foreground",), 0.0046512),
    "spinalcord_gm_t2star": (
        {"label": "gmseg"},
        "nifti",
        149,
        8,
        1,
        ("foreground",),
        0.00047813,
    ),
    "brats2015_small": ({"region": "whole_tumour"}, "brats", 465, 3, 2, ("whole_tumour",), 0.017623),
    "hippocampus_msd": (
        {"classes": {"anterior": [1], "posterior": [2]}},
        "nifti",
        3661,
        100,
        1,
        ("anterior", "posterior"),
        None,
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_real_set(name):
    options, reader, samples, cases, channels, classes, fraction = SETS[name]
    config = DataConfig.model_validate({"path": real_data(name), **options})
    data = read_dataset(config)
    found = (data.reader, len(data.samples), len(data.case_ids), data.channels, data.class_names[1:])
    assert found == (reader, samples, cases, channels, classes)
    assert len({sample.name for sample in data.samples}) == samples
    split = split_cases(data, config.split)
    assert check_no_leak(data, split) == ()
    described = describe(data, split)
    if fraction is not None:
        assert described["foreground_fraction"][classes[0]] == pytest.approx(fraction, rel=1e-3)  # stated in 5 digits
    assert len(manifest(data, split)["files"]) == samples
    assert data.source is not None
    if name == "spinalcord_gm_t2star":
        sessions = [case for case in data.case_ids if "sub-10062" in case]
        assert len(sessions) == 2
        assert len({split.part_of(case) for case in sessions}) == 1
        assert len(set(data.group_of.values())) == 6
    if name == "us_nerve_vessel_usgra":
        assert len(split.test) == 40  # its own test/ folder
    if name == "isbi2012_em":
        assert split.test == tuple(f"slice_{k}" for k in range(24, 30))


def test_real_dicom_slices():
    data = read_dataset(DataConfig(path=real_data("abdomen_ct_dicom_dcmqi")))
    assert (data.reader, len(data.samples), len(data.case_ids), data.channels) == ("dicom", 3, 1, 1)
    assert data.samples[0].path is not None
    assert data.samples[0].path.name == "03.dcm"  # the lowest position comes first
    assert data.samples[0].spacing_mm == pytest.approx((1.0, 0.810547, 0.810547), rel=1e-6)  # positions in 6 digits
    liver, spine = (np.median(data.samples[1].image[0][data.samples[1].mask == k]) for k in (1, 2))
    assert 30 < liver < 70  # Hounsfield units of a liver without contrast agent
    assert spine > liver
    assert any("2 DICOM objects that are no images" in line for line in data.problems)
    assert any("Hounsfield" in line for line in data.hints)


def test_real_spleen_gets_a_window_hint():
    data = read_dataset(DataConfig(path=real_data("spleen_ct_msd_crop")))
    assert any("look like CT numbers" in line for line in data.hints)
    assert data.samples[0].spacing_mm == pytest.approx((5.0, 0.794922, 0.794922), rel=1e-6)  # header's float32


@pytest.mark.parametrize("name", ["spleen_ct_msd_crop/imagesTr/spleen_2.nii.gz", "isbi2012_em/train-volume.tif"])
def test_masks_of_real_files_come_back_in_place(tmp_path, name):
    source = real_data(name)
    samples = read_image(source)
    threshold = float(np.median(samples[0].image))
    masks = np.stack([sample.image[0] > threshold for sample in samples]).astype(np.uint8)
    back = read_image(write_masks(tmp_path, source, masks))
    np.testing.assert_array_equal(np.stack([sample.image[0] for sample in back]), masks)
    assert back[0].spacing_mm == samples[0].spacing_mm
