"""The processors that ``export --target`` knows: compiler, kernel, the part whose memory counts, the board in QEMU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantunet.backends.c.kernels import DSP, HELIUM, SWAR, Kernel
from quantunet.errors import UserError

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Region:
    """Memory of a board: where it begins and how much of it there is."""

    origin: int
    size_bytes: int


@dataclass(frozen=True)
class Board:
    """What QEMU emulates.

    Args:
        machine: of ``-machine``.
        emulator: the program.
        icount_shift: virtual time of an instruction is 2 to this power, in ns; the counter's file relies on it.
        counter: the file of ``mcu/firmware`` that counts instructions.
        flash, ram: where firmware and its data lie; more than a real part has.
        test: for the test program and its recorded images, which count as neither.
        options: further words for the emulator.
    """

    machine: str
    emulator: str
    icount_shift: int
    counter: str
    flash: Region
    ram: Region
    test: Region
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class CTarget:
    """One value of ``--target``.

    Args:
        part: the real part whose memory is the default budget.
        flash_bytes, ram_bytes: of that part.
        cross: prefix of the compiler's programs.
        machine_flags: the processor, for compiler and linker.
        startup: the file of ``mcu/firmware`` that runs first.
        has_libc: whether the compiler comes with a C library; without it, the project brings memcpy and memset.
        packages: of Debian, for compiler and emulator.
        cflags: what the Makefile compiles with, besides.
    """

    name: str
    part: str
    flash_bytes: int
    ram_bytes: int
    kernel: Kernel
    board: Board
    cross: str
    machine_flags: tuple[str, ...]
    startup: str
    has_libc: bool
    packages: str
    cflags: str = "-O2"


MPS2_AN386 = Board(
    "mps2-an386",
    "qemu-system-arm",
    7,
    "counter_mps2.c",
    Region(0x0000_0000, 4 * MIB),
    Region(0x2100_0000, 16 * MIB),
    Region(0x2000_0000, 4 * MIB),
)
MPS2_AN500 = Board(
    "mps2-an500",
    "qemu-system-arm",
    7,
    "counter_mps2.c",
    Region(0x0000_0000, 4 * MIB),
    Region(0x6000_0000, 16 * MIB),
    Region(0x2000_0000, 4 * MIB),
)
MPS3_AN547 = Board(
    "mps3-an547",
    "qemu-system-arm",
    7,
    "counter_mps3.c",
    Region(0x0000_0000, 512 * KIB),
    Region(0x3100_0000, 4 * MIB),
    Region(0x1100_0000, 2 * MIB),
)
RISCV_VIRT = Board(
    "virt",
    "qemu-system-riscv32",
    0,
    "counter_virt.c",
    Region(0x8000_0000, 16 * MIB),
    Region(0x8100_0000, 32 * MIB),
    Region(0x8300_0000, 16 * MIB),
    ("-bios", "none"),
)

_ARM_PACKAGES = "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
C_TARGETS: Mapping[str, CTarget] = {
    target.name: target
    for target in (
        CTarget(
            "cortex-m4",
            "nRF52840",
            1 * MIB,
            256 * KIB,
            DSP,
            MPS2_AN386,
            "arm-none-eabi-",
            ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=soft"),
            "startup_arm.c",
            True,
            _ARM_PACKAGES,
        ),
        CTarget(
            "cortex-m7",
            "STM32F746",
            1 * MIB,
            320 * KIB,
            DSP,
            MPS2_AN500,
            "arm-none-eabi-",
            ("-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=soft"),
            "startup_arm.c",
            True,
            _ARM_PACKAGES,
        ),
        CTarget(
            "cortex-m55",
            "Corstone SSE-300, its tightly coupled memories",
            512 * KIB,
            512 * KIB,
            HELIUM,
            MPS3_AN547,
            "arm-none-eabi-",
            ("-mcpu=cortex-m55+nofp", "-mthumb", "-mfloat-abi=hard"),
            "startup_arm.c",
            True,
            _ARM_PACKAGES,
        ),
        CTarget(
            "riscv32",
            "ESP32-C3, without its cache",
            4 * MIB,
            384 * KIB,
            SWAR,
            RISCV_VIRT,
            "riscv64-unknown-elf-",
            ("-march=rv32im_zicsr", "-mabi=ilp32"),
            "startup_riscv.c",
            False,
            "gcc-riscv64-unknown-elf qemu-system-misc",
        ),
    )
}


def find_c_target(name: str) -> CTarget:
    """The target called ``name``.

    Raises:
        UserError: if there is none.
    """
    if name not in C_TARGETS:
        raise UserError(f"--target {name!r} is unknown: {', '.join(('generic', *C_TARGETS))}")
    return C_TARGETS[name]
