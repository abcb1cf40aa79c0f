"""Energy of one image, estimated: operations and memory traffic at the energies of a 45 nm process. Not measured.

The energies are those of M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, at 0.9 V:
an integer addition of 8 / 32 bits 0.03 / 0.1 pJ, a multiplication 0.2 / 3.1 pJ; reading 64 bits from a cache of 8 KiB
10 pJ, of 1 MiB 100 pJ. Those of 32 bits and of 8 KiB were checked in a paper that cites the table (PMC8934428); the
others are as commonly quoted from it. Between its widths an addition is taken as proportional to its bits, a
multiplication to the product of its operands' bits. An FPGA takes several times as much as a fixed circuit, a newer
process less: the figures compare networks, they predict no board.
"""

from __future__ import annotations

from dataclasses import dataclass

ADD_PJ_PER_BIT = 0.1 / 32
MULTIPLY_PJ_PER_BIT2 = 0.2 / 64
"""8 x 8 bits. 32 x 32 bits by this rule are 3.2 pJ, where the table has 3.1."""
SMALL_MEMORY_PJ_PER_BIT = 10 / 64
LARGE_MEMORY_PJ_PER_BIT = 100 / 64
"""A memory of 8 KiB and one of 1 MiB: the range of on-chip traffic."""


@dataclass(frozen=True)
class Energy:
    """Microjoules of one image: operations, and memory traffic from small and from large memories."""

    operations_uj: float
    memory_low_uj: float
    memory_high_uj: float

    @property
    def range_uj(self) -> tuple[float, float]:
        """The least and the most."""
        return self.operations_uj + self.memory_low_uj, self.operations_uj + self.memory_high_uj

    def power_mw(self, frames_per_second: float) -> tuple[float, float]:
        """Mean power at a frame rate, the least and the most."""
        low, high = self.range_uj
        return low * frames_per_second / 1000, high * frames_per_second / 1000

    def __add__(self, other: Energy) -> Energy:
        return Energy(
            self.operations_uj + other.operations_uj,
            self.memory_low_uj + other.memory_low_uj,
            self.memory_high_uj + other.memory_high_uj,
        )


def layer_energy(macs: int, weight_bits: float, activation_bits: float, acc_bits: int, traffic_bits: float) -> Energy:
    """One layer: a multiplication and an addition for each product, and ``traffic_bits`` to or from memories."""
    operation = MULTIPLY_PJ_PER_BIT2 * weight_bits * activation_bits + ADD_PJ_PER_BIT * acc_bits
    return Energy(
        macs * operation / 1e6,
        traffic_bits * SMALL_MEMORY_PJ_PER_BIT / 1e6,
        traffic_bits * LARGE_MEMORY_PJ_PER_BIT / 1e6,
    )
