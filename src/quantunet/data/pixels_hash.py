"""The content of an array: its hash, and whether there is any."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def is_constant(image: NDArray) -> bool:
    """Whether every channel of ``image`` (c, h, w) holds one value: an empty slice, which says nothing."""
    return bool((np.ptp(image, axis=(1, 2)) == 0).all())


def pixels_sha256(array: NDArray) -> str:
    """SHA-256 of an array's shape, dtype and little-endian content: the same for the same pixels, whatever the file."""
    digest = hashlib.sha256(f"{array.dtype.str.lstrip('<>|=')}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()
