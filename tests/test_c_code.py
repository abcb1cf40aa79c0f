from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import random_codes, random_graph

from quantunet.backends.c.build import has_compiler, runtime_files
from quantunet.backends.c.layout import c_array, lay_out, sanitise
from quantunet.backends.c.model_source import model_source, packed_weight
from quantunet.backends.c.project import export_c
from quantunet.errors import UserError
from quantunet.formats import IntFormat
from quantunet.ir import graph as ir

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


def exported(folder: Path, seed: int = 8) -> Path:
    graph, codes = random_graph(seed), random_codes(random_graph(seed), seed)
    return export_c(graph, folder / "project", *codes.shape[2:], list(codes[:2]))


@needs_compiler
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_project_builds_without_a_warning_and_passes_its_own_test(tmp_path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    project = exported(tmp_path)
    for target in ("test", "test-sanitize"):
        done = subprocess.run(["make", f"CC={compiler}", target], cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "2 images, " in done.stdout
        assert " 0 differing" in done.stdout
        assert "arena 1456 bytes" in done.stdout


@needs_compiler
def test_the_projects_test_sees_a_wrong_pixel(tmp_path: Path) -> None:
    project = exported(tmp_path)
    test = project / "test_model.c"
    text, count = re.subn(r"(masks\[\] = \{\n\s+)\d+", r"\g<1>255", test.read_text())
    assert count == 1
    test.write_text(text)
    done = subprocess.run(["make", "CFLAGS=-O1", "test"], cwd=project, capture_output=True, text=True)
    assert done.returncode != 0
    assert "2 images, 96 pixels compared, 1 differing" in done.stdout


def test_no_text_holds_floats_or_an_allocation() -> None:
    graph = random_graph(3)
    texts = {**runtime_files(), "model.c": model_source(lay_out(graph, *random_codes(graph, 3).shape[2:]))}
    assert len([name for name in texts if name.endswith(".c")]) == 5
    for name, text in texts.items():
        assert not re.search(r"\b(float|double|malloc|calloc|realloc|alloca|free|math\.h)\b", text), name


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_name_becomes_an_identifier(name: str) -> None:
    assert re.fullmatch(r"n7_[A-Za-z0-9_]*", f"n7_{sanitise(name)}")


@needs_compiler
def test_names_that_c_cannot_spell_compile(tmp_path: Path) -> None:
    names = ["int", 'a"b', "a*/b", "ä\n#error", "a b\\", "a.b"]
    nodes: list[ir.Node] = [ir.Input("??/ x", (), 1, IntFormat(8, False), 1.0)]
    for name in names:
        nodes.append(ir.MaxPool2d(name, (nodes[-1].name,)))
    graph = ir.IntegerGraph((*nodes, ir.Threshold("return", (nodes[-1].name,), 3)))
    project = export_c(graph, tmp_path / "c", 64, 64, [np.zeros((1, 64, 64), np.int64)])
    done = subprocess.run(["make", "test"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_weights_are_packed_channel_by_channel_lowest_bit_first() -> None:
    weight = np.array([[[[1, -1]], [[0, 3]]], [[[-1, 0]], [[0, -1]]]], np.int32)  # (out, in, kh, kw)
    node = ir.Conv2d("c", ("x",), weight, np.array([3, 1], np.int32), np.zeros(2, np.int32), None)
    # channel 0 in (kh, kw, in) order: 1 0 -1 3 -> 001 000 111 011 from the lowest bit up; channel 1: 1 0 0 1
    assert packed_weight(node).tolist() == [0b11000001, 0b0111, 0b1001]


def test_arrays_wrap_and_keep_every_value() -> None:
    text = c_array("static const int32_t a[]", list(range(-500, 500)))
    assert max(map(len, text.splitlines())) <= 120
    assert [int(value) for value in re.findall(r"-?\d+(?=,)", text)] == list(range(-500, 500))


def test_export_replaces_its_own_work_but_no_one_elses(tmp_path: Path) -> None:
    project = exported(tmp_path)
    before = (project / "model.c").read_text()
    assert (exported(tmp_path) / "model.c").read_text() == before
    (project / "main.c").write_text("int main(void) { return 0; }")
    with pytest.raises(UserError, match=r"holds 'main.c', which no export wrote: choose an empty folder"):
        exported(tmp_path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["project"], "no temporary folder is left"


def test_a_refused_export_leaves_nothing(tmp_path: Path) -> None:
    graph = random_graph(8)
    height, width = random_codes(graph, 8).shape[2:]
    with pytest.raises(UserError, match="recorded input 0 has the shape"):
        export_c(graph, tmp_path / "c", height, width, [np.zeros((9, height, width), np.int64)])
    with pytest.raises(UserError, match="not divisible by"):
        export_c(graph, tmp_path / "c", height + 1, width)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_without_a_mask_is_refused() -> None:
    graph = ir.IntegerGraph((ir.Input("x", (), 1, IntFormat(8, False), 1.0), ir.MaxPool2d("p", ("x",))))
    with pytest.raises(ir.GraphError, match="'p' stands last and is no mask"):
        lay_out(graph, 4, 4)
