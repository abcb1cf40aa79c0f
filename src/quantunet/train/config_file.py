"""Configurations from and to YAML: one file, or that of a system and of a data set as one."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from quantunet.errors import UserError
from quantunet.train.config import Config

OF_A_DATA_FILE = ("data", "network", "loss", "training", "augmentation", "precision", "accelerator", "devices")
"""Sections that may stand in the file of a data set. All else makes the system: were it here, a file of a data set
could change the quantizer or the budget of every row of a table."""


def load_config(path: Path, overrides: dict[str, Any] | None = None) -> Config:
    """Read a YAML configuration; ``overrides`` maps dotted keys ("training.qat.steps") to values.

    Raises:
        UserError: if the file is absent, is no YAML mapping, or a key or value is wrong, naming it.
    """
    return build_config(read_mapping(path), overrides or {}, source=str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file, not yet validated.

    Raises:
        UserError: if the file is absent, or is no YAML mapping.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"configuration {path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"configuration {path}: is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(raw, dict):
        raise UserError(f"configuration {path}: holds no mapping of keys to values")
    return raw


def build_config(raw: dict[str, Any], overrides: dict[str, Any], source: str = "configuration") -> Config:
    """Validate a nested mapping after applying dotted ``overrides``.

    Raises:
        UserError: naming the first wrong key, and what it should be.
    """
    raw = copy.deepcopy(raw)
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        section = raw
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise UserError(f"{source}: {dotted} cannot be set, because {parent} is a single value")
        section[last] = value
    if "data" not in raw:
        raise UserError(
            f"{source}: names no data: say on what it runs with --on configs/data/NAME.yaml or --data FOLDER, or add a "
            "data section"
        )
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        if first["type"] == "extra_forbidden":
            raise UserError(f"{source}: unknown key {key!r}{_suggestion(key)}") from None
        message = first["msg"].removeprefix("Value error, ")
        value = first.get("input")
        given = "" if isinstance(value, dict) else f" = {value!r}"  # a whole section would fill the line
        raise UserError(f"{source}: {key}{given}: {message}") from None


def _suggestion(key: str) -> str:
    section, dot, last = key.rpartition(".")
    siblings = [name.removeprefix(section + dot) for name in _dotted_keys(Config) if name.startswith(section + dot)]
    siblings = sorted(name for name in siblings if "." not in name)
    close = difflib.get_close_matches(last, siblings, n=1)
    return f" (did you mean {section + dot + close[0]!r}?)" if close else f"; known here: {', '.join(siblings)}"


def _dotted_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys += _dotted_keys(annotation, f"{prefix}{name}.")
    return keys


def to_yaml(config: Config) -> str:
    """All values, defaults included; ``load_config`` reads it back to an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_on(system: Path, data: Path | None, overrides: dict[str, Any] | None = None) -> Config:
    """The configuration of file ``system`` on the data set of file ``data``; None: ``system`` is whole by itself.

    Where both say a key, the system's value holds; ``overrides`` (dotted keys) hold over both.

    Raises:
        UserError: as `load_config`; if both name a data set, or ``data`` names none, or has keys of a system.
    """
    if data is None:
        return load_config(system, overrides)
    given, base = read_mapping(system), read_data_file(data)
    if _names_data(given):
        raise UserError(f"{system}: names its own data.path, so it cannot run --on {data}: remove one of the two")
    return build_config(merge(base, given), overrides or {}, source=f"{system} on {data}")


def read_data_file(path: Path) -> dict[str, Any]:
    """The sections of the file of a data set, not yet validated.

    Raises:
        UserError: as `read_mapping`; if it names no data, or has keys of a system.
    """
    raw = read_mapping(path)
    if not _names_data(raw):
        raise UserError(f"{path}: has no data.path, which the file of a data set needs: see configs/data")
    foreign = [key for key in raw if key not in OF_A_DATA_FILE]
    if foreign:
        raise UserError(
            f"{path}: {foreign[0]} belongs to a system, not to a data set: leave it out "
            f"(allowed: {', '.join(OF_A_DATA_FILE)})"
        )
    return raw


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``: mappings key by key at every depth, anything else is replaced whole."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = merge(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _names_data(raw: Mapping[str, Any]) -> bool:
    data = raw.get("data")
    return isinstance(data, dict) and data.get("path") is not None
