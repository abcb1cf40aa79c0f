"""Files that appear whole or not at all: written under another name, flushed to the disk, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """A temporary path for ``path`` to be written under; it takes the place of ``path`` when the block ends well.

    After a crash at any moment ``path`` holds its old bytes or the new ones. The temporary name has the same ending, by
    which image libraries choose their format, and the same folder, without which a rename is not atomic.

    Raises:
        OSError: if the folder is absent, read-only or full; ``path`` is as it was.
    """
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        with partial.open("rb+") as file:  # the bytes before the name: a rename may reach the disk first
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``.

    Raises:
        OSError: as ``partial_file``.
    """
    with partial_file(path) as partial:
        partial.write_bytes(data)
