"""Building firmware of an exported project and running it under QEMU: its report, and every code of every tensor."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantunet.backends.c.build import CompilerError
from quantunet.backends.mcu.board import FIRMWARE
from quantunet.backends.mcu.targets import CTarget
from quantunet.backends.project_folder import write_project
from quantunet.errors import UserError

RUN_SECONDS = 3600


class FirmwareError(RuntimeError):
    """The firmware crashed or printed what it should not: our fault."""


@dataclass(frozen=True)
class Report:
    """What the firmware printed.

    Args:
        checksums, instructions, stack_bytes: by recorded image.
        differing: pixels, over all images.
        layers: instructions by node, of the last image.
        flash: bytes by section, and their sum under "flash".
        ram_bytes: arena, scratch, image, mask and reserved stack.
    """

    checksums: tuple[int, ...]
    instructions: tuple[int, ...]
    stack_bytes: tuple[int, ...]
    differing: int
    layers: Mapping[str, int]
    flash: Mapping[str, int]
    ram_bytes: int


def has_tools(target: CTarget, emulator: bool = True) -> bool:
    """Whether compiler, make and emulator are on the path."""
    programs = ["make", f"{target.cross}gcc", *([target.board.emulator] if emulator else [])]
    return all(map(shutil.which, programs))


def require_tools(target: CTarget) -> None:
    """Raise a UserError, naming the packages, unless compiler and emulator of ``target`` are there."""
    if not has_tools(target):
        raise UserError(f"--target {target.name} needs compiler and emulator: apt-get install make {target.packages}")


def build_firmware(folder: Path, files: Mapping[str, str]) -> Path:
    """Write ``files`` to ``folder``, run its Makefile, return the firmware's path.

    Raises:
        CompilerError: if it refuses, with its first lines.
    """
    write_project(folder, files, products=("*",))
    done = subprocess.run(["make", FIRMWARE], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise CompilerError(f"make {FIRMWARE} failed:\n{done.stderr[:2000]}")
    return folder / FIRMWARE


def run_firmware(folder: Path) -> str:
    """What ``make run`` prints in the folder of a project.

    Raises:
        FirmwareError: if it ends with an error.
    """
    done = subprocess.run(
        ["make", "--no-print-directory", "--silent", "run"], cwd=folder, capture_output=True, text=True,
        timeout=RUN_SECONDS,
    )  # fmt: skip
    if done.returncode:
        raise FirmwareError(f"make run ended with {done.returncode}:\n{(done.stdout + done.stderr)[-1500:]}")
    return done.stdout


def read_report(text: str) -> Report:
    """What an exported project's firmware printed."""
    return Report(
        tuple(_numbers(text, "  checksum")),
        tuple(_numbers(text, "  instructions")),
        tuple(_numbers(text, "  stack")),
        _numbers(text, "total differing")[0],
        {name: int(count) for count, name in re.findall(r"^layer (\d+) (\S+)$", text, re.MULTILINE)},
        {name: _numbers(text, pattern)[0] for name, pattern in _FLASH.items()},
        _numbers(text, "ram")[0],
    )


_FLASH = {"flash": "flash", "code": "  code", "constants": "  constants", "initialised": "  initialised"}


def section_bytes(firmware: Path, target: CTarget) -> tuple[int, int]:
    """(flash, RAM) of a linked firmware, in bytes, from its symbols."""
    listing = subprocess.run([f"{target.cross}nm", firmware], capture_output=True, text=True, check=True).stdout
    symbols = {name: int(value, 16) for value, _, name in (line.split() for line in listing.splitlines())}
    return symbols["_flash_bytes"], symbols["_ram_bytes"]


def _numbers(text: str, name: str) -> list[int]:
    return [int(value) for value in re.findall(rf"^{name} (\d+)\b", text, re.MULTILINE)]
