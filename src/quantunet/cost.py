"""Cost of a network in multiply-accumulates, bit operations and bytes: pure formulas, each written once.

Nothing here imports anything of ours; numbers may be Python numbers, arrays or trainable tensors.
"""

from __future__ import annotations

import math
from typing import Any


def conv_macs(
    out_channels: int, in_channels: int, kernel_height: int, kernel_width: int, out_height: int, out_width: int
) -> int:
    """Multiply-accumulates of a convolution of one image; products with padding zeros are counted too."""
    return out_channels * in_channels * kernel_height * kernel_width * out_height * out_width


def conv_transpose_macs(
    out_channels: int, in_channels: int, kernel_height: int, kernel_width: int, in_height: int, in_width: int
) -> int:
    """Multiply-accumulates of a transposed convolution of one image: every input pixel meets every kernel position."""
    return out_channels * in_channels * kernel_height * kernel_width * in_height * in_width


def bops(macs: Any, weight_bits: Any, activation_bits: Any) -> Any:
    """Bit operations as the papers on bit widths count them: ``macs * weight_bits * activation_bits``."""
    return macs * weight_bits * activation_bits


def uniq_bops(macs: float, products: int, weight_bits: float, activation_bits: float) -> float:
    """Bit operations with the accumulator counted, as in UNIQ (Baskin et al., arXiv 1804.10969).

    ``macs * (weight_bits * activation_bits + weight_bits + activation_bits + log2(products))``, where ``products`` is
    the number summed into one output: in_channels * kernel_height * kernel_width.
    """
    return macs * (weight_bits * activation_bits + weight_bits + activation_bits + math.log2(products))


def packed_bytes(count: Any, bit_width: Any) -> Any:
    """Bytes of ``count`` codes of ``bit_width`` bits, packed without gaps and filled up to a whole byte."""
    return (count * bit_width + 7) // 8


def float32_bytes(parameters: int) -> int:
    """Bytes of ``parameters`` numbers in float32."""
    return 4 * parameters


def tensor_bytes(elements: int, storage_bit_width: int) -> int:
    """Bytes of a tensor whose every code lies in a machine integer of 8, 16 or 32 bits."""
    return elements * (storage_bit_width // 8)
