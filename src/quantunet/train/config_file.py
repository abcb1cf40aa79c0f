"""Two files as one configuration: what makes a system, and the data set (with network and training) it runs on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantunet.errors import UserError
from quantunet.train.config import Config, build_config, load_config, read_mapping

OF_A_DATA_FILE = ("data", "network", "loss", "training", "augmentation", "precision", "accelerator", "devices")
"""Sections that may stand in the file of a data set. All else makes the system: were it here, a file of a data set
could change the quantizer or the budget of every row of a table."""


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
