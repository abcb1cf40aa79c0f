"""One channel count for a whole dataset: grey pictures stored as RGB, faint tints, and real colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quantunet.data.sample import RawSample
from quantunet.errors import UserError

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
# of the picture's range, mean over its pixels: the tint that JPEG leaves in ultrasound frames is below 0.02
_FAINT_TINT = 0.03


def agree_on_channels(samples: Sequence[RawSample], wanted: Literal["auto", "grey", "rgb"]) -> tuple[int, str | None]:
    """The channel count of the dataset, and a line when pictures must be converted for it.

    ``auto``: 1 when every picture is grey however it is stored, or when grey files are mixed with RGB that is only
    faintly tinted; else what all files share.

    Raises:
        UserError: files of different channel counts that are not nearly grey, naming the first.
    """
    if wanted == "grey":
        return 1, None
    if wanted == "rgb":
        return 3, None
    if all(len(raw.pixels) == 1 for raw in samples):
        return 1, None
    first = next(raw for raw in samples if len(raw.pixels) > 1)
    other = next((raw for raw in samples if raw.file_channels != first.file_channels), None)
    if other is None:
        return first.file_channels, None
    if all(len(raw.pixels) in (1, 3) and is_nearly_grey(raw.pixels) for raw in samples):
        tinted = sum(len(raw.pixels) == 3 for raw in samples)
        return 1, f"{tinted} RGB pictures are faintly tinted grey beside truly grey ones: all were converted to grey"
    raise UserError(
        f"{other.path}: {other.file_channels} channel(s), but {first.path.name} has {first.file_channels}: all images "
        "need the same channels; convert them, or set data.channels: grey"
    )


def is_nearly_grey(pixels: NDArray) -> bool:
    """Whether the channels of ``pixels`` (c, h, w) differ by a faint tint only."""
    if len(pixels) == 1:
        return True
    x = pixels.astype(np.float64)
    return bool(np.ptp(x, axis=0).mean() <= _FAINT_TINT * max(float(np.ptp(x)), 1e-12))


def with_channels(pixels: NDArray, channels: int, what: object = "the image") -> NDArray[np.float32]:
    """``pixels`` (c, h, w) as float32 with ``channels``: RGB to grey by BT.601 luma, grey to RGB by repetition.

    Raises:
        UserError: for any other change, naming ``what``.
    """
    if len(pixels) == channels:
        return pixels.astype(np.float32)
    if len(pixels) == 1:
        return np.repeat(pixels.astype(np.float32), channels, axis=0)
    if len(pixels) == 3 and channels == 1:
        grey = np.tensordot(_LUMA, pixels.astype(np.float64), axes=1)[None]
        # whole numbers stay whole, as every picture program's conversion has them
        return (np.rint(grey) if pixels.dtype.kind in "ui" else grey).astype(np.float32)
    raise UserError(f"{what}: {len(pixels)} channels, {channels} are needed")
