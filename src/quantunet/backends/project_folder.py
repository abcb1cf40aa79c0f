"""A folder of files that appears whole or not at all, and that replaces nothing but an earlier export."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path

from quantunet.errors import UserError


def write_project(out_dir: str | Path, files: Mapping[str, str | bytes], products: Iterable[str] = ()) -> Path:
    """Write ``files`` (by path within the folder, ``/`` between its parts) to ``out_dir``; returns its full path.

    Args:
        products: patterns of files that working with the project leaves in it, which a new export may remove.

    Raises:
        UserError: if ``out_dir`` is a file, holds files that no export wrote, or cannot be written.
    """
    out_dir = Path(out_dir).resolve()
    _check_replaceable(out_dir, [*files, *products])
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f".{out_dir.name}-") as name:
            fresh, old = Path(name) / "new", Path(name) / "old"
            for path, content in files.items():
                target = fresh / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.encode() if isinstance(content, str) else content)
            _put_in_place(fresh, out_dir, old)
    except OSError as error:
        raise UserError(f"cannot write {out_dir}: {error.strerror}; choose another folder with --out") from error
    return out_dir


def _check_replaceable(out_dir: Path, patterns: Iterable[str]) -> None:
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise UserError(f"{out_dir} is a file: choose a folder with --out")
    found = [item.relative_to(out_dir).as_posix() for item in out_dir.rglob("*") if not item.is_dir()]
    foreign = [name for name in found if not any(_matches(name, pattern) for pattern in patterns)]
    if foreign:
        raise UserError(
            f"{out_dir} holds {sorted(foreign)[0]!r}, which no export wrote: choose an empty folder with --out"
        )


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)


def _put_in_place(fresh: Path, out_dir: Path, old: Path) -> None:
    if out_dir.exists():
        os.replace(out_dir, old)
    try:
        os.replace(fresh, out_dir)
    except OSError:
        if old.exists():
            os.replace(old, out_dir)
        raise
