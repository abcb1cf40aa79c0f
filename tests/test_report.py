"""The report: complete from a complete run, honest about what is missing, self-contained and escaped."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_run import LAYERS, write_fake_run

from quantunet.errors import UserError
from quantunet.report import figures, tables
from quantunet.report.page import write_report
from quantunet.report.run_files import Example, read_run_files

VOID = {"meta", "img", "br", "link", "hr", "path", "use", "rect"}


class _Balance(HTMLParser):
    """Fails on a tag that is closed out of turn; keeps addresses that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [value for key, value in attrs if key in ("src", "href", "xlink:href") and value]

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("runs") / "phantom")


@pytest.fixture(scope="module")
def page(run_dir: Path) -> str:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    assert not list(run_dir.glob(".partial-*"))
    return path.read_text(encoding="utf-8")


def test_page_is_well_formed_and_needs_no_network(page):
    parser = _Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert [a for a in parser.fetched if not a.startswith(("#", "data:image/"))] == []
    assert "url(http" not in page
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "Research use; not a medical device" in page


def test_page_has_every_part(page, run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    for title in ("Results", "Test images", "Cases", "Bit widths", "Training", "Cost", "Proof", "Configuration"):
        assert f"<h2>{title}</h2>" in page
    assert '<p class="none">' not in page
    assert page.count("<svg") == 4
    assert page.count('src="data:image/') == 12  # best, median and worst, four pictures each
    for name in LAYERS:
        assert f'<th scope="row">{name}</th>' in page
    assert f"{summary['quantized']['dice']:.3f}" in page
    assert f"{summary['size']['ratio']:.1f}" in page
    assert tables.count(summary["size"]["model_file_bytes"]) in page
    assert page.count('<span class="pill good">equal</span>') == 2
    assert [page.count(f'<span class="pill {verdict}</span>') for verdict in ('good">met', 'bad">not met')] == [1, 1]
    assert "Lines of metrics.jsonl that could not be read: 1" in page  # the half line of a killed run


def test_everything_is_escaped(page):
    assert "# a &lt;drawn&gt; set &amp; more" in page
    assert "<drawn>" not in page


def test_example_names_and_layers_cannot_inject(tmp_path, run_dir):
    evil = "<img src=x onerror=alert(1)>"
    folder = tmp_path / "run & <b>"
    shutil.copytree(run_dir, folder)
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("name",):
        summary["bit_width"]["layers"][0][key] = evil
        summary["data"][key] = evil
    summary["proof"]["backends"][evil] = {"compared": 5, "differing": 2}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "environment.json").write_text(json.dumps({evil: {"a": evil}}))
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "<b></h1>" not in page
    assert '<span class="pill bad">differs</span>' in page


def test_same_run_same_bytes(run_dir, page):
    assert write_report(run_dir).read_text(encoding="utf-8") == page


@pytest.mark.parametrize("missing", ["summary.json", "evaluation.json", "metrics.jsonl", "examples.npz", "config.yaml"])
def test_a_missing_file_is_said_as_such(tmp_path, run_dir, missing):
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder, ignore=shutil.ignore_patterns(missing, "report.html"))
    page = write_report(folder).read_text(encoding="utf-8")
    assert '<p class="none">' in page
    assert "None" not in re.sub(r"<svg.*?</svg>|<style.*?</style>|base64,[^\"]*", "", page, flags=re.DOTALL)
    assert "nan" not in re.sub(r"<svg.*?</svg>|<style.*?</style>|base64,[^\"]*", "", page, flags=re.DOTALL).split()


def test_a_run_in_progress(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"phase": "float", "step": 0, "loss": 1.0}\n{"phase": "float", "step": 1}\n'
    )
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "No backend has been compared with the interpreter yet." in page
    assert "no backend compared with the interpreter yet" in page  # in the headline too


def test_several_classes(tmp_path):
    page = write_report(write_fake_run(tmp_path / "run", ("background", "cup", "disc"), 2)).read_text(encoding="utf-8")
    assert "<h3>By class</h3>" in page
    assert page.count('<th scope="row">cup <small>') == 3
    assert ">Median" not in page  # two images: best and worst


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", b"{", "summary.json: not valid JSON"),
        ("summary.json", b"[1]", "summary.json: holds a list"),
        ("config.yaml", b"\xff\xfe", "config.yaml: not text in UTF-8"),
        ("examples.npz", b"PK\x03\x04 broken", "examples.npz: cannot be read"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "absent")
    with pytest.raises(UserError, match=r"holds none of summary\.json"):
        write_report(tmp_path)


def test_paired_differences_of_the_same_cases(run_dir):
    evaluation = read_run_files(run_dir).evaluation
    differences = tables.paired_differences(evaluation)
    mean = {key: evaluation[key]["mean"]["dice"]["mean"] for key in ("integer", "float")}
    # the mean of differences and the difference of means round differently
    assert differences["dice"]["mean"] == pytest.approx(mean["integer"] - mean["float"], abs=1e-12)
    evaluation["float"]["cases"].pop()
    assert tables.paired_differences(evaluation) == {}


def test_numbers():
    assert tables.number(-0.0004) == "0.000"
    assert tables.number(0.25, 2, signed=True) == "+0.25"
    assert tables.number(-1, 1) == "&minus;1.0"
    assert tables.number(None) == tables.number(float("nan")) == tables.DASH
    assert tables.count(1234567) == "1\u202f234\u202f567"
    assert [tables.size(n) for n in (1023, 1536, 3 * 2**20)] == ["1023 B", "1.5 KiB", "3.00 MiB"]


def test_long_curves_are_thinned_and_keep_their_end():
    steps = np.arange(100_001.0)
    thin_steps, values = figures._thin(steps, 2 * steps)
    assert thin_steps.size == figures.MAX_POINTS
    assert (thin_steps[-1], values[-1]) == (100_000, 200_000)


def test_flat_and_constant_images_are_drawn():
    flat, full = np.full((20, 30), 7.0), np.ones((20, 30), np.uint8)
    panels = figures.example_panels(Example("flat", flat, full, full * 0, full, 0.0, 1.0))
    assert set(panels) == {"image", "truth", "float", "integer"}
