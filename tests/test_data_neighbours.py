"""2.5-D input: which slices stand beside which, in every layout that has an order, and from training to prediction."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from small_runs import SETTINGS, command, one_line_error, skip_what_changes_no_weight, write_settings

from quantunet.data import DataConfig, Sample, part_samples, read_dataset, read_image, split_cases, with_neighbours
from quantunet.data.manifest import check_no_leak
from quantunet.data.nifti_file import read_volume
from quantunet.errors import UserError
from quantunet.integer_model import IntegerModel

SIDE = 16


def slice_of(value: float) -> NDArray[np.float32]:
    return np.full((1, 2, 2), value, np.float32)


def sample(case: str, number: int, value: float, path: str | None = None) -> Sample:
    file = Path(path or f"{case}.nii")
    return Sample(slice_of(value), None, case, f"{case}/slice_{number}", path=file, index=number)


def values(samples: tuple[Sample, ...]) -> list[list[float]]:
    return [[float(channel[0, 0]) for channel in each.image] for each in samples]


def test_slices_before_and_after_and_the_ends_repeated() -> None:
    volume = [sample("a", k, k) for k in range(4)]
    assert values(with_neighbours(volume, 0)) == [[0], [1], [2], [3]]
    assert values(with_neighbours(volume, 1)) == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    assert values(with_neighbours(volume, 2))[0] == [0, 0, 0, 1, 2]
    assert values(with_neighbours(volume, 2))[3] == [1, 2, 3, 3, 3]


def test_cases_do_not_touch_and_a_gap_is_an_end() -> None:
    two = [sample("a", 0, 1), sample("a", 1, 2), sample("b", 2, 3), sample("b", 4, 5)]
    assert values(with_neighbours(two, 1)) == [[1, 1, 2], [1, 2, 2], [3, 3, 3], [5, 5, 5]]
    gap = [sample("a", k, k) for k in (0, 1, 3, 4)]
    assert values(with_neighbours(gap, 2))[1] == [0, 0, 1, 1, 1], "slice 3 lies beyond the gap"


def test_a_slice_of_another_size_is_an_end() -> None:
    odd = Sample(np.zeros((1, 3, 3), np.float32), None, "a", "a/slice_1", path=Path("a.nii"), index=1)
    assert values(with_neighbours([sample("a", 0, 7), odd], 1))[0] == [7, 7, 7]


def test_channels_go_slice_by_slice() -> None:
    rgb = [
        Sample(np.full((3, 1, 1), k, np.float32), None, "a", f"a/slice_{k}", path=Path("a"), index=k) for k in (0, 1)
    ]
    assert values(with_neighbours(rgb, 1))[0] == [0, 0, 0, 0, 0, 0, 1, 1, 1]


def write_stack(folder: Path, pages: int = 9) -> Path:
    """Pages of one value each, 10 apart, with a foreground square."""
    folder.mkdir(parents=True)
    images = np.stack([np.full((SIDE, SIDE), 10 * page, np.uint8) for page in range(pages)])
    images[:, :2, :2] = 255
    labels = np.zeros_like(images)
    labels[:, :8, :8] = 255
    tifffile.imwrite(folder / "train-volume.tif", images)
    tifffile.imwrite(folder / "train-labels.tif", labels)
    return folder


def test_blocks_of_a_stack_take_nothing_from_each_other(tmp_path: Path) -> None:
    config = DataConfig.model_validate(
        {"path": write_stack(tmp_path / "em"), "neighbour_slices": 1, "split": {"validation": 0.3, "test": 0.3}}
    )
    dataset = read_dataset(config)
    split = split_cases(dataset, config.split)
    check_no_leak(dataset, split)
    parts = part_samples(dataset, split, config)
    centres = {part: middle(samples) for part, samples in parts.items()}
    assert centres["train"] == [[0, 0, 10], [0, 10, 20], [10, 20, 20]]
    assert centres["validation"] == [[30, 30, 40], [30, 40, 50], [40, 50, 50]]
    assert centres["test"] == [[60, 60, 70], [60, 70, 80], [70, 80, 80]]


def middle(samples: tuple[Sample, ...]) -> list[list[float]]:
    return [[float(channel[SIDE // 2, SIDE // 2]) for channel in each.image] for each in samples]


def test_slices_left_out_of_training_stay_neighbours(tmp_path: Path) -> None:
    folder = write_volumes(tmp_path / "nifti")
    base = {"path": folder, "neighbour_slices": 1, "foreground_slices_only_in_training": True}
    config = DataConfig.model_validate(base)
    dataset = read_dataset(config)
    train = part_samples(dataset, split_cases(dataset, config.split), config)["train"]
    assert all(each.index != 0 for each in train), "the first slice is empty"
    first = next(each for each in train if each.index == 1)
    assert first.image[0].mean() == dataset.of_cases([first.case_id])[0].image.mean()


def write_volumes(folder: Path, cases: int = 6, slices: int = 4) -> Path:
    """NIfTI volumes with noise, a bright square from the second slice on."""
    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in range(cases):
        image = rng.normal(100, 5, (SIDE, SIDE, slices)).astype(np.float32)
        label = np.zeros(image.shape, np.uint8)
        label[4:12, 4:12, 1:] = 1
        image += 40 * label
        for name, array in (("imagesTr", image), ("labelsTr", label)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / name / f"case{case}.nii.gz")
    return folder


def write_kaggle(folder: Path) -> Path:
    for patient in ("TCGA_A", "TCGA_B", "TCGA_C"):
        (folder / patient).mkdir(parents=True)
        for number in (1, 2, 3, 9, 10, 11):
            image = np.full((SIDE, SIDE), number + 20 * (ord(patient[-1]) - ord("A")), np.uint8)
            image[0, 0] = 200
            tifffile.imwrite(folder / patient / f"{patient}_{number}.tif", image)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[:4] = 255
            tifffile.imwrite(folder / patient / f"{patient}_{number}_mask.tif", mask)
    return folder


def test_a_folder_of_slices_is_ordered_by_number(tmp_path: Path) -> None:
    config = DataConfig.model_validate({"path": write_kaggle(tmp_path / "k"), "reader": "kaggle_3m"})
    samples = with_neighbours(read_dataset(config).of_cases(["TCGA_B"]), 1)
    found = {each.name.rpartition("_")[2]: channels for each, channels in zip(samples, middle(samples), strict=True)}
    assert found["09"] == [29, 29, 30]
    assert found["10"] == [29, 30, 31]
    assert found["03"] == [22, 23, 23]


def test_single_images_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("images", "masks"):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        for k in range(4):
            Image.fromarray(np.full((SIDE, SIDE), k * 255 * (name == "masks") % 256, np.uint8)).save(
                tmp_path / "pairs" / name / f"{k}.png"
            )
    config = write_settings(
        tmp_path / "c.yaml", tmp_path, data={"path": str(tmp_path / "pairs"), "neighbour_slices": 1}
    )
    message = one_line_error(capsys, "train", config, "--out", tmp_path / "run")
    assert "single images (reader: pairs) have no slices before and after: leave data.neighbour_slices out" in message
    with pytest.raises(UserError, match=r"phantom: single images .* leave data\.neighbour_slices out"):
        read_dataset(DataConfig.model_validate({"path": "phantom", "neighbour_slices": 1}))
    with pytest.raises(UserError, match="a single image, but the model takes 2 slice"):
        read_image(tmp_path / "pairs" / "images" / "0.png", neighbours=2)


def test_train_evaluate_and_predict_stack_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_what_changes_no_weight(monkeypatch)
    data = write_volumes(tmp_path / "data")
    section = {"path": str(data), "neighbour_slices": 1, "crop_px": [14, 14]}
    training = {**SETTINGS["training"], "crop_px": 16}
    config = write_settings(tmp_path / "c.yaml", data, data=section, training=training, name="stacked")
    run = tmp_path / "run"
    status, out, err = command(capsys, "train", config, "--out", run, "--json")
    assert status == 0, err
    summary = json.loads(out)
    model = IntegerModel.load(run)
    assert model.graph.input.channels == 3
    assert model.graph.metadata["neighbour_slices"] == 1
    status, out, err = command(capsys, "eval", run, "--json")
    assert status == 0, err
    assert json.loads(out)["integer"]["dice"] == summary["quantized"]["dice"]
    # the model file alone, on the same data, evaluates every case alike
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / "model.safetensors"
    alone.write_bytes((run / "model.safetensors").read_bytes())
    status, out, err = command(capsys, "eval", alone, "--data", data, "--json")
    assert status == 0, err
    by_case = {case["case_id"]: case for case in json.loads(out)["integer"]["cases"]}
    test_cases = json.loads((run / "evaluation.json").read_text())["integer"]["cases"]
    assert test_cases
    assert all(by_case[case["case_id"]] == case for case in test_cases)
    # and predict writes the masks that this evaluation measured
    case_id = test_cases[0]["case_id"]
    image = data / "imagesTr" / f"{case_id}.nii.gz"
    status, _, err = command(capsys, "predict", alone, image, "--out", tmp_path / "masks")
    assert status == 0, err
    written = read_volume(tmp_path / "masks" / f"{case_id}_mask.nii.gz").data[..., 0]
    dataset = read_dataset(DataConfig.model_validate(section))
    expected = model.predict_cases(with_neighbours(dataset.of_cases([case_id]), 1))[case_id]
    assert written.shape == (SIDE, SIDE, 4)
    assert np.array_equal(written[1:15, 1:15].transpose(2, 1, 0), expected)
    assert not written[0].any(), "outside of the crop"
    single = tmp_path / "single.png"
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(single)
    message = one_line_error(capsys, "predict", alone, single, "--out", tmp_path / "masks")
    assert "a single image, but the model takes 1 slice(s) before and after" in message
