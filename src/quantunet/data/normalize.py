"""Raw intensities to the network's input, stated as a small JSON object; and padding that is undone exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantunet.data.config import NormalizationConfig
from quantunet.data.sample import Sample
from quantunet.errors import UserError

Padding = tuple[int, int, int, int]  # (top, bottom, left, right), pixels


def resolve(config: NormalizationConfig, train_samples: Sequence[Sample]) -> dict[str, Any]:
    """The normalisation with its numbers filled in, as JSON; ``dataset`` measures the training samples only.

    Returns:
        {"kind": "image"}, {"kind": "dataset", "mean": [c], "std": [c]} or {"kind": "window", "low", "high"}.

    Raises:
        UserError: ``dataset`` without training samples, or with a channel that is constant in all of them.
    """
    if config.kind == "image":
        return {"kind": "image"}
    if config.kind == "window":
        return {"kind": "window", "low": config.low, "high": config.high}
    if not train_samples:
        raise UserError("normalization kind: dataset needs training cases to measure")
    pixels = sum(sample.image[0].size for sample in train_samples)
    mean = np.sum([sample.image.sum(axis=(1, 2), dtype=np.float64) for sample in train_samples], axis=0) / pixels
    # the second pass from the mean keeps all digits; E[x^2] - E[x]^2 would lose them
    squares = [((sample.image - mean[:, None, None]) ** 2).sum(axis=(1, 2)) for sample in train_samples]
    std = np.sqrt(np.sum(squares, axis=0) / pixels)
    if not (std > 0).all():
        raise UserError(f"channel {int(np.argmin(std))} is constant in every training image: nothing to learn from")
    return {"kind": "dataset", "mean": mean.tolist(), "std": std.tolist()}


def normalize(image: NDArray[np.float32], spec: Mapping[str, Any]) -> NDArray[np.float32]:
    """``image`` (c, h, w) as the network wants it, float32; a constant channel becomes zeros under ``image``.

    Computed in float64 and rounded once, so that the result does not depend on the machine's float32 sums.

    Raises:
        UserError: an unknown kind, or another number of channels than was measured.
    """
    x = image.astype(np.float64)
    match spec.get("kind"):
        case "image":
            mean = x.mean(axis=(1, 2), keepdims=True)
            std = x.std(axis=(1, 2), keepdims=True)
            is_constant = np.ptp(x, axis=(1, 2)).reshape(-1, 1, 1) == 0
            y = np.where(is_constant, 0.0, (x - mean) / np.where(is_constant, 1.0, std))
        case "dataset":
            mean, std = (np.asarray(spec[key], np.float64).reshape(-1, 1, 1) for key in ("mean", "std"))
            if len(mean) != len(x):
                raise UserError(f"the image has {len(x)} channels, the normalisation was measured on {len(mean)}")
            y = (x - mean) / std
        case "window":
            low, high = float(spec["low"]), float(spec["high"])
            y = np.clip((x - low) * (2.0 / (high - low)) - 1.0, -1.0, 1.0)
        case kind:
            raise UserError(f"normalisation kind {kind!r} is unknown: image, dataset or window")
    return y.astype(np.float32)


def pad_to_multiple(image: NDArray, multiple: int) -> tuple[NDArray, Padding]:
    """``image`` (..., h, w) with its edges repeated, centred, so that h and w divide by ``multiple``."""
    height, width = image.shape[-2:]
    rows, columns = -height % multiple, -width % multiple
    padding = (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)
    if not any(padding):
        return image, padding
    widths = [(0, 0)] * (image.ndim - 2) + [padding[:2], padding[2:]]
    return np.pad(image, widths, mode="edge"), padding


def unpad(array: NDArray, padding: Padding) -> NDArray:
    """The inverse of ``pad_to_multiple`` on any (..., h, w)."""
    top, bottom, left, right = padding
    height, width = array.shape[-2:]
    return array[..., top : height - bottom, left : width - right]
