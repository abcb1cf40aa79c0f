"""The deployed model in Python: raw image in, mask out, C and interpreter alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_runs import finished_run

from quantunet.backends.c.runner import has_compiler
from quantunet.data.sample import Sample
from quantunet.errors import UserError
from quantunet.integer_model import IntegerModel, stack_by_case
from quantunet.ir.graph import IntegerGraph


def load(use_compiler: bool | None = None) -> IntegerModel:
    return IntegerModel(IntegerModel.load(finished_run() / "run").graph, use_compiler)


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).normal(100, 40, (1, height, width)).astype(np.float32)


@pytest.mark.skipif(not has_compiler(), reason="no C compiler")
def test_compiled_and_interpreted_masks_are_equal() -> None:
    compiled, interpreted = load(True), load(False)
    for size in ((40, 40), (37, 33), (8, 64)):
        assert np.array_equal(compiled(image(*size)), interpreted(image(*size)))
    assert compiled.backend != interpreted.backend


@pytest.mark.parametrize("size", [(1, 1), (5, 2), (40, 40), (41, 39)])
def test_any_size_gives_a_mask_of_that_size(size: tuple[int, int]) -> None:
    mask = load(False)(image(*size))
    assert mask.shape == size
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 1}


def test_wrong_images_are_refused() -> None:
    model = load(False)
    with pytest.raises(UserError, match=r"2 channel\(s\), the model was trained on 1"):
        model(np.zeros((2, 8, 8), np.float32))
    broken = image(8, 8)
    broken[0, 2, 3] = np.nan
    with pytest.raises(UserError, match=r"NaN|finite"):
        model(broken)


def test_a_graph_without_its_normalisation_is_refused() -> None:
    graph = load(False).graph
    with pytest.raises(UserError, match="does not say its normalization"):
        IntegerModel(IntegerGraph(graph.nodes, {}))


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        IntegerModel.load(tmp_path)


def test_slices_are_stacked_by_case_in_order() -> None:
    samples = [Sample(image(4, 4), None, case, f"{case}/{i}") for i, case in enumerate("aba")]
    masks = stack_by_case(samples, lambda sample: np.full((4, 4), int(sample.name[-1]), np.uint8))
    assert {case: stack[:, 0, 0].tolist() for case, stack in masks.items()} == {"a": [0, 2], "b": [1]}
    with pytest.raises(UserError, match="case 'a': its slices differ in size"):
        stack_by_case(samples, lambda sample: np.zeros((4, 4 + int(sample.name[-1])), np.uint8))
