"""dataset.json of the Medical Segmentation Decathlon and of nnU-Net: names of classes and of channels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from quantunet.errors import UserError


@dataclass(frozen=True)
class DatasetJson:
    """``class_names`` by mask value, None where not stated; ``modalities`` in the order of the channels."""

    class_names: dict[int, str] | None = None
    modalities: tuple[str, ...] = ()


def read_dataset_json(root: Path) -> DatasetJson:
    """What ``root/dataset.json`` states; nothing when there is none.

    Raises:
        UserError: a file that is no JSON object.
    """
    path = root / "dataset.json"
    if not path.is_file():
        return DatasetJson()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    channels = content.get("modality") or content.get("channel_names") or {}
    if isinstance(channels, dict) and all(str(key).isdigit() for key in channels):
        names = tuple(str(channels[key]) for key in sorted(channels, key=int))
    else:
        names = ()
    return DatasetJson(_class_names(content.get("labels")), names)


def _class_names(labels: object) -> dict[int, str] | None:
    names: dict[int, str] = {}
    for key, value in labels.items() if isinstance(labels, dict) else ():
        if str(key).isdigit():  # MSD: {"1": "liver"}
            names[int(key)] = str(value)
        elif isinstance(value, int):  # nnU-Net: {"liver": 1}
            names[value] = str(key)
    return names or None
