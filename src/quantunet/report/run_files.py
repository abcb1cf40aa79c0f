"""What a run folder holds, read tolerantly: a file that is not there yet is an empty part of the report."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantunet.errors import UserError


@dataclass(frozen=True)
class Example:
    """One test image with its masks; all arrays (h, w)."""

    name: str
    image: NDArray[np.float64]
    truth: NDArray[np.uint8]
    float_mask: NDArray[np.uint8]
    integer_mask: NDArray[np.uint8]
    dice_float: float
    dice_integer: float


@dataclass(frozen=True)
class RunFiles:
    """The parts of a run; empty where the run has not written them."""

    name: str
    summary: dict[str, Any]
    evaluation: dict[str, Any]
    environment: dict[str, Any]
    config: str
    records: list[dict[str, Any]]
    unreadable_records: int
    examples: list[Example]


def read_run_files(run_dir: Path) -> RunFiles:
    """Read the run folder ``run_dir``.

    Raises:
        UserError: if it is no folder, holds none of a run's files, or one of them is damaged, naming the file.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such run folder; give the folder that `quantunet train` wrote")
    names = ("summary.json", "evaluation.json", "metrics.jsonl", "config.yaml")
    if not any((run_dir / name).is_file() for name in names):
        raise UserError(f"{run_dir}: holds none of {', '.join(names)}; give the folder that `quantunet train` wrote")
    records, unreadable = _read_records(run_dir / "metrics.jsonl")
    return RunFiles(
        name=_name(run_dir.resolve()),
        summary=_read_object(run_dir / "summary.json"),
        evaluation=_read_object(run_dir / "evaluation.json"),
        environment=_read_object(run_dir / "environment.json"),
        config=_read_text(run_dir / "config.yaml"),
        records=records,
        unreadable_records=unreadable,
        examples=_read_examples(run_dir / "examples.npz"),
    )


def _name(folder: Path) -> str:
    """The folder's name; of a comparison's run, NAME/seed_K, both."""
    return f"{folder.parent.name}, seed {folder.name[5:]}" if folder.name.startswith("seed_") else folder.name


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 ({error}); write it again by re-running the step") from error


def _read_object(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        value = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error}); write it again by re-running the step") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}, expected a JSON object; re-run the step")
    return value


def _read_records(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of metrics.jsonl by step, and how many could not be read: a killed run may end in half a line."""
    records, unreadable = [], 0
    for line in _read_text(path).splitlines():
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int | float):
            records.append(record)
        else:
            unreadable += 1
    return sorted(records, key=lambda record: record["step"]), unreadable


def _read_examples(path: Path) -> list[Example]:
    if not path.is_file():
        return []
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return [
                Example(
                    name=str(name),
                    image=np.asarray(archive[f"image_{i}"], np.float64),
                    truth=archive[f"truth_{i}"],
                    float_mask=archive[f"float_{i}"],
                    integer_mask=archive[f"integer_{i}"],
                    dice_float=float(archive[f"dice_float_{i}"]),
                    dice_integer=float(archive[f"dice_integer_{i}"]),
                )
                for i, name in enumerate(archive["names"])
            ]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it and evaluate the run again") from error
