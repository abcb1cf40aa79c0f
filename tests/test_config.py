"""The configuration: round trips, overrides, and one clear line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantunet.errors import UserError
from quantunet.train.budget import Budget
from quantunet.train.config import Config
from quantunet.train.config_file import build_config, load_config, to_yaml

CONFIGS = Path(__file__).parents[1] / "configs"
BASE = {"data": {"path": "phantom"}}


def test_every_configuration_of_the_repository_loads(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("published/*.yaml")])
    for path in files:
        config = load_config(path)
        assert config.name == path.stem
        assert config.data.path is not None
    with capsys.disabled():
        print(f"\n{len(files)} configurations load")
    assert len(files) >= 1


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {
            "budget": "64KiB",
            "quantizer.name": "brevitas",
            "training.qat.width_learning_rate": 0.05,
            "data.classes": {"liver": [1], "lesion": [2, 3]},
            "data.case_pattern": "(p[0-9]+)_",
            "bit_loss.fixed_weight": 0.25,
            "network.upsampling": "transposed",
        },
    ],
)
def test_yaml_round_trip_is_exact(overrides: dict, tmp_path: Path) -> None:
    config = build_config(dict(BASE), overrides)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(path) == config
    assert path.read_text(encoding="utf-8").count("\n") > 50, "defaults are written out"


def test_overrides_reach_any_depth() -> None:
    config = build_config(dict(BASE), {"training.qat.steps": 7, "seed": 3, "data.split.test": 0.3})
    assert (config.training.qat.steps, config.seed, config.data.split.test) == (7, 3, 0.3)
    assert config.training.float_phase.steps == Config.model_validate(BASE).training.float_phase.steps


@pytest.mark.parametrize(
    ("overrides", "weight", "share"),
    [
        ({}, 3.0, 0.25),
        ({"loss.bce": 0.5}, 3.0, 0.25),
        ({"loss.distillation_share": 0.5}, 3.0, 0.5),
        ({"loss.feature_distillation": 0.5}, 0.5, 1.0),
        ({"loss.distillation": 0.0}, 0.0, 1.0),
        ({"quantizer.name": "uniform"}, 0.0, 1.0),
    ],
)
def test_ours_learns_from_features_unless_it_is_to_learn_nothing_of_the_float_network(
    overrides: dict, weight: float, share: float
) -> None:
    config = build_config(dict(BASE), overrides)
    assert (config.loss.feature_distillation, config.loss.distillation_share) == (weight, share)
    assert Config.model_validate(config.model_dump()) == config


def test_budget_as_numbers() -> None:
    assert build_config(dict(BASE), {"budget": "64KiB"}).budgets == (Budget("file", 65536),)
    assert build_config(dict(BASE), {"budget": None}).budgets == ()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"trainning": 1}, "unknown key 'trainning' (did you mean 'training'?)"),
        ({"training.qat.stepps": 1}, "unknown key 'training.qat.stepps' (did you mean 'training.qat.steps'?)"),
        ({"network.zzz": 1}, "unknown key 'network.zzz'; known here: base_channels, channels, head_kernel, levels"),
        ({"network.levels": 1}, "network.levels = 1: Input should be greater than or equal to 2"),
        ({"network.upsampling": "cubic"}, "network.upsampling = 'cubic'"),
        ({"training.qat.steps": "many"}, "training.qat.steps = 'many'"),
        ({"training.float_phase.steps": -1}, "training.float_phase.steps = -1"),
        ({"budget": "3 apples"}, "budget '3 apples' is neither a width"),
        ({"budget": "12bit"}, "an average width lies above 0 and is 8 bits at the most"),
        ({"name": "a/b"}, "name = 'a/b'"),
        ({"data.normalization.kind": "window"}, "configuration: data.normalization: kind: window needs low < high"),
        ({"data.resample_mm": 1, "data.resize_px": 64}, "configuration: data: resample_mm and resize_px both say"),
        ({"quantizer.weight.min_bit_width": 6, "quantizer.weight.max_bit_width": 4}, "min_bit_width"),
        (
            {"quantizer.weight": {"bit_width": 3, "min_bit_width": 4}},
            "bit_width 3 does not lie between min_bit_width 4",
        ),
        ({"devices": 3, "training.batch_size": 2}, "devices = 3: training.batch_size 2 cannot be split evenly"),
    ],
)
def test_mistakes_are_named_in_one_line(overrides: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        build_config({"data": {"path": "phantom"}}, overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_key_below_a_single_value_is_named() -> None:
    with pytest.raises(UserError, match=r"seed\.x cannot be set, because seed is a single value"):
        build_config({**BASE, "seed": 3}, {"seed.x": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"a: [1", "is no YAML"),
        (b"\xff\xfe\x00", "is no YAML"),
        (b"- 1\n- 2\n", "holds no mapping"),
        (b"", "holds no mapping"),
        (b"data: {path: phantom}\nsed: 1\n", "unknown key 'sed' (did you mean 'seed'?)"),
    ],
)
def test_wrong_files_are_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_config(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_configuration_given_is_not_changed() -> None:
    raw = {"data": {"path": "phantom"}, "training": {"qat": {"steps": 5}}}
    build_config(raw, {"training.qat.steps": 9})
    assert raw["training"]["qat"]["steps"] == 5
