"""benchmarks/leak.py: what it compares differs in the leak alone, and its accuracy rows are the summaries'."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from quantunet.data import Dataset, Sample

FILE = Path(__file__).parents[1] / "benchmarks" / "leak.py"


@pytest.fixture(scope="module")
def leak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("leak", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    samples = []
    for patient in range(6):
        for k in range(8):
            image = rng.normal(size=(1, 16, 16)).astype(np.float32)
            samples.append(Sample(image, (image[0] > 0).astype(np.uint8), f"p{patient}", f"p{patient}/{k}"))
    return Dataset("made", None, tuple(samples), ("background", "foreground"), ((0,), (1,)), 1, "kaggle_3m")


@pytest.mark.parametrize("seed", [0, 1])
def test_both_splits_have_the_same_test_slices_and_as_many_training_slices(leak: ModuleType, seed: int) -> None:
    test, parts = leak.draw_parts(dataset(), seed)
    names = {kind: {sample.name for sample in samples} for kind, samples in parts.items()}
    tested = {sample.case_id for sample in test}
    assert len(tested) == leak.TEST_PATIENTS
    assert len(test) == 4 * leak.TEST_PATIENTS
    assert len(names["by patient"]) == len(names["by slice"]) == len(parts["by slice"])
    assert not {sample.name for sample in test} & (names["by patient"] | names["by slice"])
    assert not tested & {sample.case_id for sample in parts["by patient"]}
    assert tested & {sample.case_id for sample in parts["by slice"]}, "the leak"


def test_accuracy_rows_are_the_summaries(leak: ModuleType, tmp_path: Path) -> None:
    scores = {"pixel_accuracy": 0.9, "dice": 0.5}
    trivial = {"pixel_accuracy": 0.8, "dice": 0.0}
    summary = {"name": "x", "data": {"name": "d"}, "trivial": trivial, "float": scores, "quantized": scores}
    (tmp_path / "a" / "run").mkdir(parents=True)
    (tmp_path / "a" / "run" / "summary.json").write_text(json.dumps(summary))
    assert leak.accuracy_rows([tmp_path]) == [
        ("d", "all background", 0.8, 0.0), ("d", "float32, run", 0.9, 0.5), ("d", "x, run", 0.9, 0.5)
    ]  # fmt: skip


def test_the_same_seed_trains_the_same_network(leak: ModuleType) -> None:
    test, parts = leak.draw_parts(dataset(), 0)
    dice = [leak.train_and_test(parts["by slice"], test, ("background", "foreground"), 1, 0).dice for _ in range(2)]
    assert dice[0] == dice[1]
