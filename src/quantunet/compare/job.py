"""One run of a comparison, in a process of its own: ``python -m quantunet.compare.job FOLDER [FLOAT_FOLDER]``.

The folder holds the run's ``config.yaml`` already. A float network that is missing is trained first, under a lock.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from quantunet.compare.plan import has_float_network
from quantunet.errors import UserError
from quantunet.pipeline import run_training
from quantunet.train.config_file import load_config


def run_job(folder: Path, float_folder: Path | None, console: Console) -> None:
    """Train, or go on training, the run in ``folder``, from the float network in ``float_folder`` (None: its own).

    Raises:
        UserError: as the training.
    """
    if float_folder is not None:
        ensure_float_network(float_folder, console)
        _run(folder, console, float_folder)
    else:
        ensure_float_network(folder, console)


def ensure_float_network(folder: Path, console: Console) -> None:
    """Train the float network in ``folder`` unless it stands; where another process is at it, wait for its end."""
    with _locked(folder.with_name(f".{folder.name}.lock")):
        if not has_float_network(folder):
            _run(folder, console, None)


def _run(folder: Path, console: Console, float_run: Path | None) -> None:
    config = load_config(folder / "config.yaml")
    run_training(config, folder, resume=True, console=console, float_run=float_run)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # freed by the system too when this process is killed
        yield


def _end_with(parent: int) -> None:
    """A comparison that was killed leaves no run behind: all files are written whole, so any moment will do."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main(arguments: list[str]) -> int:
    """Exit status 0, or 2 after one line for a user's mistake."""
    folders = [Path(argument) for argument in arguments]
    try:
        run_job(folders[0], folders[1] if len(folders) > 1 else None, Console(highlight=False, width=120))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sys.exit(main(sys.argv[1:]))
