"""The command line: ``quantunet COMMAND``. A user's mistake is one line and exit status 2."""

from __future__ import annotations

import errno
import sys

import typer
from typer.exceptions import TyperException

from quantunet.cli.app import app
from quantunet.cli.compare_command import register_compare_command
from quantunet.cli.export_commands import register_export_commands
from quantunet.cli.model_commands import register_model_commands
from quantunet.cli.train_commands import register_train_commands
from quantunet.errors import UserError

register_train_commands(app)
register_model_commands(app)
register_export_commands(app)
register_compare_command(app)

STORAGE_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EROFS: "the folder is read-only",
    errno.EACCES: "no permission",
    errno.ENOTDIR: "part of its path is a file",
    errno.EEXIST: "a file is in the way",
}


INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 success, 2 the user's mistake, 130 interrupted, 1 our own fault (a traceback)."""
    status: object = 0
    try:
        status = app(args=arguments, standalone_mode=False)
    except typer.Abort:
        status = INTERRUPTED
    except UserError as error:
        _fail(str(error))
    except TyperException as error:
        _fail(f"{error.format_message()} (see quantunet --help)")
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        _fail(f"{error.filename or 'output'}: {STORAGE_ERRORS[error.errno]}: nothing already written is lost")
    if status == INTERRUPTED:
        print("interrupted: a training goes on from its last checkpoint with --resume", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
