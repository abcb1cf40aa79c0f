"""The inner products that an exported project can carry: one C file and one line in ``KERNELS`` each."""

from __future__ import annotations

from dataclasses import dataclass

from quantunet.backends.c.plan import SMALL, Tiling


@dataclass(frozen=True)
class Kernel:
    """One implementation of ``qn_product.h``.

    Args:
        name: as users say it.
        source: its file in ``c/runtime``; a project carries this one and none of the others.
        extra: further files of its own, likewise.
        tiling: what suits it; it says the width of the product's operands too.
        cflags: what the project's Makefile compiles with by default.
    """

    name: str
    source: str
    tiling: Tiling = SMALL
    cflags: str = "-O3 -march=native"
    extra: tuple[str, ...] = ()

    @property
    def files(self) -> frozenset[str]:
        """All of its files."""
        return frozenset((self.source, *self.extra))


PORTABLE = Kernel("portable", "qn_product_portable.c")
DSP = Kernel(
    "dsp",
    "qn_product_dsp.c",
    Tiling(pixels=4, filters=32, lanes=4, patch_bits=16, band_pixels=256, winograd=True),
    "-O2",
    ("qn_lanes.h", "qn_winograd.h", "qn_winograd_dsp.c", "qn_winograd_inputs.c", "qn_winograd_weights.c"),
)
"""Cortex-M4, M7 and other Arm processors with the DSP extension: two 16-bit multiply-accumulates an instruction."""
BANDS = Kernel("bands", "qn_product_portable.c", Tiling(filters=32, band_pixels=256), "-O2")
"""The portable product for small processors: weights are expanded less often, for more scratch and longer rings."""
SWAR = Kernel(
    "swar",
    "qn_product_portable.c",
    Tiling(filters=32, band_pixels=256, swar=True),
    "-O2",
    ("qn_swar.h", "qn_swar.c", "qn_bit_serial.h", "qn_bit_serial.c"),
)
"""The same; at few bits two products in one multiplication, at very few bit planes: for cores without SIMD."""
HELIUM = Kernel(
    "helium",
    "qn_product_helium.c",
    Tiling(filters=32, lanes=16, patch_signed=True, band_pixels=256),
    "-O2",
    ("qn_helium.h",),
)
"""Cortex-M55, M85: 16 products of signed bytes an instruction."""
KERNELS = {kernel.name: kernel for kernel in (PORTABLE, BANDS, DSP, SWAR, HELIUM)}
