"""Bad input: exactly one line on standard error, exit status 2, no traceback, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_runs import finished_run, one_line_error, write_settings, write_small_data

Spoil = Callable[[Path], None]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def no_masks(folder: Path) -> None:
    for path in (folder / "masks").iterdir():
        path.unlink()


def one_mask_missing(folder: Path) -> None:
    sorted((folder / "masks").iterdir())[0].unlink()


def other_size(folder: Path) -> None:
    save(sorted((folder / "masks").iterdir())[1], np.zeros((40, 39), np.uint8))


def colour_among_grey(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    save(folder / "images" / "phantom_009_slice_00.png", pixels)
    save(folder / "masks" / "phantom_009_slice_00.png", np.zeros((40, 40), np.uint8))


def empty(folder: Path) -> None:
    for path in [*folder.rglob("*.png")]:
        path.unlink()


def not_finite(folder: Path) -> None:
    path = sorted((folder / "images").iterdir())[2]
    pixels = np.zeros((40, 40), np.float32)
    pixels[3, 4] = np.nan
    tifffile.imwrite(path.with_suffix(".tif"), pixels)
    path.unlink()


def corrupt_tiff(folder: Path) -> None:
    path = sorted((folder / "images").iterdir())[2]
    tifffile.imwrite(path.with_suffix(".tif"), np.zeros((40, 40), np.uint8), compression="zlib")
    data = path.with_suffix(".tif").read_bytes()
    path.with_suffix(".tif").write_bytes(data[: len(data) // 2])
    path.unlink()


def only_background(folder: Path) -> None:
    for path in (folder / "masks").iterdir():
        save(path, np.zeros((40, 40), np.uint8))


def same_picture_twice(folder: Path) -> None:
    images = sorted((folder / "images").iterdir())
    for path in images[1:]:
        path.write_bytes(images[0].read_bytes())


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (no_masks, "mask"),
        (one_mask_missing, "phantom_000_slice_00"),
        (other_size, "phantom_001_slice_00"),
        (colour_among_grey, "1 channel(s), but phantom_009_slice_00.png has 3"),
        (empty, "data"),
        (not_finite, "phantom_002_slice_00"),
        (corrupt_tiff, "phantom_002_slice_00"),
        (only_background, "mask"),
        (same_picture_twice, "phantom_00"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_bad_data(spoil: Spoil, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_small_data(tmp_path / "data")
    spoil(data)
    config = write_settings(tmp_path / "c.yaml", data)
    message = one_line_error(capsys, "train", config, "--out", tmp_path / "run")
    assert named in message
    assert not (tmp_path / "run").exists()
    with capsys.disabled():
        print(f"\n{spoil.__name__}: {message.replace(str(tmp_path), '…')}", end="")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--set", "trainning.seed=1"], "did you mean 'training'?"),
        (["--set", "seed"], "not of the form key=value"),
        (["--set", "seed=[1"], "the value is no YAML"),
        (["--budget", "1KiB"], "needs"),
        (["--budget", "3 apples"], "neither a width"),
        (["--budget", "0.2bit", "--set", "quantizer.weight.min_bit_width=1"], "this network needs 1 bit at the least"),
        (["--set", "network.levels=9"], "network.levels"),
        (["--data", "nowhere"], "nowhere: no such folder: correct data.path or --data"),
        (["--data", "nowhere/BUSI"], "BUSI: no such folder: BUSI breast ultrasound is not downloaded for you"),
        (["--data", "nowhere", "--set", "data.reader=kaggle_3m"], "nowhere: no such folder: LGG MRI (kaggle_3m) is"),
        (["--set", "data.split.test=0.99"], "leave"),
        (["--set", "accelerator=cuda", "--set", "devices=64", "--set", "training.batch_size=64"], "accelerator: cuda"),
        (["--resume"], "holds no run"),
        (["--colour"], "--colour"),
    ],
)
def test_bad_arguments_of_train(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_settings(tmp_path / "c.yaml", write_small_data(tmp_path / "data"))
    message = one_line_error(capsys, "train", config, "--out", tmp_path / "run", *arguments)
    assert named in message
    assert not (tmp_path / "run").exists()


def test_nothing_to_train(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "give a configuration, or --data" in one_line_error(capsys, "train")
    assert "need a configuration or --data" in one_line_error(capsys, "train", "--budget", "3bit")
    assert "cannot be read" in one_line_error(capsys, "train", "absent.yaml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "named"),
    [("nowhere", "correct data.path or --data"), ("Task09_Spleen", "Medical Segmentation Decathlon")],
)
def test_absent_data_without_a_configuration(
    folder: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = one_line_error(capsys, "train", "--data", folder)
    assert message.startswith(f"error: {folder}: no such folder: {named}")
    config = write_settings(tmp_path / "c.yaml", tmp_path)
    assert one_line_error(capsys, "compare", config, "--data", folder) == message
    assert list(tmp_path.iterdir()) == [config]


def test_resume_with_another_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished_run()
    message = one_line_error(
        capsys, "train", folder / "small.yaml", "--set", "seed=9", "--resume", "--out", folder / "run"
    )
    assert "the configuration differs" in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["cost", "nowhere"], "nowhere: no such file or folder"),
        (["cost", "{}/data"], "holds no model.safetensors"),
        (["cost", "{}/small.yaml"], "small.yaml"),
        (["cost", "{}/run", "--size", "40"], "is no size"),
        (["cost", "{}/run", "--size", "41x40"], "41"),
        (["export", "{}/run", "--to", "c", "--out", "{out}", "--size", "41x40"], "41"),
        (["export", "{}/run", "--to", "fortran", "--out", "{out}"], "'fortran' is unknown"),
        (["verify", "{}/run", "--to", "fortran"], "'fortran' is unknown"),
        (["verify", "{}/run", "--set", "opset"], "'opset' is not of the form key=value"),
        (["export", "{}/run", "--to", "c", "--set", "opset=21", "--out", "{out}"], "--to c has no option 'opset'"),
        (["export", "{}/run", "--to", "onnx", "--set", "opset=17", "--out", "{out}"], "opset is one of 21, 25"),
        (["export", "{}/run", "--to", "qonnx", "--size", "41x40", "--out", "{out}"], "41"),
        (["export", "{}/run", "--to", "hls4ml", "--set", "cycles=0", "--out", "{out}"], "a whole number above 0"),
        (["export", "{}/run", "--to", "hls4ml", "--size", "41x40", "--out", "{out}"], "41"),
        (["eval", "{}/run", "--part", "some"], "neither 'all' nor 'test'"),
        (["eval", "{}/run/model.safetensors"], "a model file alone has no data"),
        (["eval", "{}/run", "--data", "{}/nowhere"], "nowhere"),
        (["predict", "{}/run", "absent.png", "--out", "{out}"], "absent.png"),
        (["predict", "{}/run", "{}/small.yaml", "--out", "{out}"], "small.yaml"),
        (["predict", "{}/run", "--out", "{out}"], "images"),
        (["predict", "{}/run", "{}/data/images/phantom_000_slice_00.png"], "--out"),
        (["data", "{}/nowhere"], "nowhere"),
        (["data", "{}/data", "--set", "reader=zip"], "reader"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_arguments_of_other_commands(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [
        argument.replace("{out}", str(tmp_path / "out")).replace("{}", str(finished_run())) for argument in arguments
    ]
    assert named in one_line_error(capsys, *filled)
    assert not (tmp_path / "out").exists()


def test_damaged_model_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (finished_run() / "run" / "model.safetensors").read_bytes()
    path = tmp_path / "m.safetensors"
    spoiled = (b"", b"hello", whole[:100], whole[:-1], whole[:-20] + b"x" * 20, whole + b"x", bytes(len(whole)))
    for data in spoiled:
        path.write_bytes(data)
        assert "m.safetensors" in one_line_error(capsys, "cost", path)


def test_images_that_do_not_fit_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run() / "run"
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 5)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "five.tif", picture, photometric="minisblack", planarconfig="contig")
    message = one_line_error(capsys, "predict", run, tmp_path / "five.tif", "--out", tmp_path / "out")
    assert "five.tif" in message
    assert "channels" in message
    broken = np.zeros((40, 40), np.float32)
    broken[0, 0] = np.inf
    tifffile.imwrite(tmp_path / "inf.tif", broken)
    assert "inf.tif" in one_line_error(capsys, "predict", run, tmp_path / "inf.tif", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_read_only_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    config = write_settings(tmp_path / "c.yaml", write_small_data(tmp_path / "data"))
    assert "cannot be written" in one_line_error(capsys, "train", config, "--out", tmp_path / "file" / "run")
    run = finished_run() / "run"
    image = finished_run() / "data" / "images" / "phantom_000_slice_00.png"
    assert "file" in one_line_error(capsys, "predict", run, image, "--out", tmp_path / "file" / "masks")
