"""The proof that exported C equals the interpreter: every code of every tensor, under sanitizers, without floats."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from quantunet.arith import Int64
from quantunet.backends.c.build import (
    SANITIZERS,
    CompilerError,
    accepts,
    compile_sources,
    write_files,
)
from quantunet.backends.c.kernels import PORTABLE, Kernel
from quantunet.backends.c.layout import CModel, c_array, code_dtype, lay_out, read_tensor, stored_tensors
from quantunet.backends.c.plan import Tiling
from quantunet.backends.c.project import project_files
from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph

RUN_SECONDS = 3600
_FLOAT_OPERAND = re.compile(r"%[xyz]mm\d|%st\b|\b[sd]\d+,|\b(?:fld|fst|fadd|fmul|fdiv|fsub|fcvt|fmov|scvtf|ucvtf)\w*\b")
_FLOAT_SYMBOL = re.compile(r"__(?:add|sub|mul|div|float|fix|extend|trunc)\w*[sdt]f\d?\b|__aeabi_[fd]\w+")


class VerificationError(RuntimeError):
    """The exported program crashed or a sanitizer spoke: our fault."""


@dataclass(frozen=True)
class Proof:
    """What was compared with the interpreter.

    Args:
        tensors: kinds of tensors per image, the image itself not counted.
        compared, differing: output codes over all images.
        arena_bytes: of the largest image size.
        first_difference: name of the first tensor that differs, or empty.
    """

    backend: str
    tensors: int
    compared: int
    differing: int
    arena_bytes: int
    images: int
    first_difference: str = ""


@dataclass(frozen=True)
class FloatCheck:
    """How the object code was searched for floating point, and what was found."""

    method: str
    instructions: int
    findings: tuple[str, ...]

    @property
    def is_free(self) -> bool:
        """Whether nothing was found in code that was really looked at."""
        return self.instructions > 0 and not self.findings


class CVerifier:
    """The exported project as a program of its own, run on one image after another; ``proof`` sums up.

    To be used in a ``with`` statement, at whose end the programs, one for each image size, are removed.

    Args:
        sanitize: address and undefined-behaviour sanitizers, whose findings are failures.
    """

    def __init__(
        self, graph: IntegerGraph, sanitize: bool = True, tiling: Tiling | None = None, kernel: Kernel = PORTABLE
    ) -> None:
        self.graph, self.sanitize, self.tiling, self.kernel = graph, sanitize, tiling, kernel
        self.proof = Proof("c", 0, 0, 0, 0, 0)
        self._folder = tempfile.TemporaryDirectory(prefix="quantunet-verify-")
        self._programs: dict[tuple[int, int], tuple[Path, CModel]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._folder.cleanup()

    def compare(self, codes: NDArray[np.integer], expected: Mapping[str, Int64]) -> None:
        """Compare every code of every tensor that the program stores, of one image (c, h, w).

        Args:
            expected: what ``interpreter.trace`` gives for it.

        Raises:
            CompilerMissing: if there is no C compiler.
            VerificationError: if the program crashes or a sanitizer finds something.
        """
        program, model = self._program(codes.shape[1], codes.shape[2])
        traced = _run_program(program, model, codes)
        compared, differing, first = self.proof.compared, self.proof.differing, self.proof.first_difference
        for tensor, values in traced.items():
            wrong = int(np.count_nonzero(values != expected[tensor][0]))
            compared, differing = compared + values.size, differing + wrong
            first = first or (tensor if wrong else "")
        arena_bytes = max(self.proof.arena_bytes, model.plan.arena_bytes)
        self.proof = Proof("c", len(traced), compared, differing, arena_bytes, self.proof.images + 1, first)

    def _program(self, height: int, width: int) -> tuple[Path, CModel]:
        size = height, width
        if size not in self._programs:
            model = lay_out(self.graph, height, width, self.tiling, kernel=self.kernel)
            folder = Path(self._folder.name) / f"{height}x{width}"
            folder.mkdir()
            self._programs[size] = _compile_program(model, folder, self.sanitize), model
        return self._programs[size]


def verify_c(
    graph: IntegerGraph,
    inputs: Iterable[NDArray[np.integer]],
    sanitize: bool = True,
    tiling: Tiling | None = None,
    kernel: Kernel = PORTABLE,
) -> Proof:
    """Compare the exported C with the interpreter on input codes (c, h, w), whose sizes may differ.

    Raises:
        CompilerMissing: if there is no C compiler.
        VerificationError: if the program crashes or a sanitizer finds something.
        GraphError: if an input does not fit the graph.
    """
    with CVerifier(graph, sanitize, tiling, kernel) as verifier:
        for codes in inputs:
            verifier.compare(codes, interpreter.trace(graph, codes[None]))
        return verifier.proof


def float_free(out_dir: str | Path) -> FloatCheck:
    """Compile an exported project for general registers only and search its disassembly for floating point.

    On x86 and 64-bit ARM ``-mgeneral-regs-only`` makes the compiler refuse any float operation, so that compiling at
    all is the proof; the disassembly and the symbols are searched besides, on every machine.

    Raises:
        CompilerMissing: if there is no C compiler.
    """
    sources = sorted(file.name for file in Path(out_dir).glob("*.c") if file.name != "test_model.c")
    with tempfile.TemporaryDirectory(prefix="quantunet-float-") as name:
        work = Path(name)
        shutil.copytree(out_dir, work, dirs_exist_ok=True)
        flags, method = ["-O2", "-mgeneral-regs-only"], "compiled with -O2 -mgeneral-regs-only"
        if not accepts("-mgeneral-regs-only"):
            flags, method = ["-O2"], "compiled with -O2 (the compiler has no -mgeneral-regs-only)"
        for source in sources:
            try:
                compile_sources(work, [source], f"{source}.o", [*flags, "-c"])
            except CompilerError as error:
                return FloatCheck(f"{method}: refused", 0, (f"{source}: {error}",))
        if shutil.which("objdump") is None:
            return FloatCheck(f"{method}; no objdump to disassemble with", 0, ())
        listing = subprocess.run(
            ["objdump", "-dr", "--no-show-raw-insn", *(f"{source}.o" for source in sources)],
            cwd=work, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    lines = [line for line in listing.splitlines() if re.match(r"\s+[0-9a-f]+:\s", line)]
    found = tuple(line.strip() for line in lines if _FLOAT_OPERAND.search(line) or _FLOAT_SYMBOL.search(line))
    return FloatCheck(f"{method}; {len(lines)} disassembled lines searched", len(lines), found)


def _compile_program(model: CModel, folder: Path, sanitize: bool) -> Path:
    files = {**project_files(model), "verify_main.c": _main_source(model)}
    write_files(folder, files)
    sources = [name for name in files if name.endswith(".c") and name != "test_model.c"]
    flags = ["-DQN_TRACE=verify_show", *(("-O2", *SANITIZERS) if sanitize else ("-O3",))]
    compile_sources(folder, sources, "verify", flags)
    return folder / "verify"


def _run_program(program: Path, model: CModel, codes: NDArray[np.integer]) -> dict[str, NDArray[np.integer]]:
    """Every stored tensor but the image, (c, h, w), as the program wrote it."""
    image = codes.transpose(1, 2, 0).astype(code_dtype(model.graph.input.output)).tobytes()
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # nothing allocates; leak search needs ptrace
    trace = program.with_name("trace.bin")
    done = subprocess.run([program, trace], input=image, env=environment, capture_output=True, timeout=RUN_SECONDS)
    if done.returncode:
        raise VerificationError(f"the exported program ended with {done.returncode}: {done.stderr.decode()[:1500]}")
    data, offset, tensors = trace.read_bytes(), 0, {}
    for name, size_bytes in stored_tensors(model).items():
        tensors[name] = read_tensor(model, name, data[offset : offset + size_bytes])
        offset += size_bytes
    if offset != len(data):
        raise VerificationError(f"the exported program wrote {len(data)} bytes of tensors, not {offset}")
    del tensors[model.graph.input.name]
    return tensors


def _main_source(model: CModel) -> str:
    """A program that reads one image from its standard input and writes every tensor to the file it is given."""
    upper, prefix = model.prefix.upper(), model.prefix
    _, height, width = model.graph.shapes(model.height, model.width)[model.graph.output.name]
    sizes, starts = stored_tensors(model), []
    for node in model.graph.nodes:
        names = list(sizes)
        before = names[: names.index(node.name)] if node.name in sizes else []
        starts.append(sum(sizes[name] for name in before))
    return f"""#include <stdint.h>
#include <stdio.h>

#include "model.h"

void verify_show(int32_t index, size_t offset, const uint8_t *codes, size_t size_bytes);

/* where each node's tensor begins in the file */
{c_array("static const int32_t starts[]", starts)}

static {prefix}_code image[{upper}_HEIGHT * {upper}_WIDTH * {upper}_CHANNELS];
static {prefix}_label mask[{height * width}];
static FILE *trace;
static int failed;

void verify_show(int32_t index, size_t offset, const uint8_t *codes, size_t size_bytes)
{{
    failed |= fseek(trace, starts[index] + (long)offset, SEEK_SET) != 0;
    failed |= fwrite(codes, 1, size_bytes, trace) != size_bytes;
}}

int main(int argc, char **argv)
{{
    trace = argc == 2 ? fopen(argv[1], "wb") : NULL;
    if (trace == NULL || fread(image, 1, sizeof image, stdin) != sizeof image) {{
        return 2;
    }}
    if ({prefix}_run(image, mask) != {upper}_OK || failed) {{
        return 3;
    }}
    return fclose(trace) ? 4 : 0;
}}
"""
