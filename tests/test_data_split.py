"""Splits: every case in exactly one part, no image in two, written down and read again."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from quantunet.data import (
    DataConfig,
    Dataset,
    Sample,
    SplitConfig,
    check_no_leak,
    manifest,
    part_samples,
    split_cases,
    write_split,
)
from quantunet.errors import UserError


def dataset(cases: int, slices: int = 2, **options) -> Dataset:
    rng = np.random.default_rng(cases)
    samples = []
    for case in range(cases):
        for index in range(slices):
            mask = np.full((4, 4), index % 2, np.uint8)
            image = rng.standard_normal((1, 4, 4)).astype(np.float32)
            samples.append(Sample(image, mask, f"case_{case}", f"case_{case}/slice_{index}", index=index))
    fields = {"name": "made", "root": None, "class_names": ("background", "x"), "class_values": ((0,), (1,))}
    return Dataset(samples=tuple(samples), channels=1, reader="pairs", **fields, **options)


@settings(deadline=None, max_examples=60)
@given(
    cases=st.integers(3, 60),
    method=st.sampled_from(["random", "blocks"]),
    fractions=st.tuples(st.floats(0.01, 0.49), st.floats(0.01, 0.49)),
    seed=st.integers(0, 99),
)
def test_every_case_is_in_exactly_one_part(cases, method, fractions, seed):
    data = dataset(cases, slices=1)
    config = SplitConfig(method=method, validation=fractions[0], test=fractions[1], seed=seed)
    try:
        split = split_cases(data, config)
    except UserError as error:
        assert "part of the split is empty" in str(error)  # noqa: PT017 - both outcomes are right
        assert round(cases * fractions[0]) + round(cases * fractions[1]) >= cases - 1
        return
    assert sorted(split.train + split.validation + split.test) == sorted(data.case_ids)
    assert len(split.test) == max(1, round(cases * fractions[1]))
    assert split == split_cases(data, config)
    if method == "blocks":
        assert split.train + split.validation + split.test == data.case_ids


def test_seeds_differ_and_default_follows_the_reader():
    data = dataset(30)
    assert split_cases(data, SplitConfig(seed=0)) != split_cases(data, SplitConfig(seed=1))
    blocks = split_cases(dataset(30, default_split="blocks"), SplitConfig())
    assert blocks.test == tuple(f"case_{k}" for k in range(24, 30))


@pytest.mark.parametrize("method", ["random", "blocks"])
def test_folds_test_every_case_once(method):
    data = dataset(30)
    folds = [split_cases(data, SplitConfig(method=method, test=0.2, fold=fold)) for fold in range(5)]
    assert sorted(case for fold in folds for case in fold.test) == sorted(data.case_ids)
    assert folds[0] == split_cases(data, SplitConfig(method=method, test=0.2))
    assert (
        folds[0]
        == split_cases(data, SplitConfig(method=method, test=0.2, fold=5))
        == split_cases(data, SplitConfig(method=method, test=0.2, fold="seed"))
    ), "the circle is closed"


def test_lists_files_and_given_parts(tmp_path):
    data = dataset(8)
    split = split_cases(data, SplitConfig(test_cases=("case_1", "case_0"), validation_cases=("case_7",)))
    assert split.test == ("case_0", "case_1")
    assert split.train == tuple(f"case_{k}" for k in range(2, 7))
    write_split(split, tmp_path / "split.json")
    assert split_cases(data, SplitConfig(file=tmp_path / "split.json")) == split
    only_train = split_cases(data, SplitConfig(train_cases=("case_0", "case_1", "case_2")))
    assert only_train.train == ("case_0", "case_1", "case_2")
    assert len(only_train.validation) == 2
    assert len(only_train.test) == 3
    given_parts = split_cases(dataset(8, given_split={"train": (), "test": ("case_3",)}), SplitConfig())
    assert given_parts.test == ("case_3",)


def refusal(data, config) -> str:
    with pytest.raises(UserError) as caught:
        split_cases(data, config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_refusals(tmp_path):
    data = dataset(5)
    assert "a split needs 3" in refusal(dataset(2), SplitConfig())
    assert "'case_9'" in refusal(data, SplitConfig(test_cases=("case_9",)))
    assert "in validation and in test" in refusal(
        data, SplitConfig(validation_cases=("case_1",), test_cases=("case_1",))
    )
    everything = {"train": ["case_0"], "validation": ["case_1"], "test": ["case_2"]}
    path = tmp_path / "split.json"
    path.write_text(json.dumps(everything))
    assert "'case_3' is in no part" in refusal(data, SplitConfig(file=path))
    parts = {f"{part}_cases": tuple(cases) for part, cases in everything.items()}
    assert "'case_3' is in no part" in refusal(data, SplitConfig.model_validate(parts))
    path.write_text(json.dumps(everything | {"test": ["case_2", "case_3", "case_4"], "validation": []}))
    assert "is in no part" in refusal(data, SplitConfig(file=path))
    path.write_text(json.dumps({"train": [f"case_{k}" for k in range(5)], "validation": [], "test": []}))
    assert "validation part of the split is empty" in refusal(data, SplitConfig(file=path))
    for text in ("{", "[]", '{"train": []}', '{"train": [1], "validation": [], "test": []}'):
        path.write_text(text)
        assert "split.json" in refusal(data, SplitConfig(file=path))
    assert "no such split file" in refusal(data, SplitConfig(file=tmp_path / "absent.json"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"split": {"validation": 0.6, "test": 0.5}},
        {"split": {"file": "a.json", "test_cases": ["x"]}},
        {"split": {"validation": 0}},
        {"normalization": {"kind": "window", "low": 3, "high": 3}},
        {"normalization": {"kind": "image", "low": 3}},
        {"classes": {"a": [1], "b": [1]}},
        {"classes": {"background": [0]}},
        {"classes": {"a": []}},
        {"case_pattern": "no group"},
        {"case_pattern": "(("},
        {"unknown_key": 1},
        {"reader": "nrrd"},
        {"region": "core", "classes": {"a": [1]}},
        {"region": "oedema"},
        {"rater": 0},
        {"rater": "r1"},
        {"crop_px": 0},
        {"crop_px": [64, 64, 64]},
        {"resample_mm": [0.5, -1]},
        {"label_flip": ["z"]},
    ],
)
def test_wrong_configurations_are_refused(wrong):
    with pytest.raises(ValidationError):
        DataConfig.model_validate(wrong)


def test_every_field_is_described():
    for model in (DataConfig, SplitConfig, type(DataConfig.model_validate({}).normalization)):
        assert all(field.description for field in model.model_fields.values())


def test_identical_images_in_two_parts_are_an_error_within_one_a_line():
    data = dataset(6)
    split = split_cases(data, SplitConfig(method="blocks"))
    assert check_no_leak(data, split) == ()
    samples = list(data.samples)

    def with_copy(source: int, target: int) -> Dataset:
        copied = dataclasses.replace(samples[target], image=samples[source].image.copy())
        return dataclasses.replace(data, samples=(*samples[:target], copied, *samples[target + 1 :]))

    assert check_no_leak(with_copy(0, 3), split) == (
        "case_1/slice_1 is the same image as case_0/slice_0 (both in train)",
    )
    with pytest.raises(UserError, match=r"case_5/slice_1 \(test\) is the same image as case_0/slice_0 \(train\)"):
        check_no_leak(with_copy(0, 11), split)


def test_many_identical_images_are_a_few_lines():
    data = dataset(4, slices=12)
    same = tuple(dataclasses.replace(s, image=data.samples[0].image) for s in data.samples[:12])
    data = dataclasses.replace(data, samples=(*same, *data.samples[12:]))
    lines = check_no_leak(data, split_cases(data, SplitConfig(method="blocks")))
    assert len(lines) == 6
    assert lines[-1] == "... and 6 more identical images"


def test_patients_stay_in_one_part():
    data = dataset(40, slices=1)
    samples = tuple(dataclasses.replace(s, group_id=f"patient_{k // 4}") for k, s in enumerate(data.samples))
    data = dataclasses.replace(data, samples=samples)
    for seed in range(20):
        split = split_cases(data, SplitConfig(seed=seed))
        assert sorted(split.train + split.validation + split.test) == sorted(data.case_ids)
        assert len(split.test) == 8  # 20 % of 10 patients, 4 cases each
        parts = {(data.group_of[case], split.part_of(case)) for case in data.case_ids}
        assert len(parts) == 10
    split = split_cases(data, SplitConfig(test_cases=("patient_3",)))
    assert split.test == tuple(f"case_{k}" for k in range(12, 16))
    assert "and they are of one patient, or the same picture (patient_0): keep" in refusal(
        data, SplitConfig(test_cases=("case_0",))
    )
    two = dataclasses.replace(data, samples=data.samples[:8])
    assert "8 case(s) in 2 group(s) (case_0 and case_1 are of one patient" in refusal(two, SplitConfig())
    entries = manifest(data, split)["files"]
    assert entries[5]["group_id"] == "patient_1"


def test_empty_slices_may_be_equal():
    data = dataset(4)
    # each channel its own value, as the surroundings of a normalised brain have
    empty = np.stack([np.full((4, 4), -3.5, np.float32), np.full((4, 4), -2.5, np.float32)])
    black = tuple(dataclasses.replace(s, image=empty) for s in data.samples)
    data = dataclasses.replace(data, samples=black)
    assert check_no_leak(data, split_cases(data, SplitConfig())) == ()


def test_manifest_is_json_and_follows_the_pixels():
    data = dataset(5)
    split = split_cases(data, SplitConfig())
    one = manifest(data, split)
    assert json.loads(json.dumps(one)) == one
    assert sum(one["samples"].values()) == len(one["files"]) == 10
    changed = data.samples[3].image.copy()
    changed[0, 0, 0] += 1
    samples = (*data.samples[:3], dataclasses.replace(data.samples[3], image=changed), *data.samples[4:])
    other = manifest(dataclasses.replace(data, samples=samples), split)
    assert other["sha256"] != one["sha256"]
    differing = [k for k in range(10) if one["files"][k] != other["files"][k]]
    assert differing == [3]


def test_foreground_slices_only_in_training():
    data = dataset(6)
    split = split_cases(data, SplitConfig())
    parts = part_samples(data, split, DataConfig(foreground_slices_only_in_training=True))
    assert all(sample.mask.any() for sample in parts["train"])
    assert len(parts["train"]) == len(split.train)
    assert len(parts["test"]) == 2 * len(split.test)
