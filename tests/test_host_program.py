"""The host engine as a program of its own: one result for all kernels and threads, sanitizers, instructions counted."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from quantunet.backends.c.build import accepts, find_compiler, has_compiler, host_files, write_files
from quantunet.backends.c.model_source import tiling_header
from quantunet.backends.c.plan import FAST

SOURCE = Path(__file__).parent / "c" / "host_program.c"
RECORDED = Path(__file__).parent / "golden" / "host_instructions.json"
WARNINGS = ("-std=c11", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pthread")
pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


def build(folder: Path, flags: Sequence[str]) -> Path:
    """The program, with every warning an error."""
    files = {**host_files(), "qn_tiling.h": tiling_header(FAST), "host_program.c": SOURCE.read_text()}
    write_files(folder, files)
    sources = [name for name in files if name.endswith(".c")]
    subprocess.run([*find_compiler(), *WARNINGS, *flags, *sources, "-o", "program"], cwd=folder, check=True)
    return folder / "program"


def run(program: Path, kernel: str, threads: int, times: int) -> tuple[str, set[str]]:
    """The hash of all codes, and the kernels that ran."""
    done = subprocess.run([program, kernel, str(threads), str(times)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels, result = done.stdout.splitlines()
    return result, set(kernels.split())


def kernels_of(program: Path) -> list[str]:
    """The kernels that the program was built with and this machine runs."""
    names = ("winograd512", "vnni512", "avx2", "avx2_wide", "neon_dot", "neon", "portable")
    return [name for name in names if subprocess.run([program, name, "1", "1"], capture_output=True).returncode == 0]


@pytest.mark.parametrize(
    "flags",
    [
        ("-O3",),
        ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        ("-O0", "-g", "-fsanitize=thread"),
    ],
    ids=["plain", "address and undefined", "thread"],
)
def test_kernels_and_threads_give_one_result(flags: tuple[str, ...], tmp_path: Path) -> None:
    program = build(tmp_path, [*flags, *(["-march=native"] if accepts("-march=native") else [])])
    kernels = kernels_of(program)
    assert "portable" in kernels
    runs = ((1, 1), (2, 3), (4, 2)) if flags == ("-O3",) else ((2, 1),)
    results = {run(program, kernel, *how)[0] for kernel in kernels for how in runs}
    print(kernels, results)
    assert len(results) == 1


def test_instructions_are_those_recorded(tmp_path: Path) -> None:
    """Exact counts, by compiler; to record new ones, write what the failure shows into the golden file."""
    if not accepts("-mavx2"):
        pytest.skip("the compiler does not write for AVX2")
    if shutil.which("valgrind") is None:
        pytest.skip("no valgrind: apt install valgrind")
    version = subprocess.run([*find_compiler(), "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    recorded = json.loads(RECORDED.read_text()).get(version)
    if recorded is None:
        pytest.skip(f"no counts recorded for {version}")
    program, counts = build(tmp_path, ["-O3", "-mavx2"]), {}
    for kernel in recorded:
        command = ["valgrind", "--tool=callgrind", "--toggle-collect=qn_host_run", "--callgrind-out-file=/dev/null"]
        done = subprocess.run([*command, program, kernel, "1", "1"], capture_output=True, text=True)
        found = re.search(r"Collected : (\d+)", done.stderr)
        assert found, done.stderr
        counts[kernel] = int(found[1])
    assert counts == recorded
