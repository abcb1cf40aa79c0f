"""Every command explains itself, with an example."""

from __future__ import annotations

import re

import pytest
from small_runs import command

from quantunet import __version__

COMMANDS = ("demo", "train", "data", "eval", "predict", "cost", "export", "verify", "compare")


def test_the_list_of_commands_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = command(capsys, "--help")
    assert status == 0
    listed = re.findall(r"^  ([a-z]+)  ", out, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_of_the_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = command(capsys, name, "--help")
    assert status == 0
    assert err == ""
    assert re.search(rf"Examples?:\n\s+quantunet {name}\b", out), out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "--version")[:2] == (0, f"quantunet {__version__}\n")
