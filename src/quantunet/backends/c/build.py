"""Finding the C compiler, running it, and keeping shared libraries in a cache by the hash of their sources."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from quantunet.backends.c.kernels import KERNELS, PORTABLE, Kernel
from quantunet.errors import UserError

WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-fno-omit-frame-pointer")
COMPILE_SECONDS = 900


class CompilerMissing(UserError):  # noqa: N818 - the name says it
    """No C compiler is on the path."""


class CompilerError(RuntimeError):
    """The compiler refused what we wrote: our fault."""


def find_compiler() -> list[str]:
    """The command of the C compiler, as words: ``$CC`` if set, else ``cc``.

    Raises:
        CompilerMissing: if there is none.
    """
    words = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(words[0]) is None:
        raise CompilerMissing(
            f"C compiler {words[0]!r} is not on the path: install gcc or clang, or set CC to its name"
        )
    return words


def accepts(flag: str) -> bool:
    """Whether the compiler knows ``flag``."""
    return _accepts(tuple(find_compiler()), flag)


@cache
def _accepts(command: tuple[str, ...], flag: str) -> bool:
    line = [*command, "-Werror", flag, "-c", "-x", "c", "-o", os.devnull, "-"]
    return subprocess.run(line, input="int x;\n", capture_output=True, text=True).returncode == 0


def has_compiler() -> bool:
    """Whether a C compiler is there."""
    try:
        find_compiler()
    except CompilerMissing:
        return False
    return True


def runtime_files(kernel: Kernel = PORTABLE) -> dict[str, str]:
    """The runtime's C sources and headers, by file name, with ``kernel`` as its inner product."""
    others = frozenset().union(*(other.files for other in KERNELS.values())) - kernel.files
    folder = resources.files("quantunet.backends.c") / "runtime"
    return {
        item.name: item.read_text(encoding="utf-8")
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.name.endswith((".c", ".h")) and item.name not in others
    }


def host_files(kernel: Kernel = PORTABLE) -> dict[str, str]:
    """The sources of the host engine, which are no part of an exported project, and the runtime that it builds on."""
    folder = resources.files("quantunet.backends.c") / "runtime" / "host"
    texts = {
        item.name: item.read_text(encoding="utf-8") for item in folder.iterdir() if item.name.endswith((".c", ".h"))
    }
    return {**runtime_files(kernel), **dict(sorted(texts.items()))}


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write every text of ``files`` into ``folder``."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def compile_sources(folder: Path, sources: Sequence[str], output: str, flags: Sequence[str]) -> None:
    """Compile and link ``sources`` of ``folder`` into ``folder / output``.

    Raises:
        CompilerMissing: if there is no compiler.
        CompilerError: if it refuses, with its first lines.
    """
    command = [*find_compiler(), *WARNINGS, *flags, *sources, "-o", output]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    if done.returncode:
        raise CompilerError(f"{shlex.join(command)} failed:\n{done.stderr[:2000]}")


def build_library(files: Mapping[str, str], flags: Sequence[str]) -> Path:
    """A shared library of all ``.c`` texts of ``files``, from the cache or compiled anew.

    The cache holds it under the hash of sources, flags, compiler and processor, with the hash of its own bytes beside
    it: an entry that does not match is built again.
    """
    folder, key = _cache_folder(), _key(files, flags)
    library, digest = folder / f"{key}.so", folder / f"{key}.sha256"
    if library.is_file() and digest.is_file() and digest.read_text() == _sha256(library):
        return library
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as name:
        work = Path(name)
        write_files(work, files)
        sources = [file for file in files if file.endswith(".c")]
        compile_sources(work, sources, "library.so", [*flags, "-shared", "-fPIC"])
        (work / "sha256").write_text(_sha256(work / "library.so"))
        os.replace(work / "library.so", library)
        os.replace(work / "sha256", digest)
    return library


def _cache_folder() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "quantunet"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:  # a read-only home: build for this process alone
        return _process_folder()


@cache
def _process_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="quantunet-"))


def _key(files: Mapping[str, str], flags: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in (
        *_compiler_identity(tuple(find_compiler())),
        *flags,
        *(part for item in files.items() for part in item),
    ):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:40]


@cache
def _compiler_identity(command: tuple[str, ...]) -> tuple[str, ...]:
    """What ``-march=native`` means here is part of it: a home folder may be shared by unequal machines."""
    queries = (["--version"], ["-march=native", "-E", "-dM", "-x", "c", os.devnull])
    return tuple(subprocess.run([*command, *query], capture_output=True, text=True).stdout for query in queries)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
