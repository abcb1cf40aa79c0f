"""benchmarks/finn_check.py without FINN: what it hands over is the interpreter's, and what it prints adds up."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_examples import unet

from quantunet.ir import interpreter

pytest.importorskip("qonnx", reason="needs quantunet[onnx]")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def finn_check(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("finn_check", BENCHMARKS / "finn_check.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dialect", ["finn", "quant"])
def test_a_case_holds_the_model_and_all_codes_but_the_logits(finn_check: Any, dialect: str, tmp_path: Path) -> None:
    graph = unet(base=2, levels=1)
    codes = list(np.random.default_rng(0).integers(-128, 128, (2, 1, 8, 8)))
    finn_check.write_case(tmp_path / "case", graph, codes, dialect)
    with np.load(tmp_path / "case" / "recorded.npz") as file:
        recorded = dict(file)
    traced = interpreter.trace(graph, np.stack(codes))
    assert np.array_equal(recorded.pop("images"), np.stack(codes))
    assert np.array_equal(recorded.pop("mask")[:, 0], traced["mask"].reshape(2, 8, 8))
    kept = [node.name for node in graph.nodes[1:-1] if node.name != "head"]
    assert len(recorded) == len(kept)
    for found, name in zip(recorded.values(), kept, strict=True):
        assert np.array_equal(found, traced[name])
    assert (tmp_path / "case" / "model.onnx").stat().st_size > 1000


def stage(pixels: int, codes: int) -> dict[str, Any]:
    counts = {"pixels": 64, "differing_pixels": pixels, "codes": 900, "differing_codes": codes}
    return {"stage": "streamlining", "operators": {"Conv": 3}, **counts}


def test_what_differs_is_printed(finn_check: Any, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"stages": [stage(0, 0)], "host": ["Transpose"]}
    bad = {"stages": [stage(0, 0), stage(3, 40)], "error": "folding: ValueError: 2 pieces"}
    assert finn_check.differing(good) == 0
    assert finn_check.differing(bad) == 43
    finn_check.print_random([("one", None, None), ("two", None, None)], [good, bad])
    out = capsys.readouterr().out
    assert "two: FINN stopped at folding: ValueError: 2 pieces" in out
    assert "two: 3 pixels, 40 codes: streamlining" in out
    assert "192 pixels and 2,700 codes compared, 43 differ; FINN stopped on 1 graphs" in out
    finn_check.print_case("one", good, False)
    assert "not hardware layers: Transpose" in capsys.readouterr().out


def test_without_its_environment_it_says_so(
    finn_check: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(finn_check, "FINN_PYTHON", tmp_path / "python")
    monkeypatch.setattr(sys, "argv", ["finn_check.py"])
    assert finn_check.main() == 0
    assert "make finn-check sets it up" in capsys.readouterr().out
