"""What documents and set-up files state: links, commands, versions, and the numbers of docs/method.md."""

import re
import shlex
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
import typer.main
import yaml
from typer.testing import CliRunner

from quantunet import __version__
from quantunet.cli.app import app
from quantunet.train import config as train_config
from quantunet.train.budget import TOLERANCE, BudgetController
from quantunet.train.optim import SCALE_DECAY, WARM_UP

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """As hosts of Markdown make them from headings."""
    headings = re.findall(r"^#+ +(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(path: Path, first_word: str) -> list[str]:
    blocks = re.findall(r"```\w*\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    lines = [line.removeprefix("$ ").removeprefix(".venv/bin/") for line in lines]
    return [line for line in lines if line.startswith(first_word + " ")]


def test_documents_are_found():
    assert {"method.md", "reproduce.md", "integer_ir.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {
        p.name for p in DOCUMENTS
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path):
    for target in LINK.findall(without_code(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{target} in {path.name}"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{target} in {path.name}"


def test_commands_in_documents_exist():
    """Their names and options; that they run is tested elsewhere."""
    known = typer.main.get_command(app)
    lines = [(path, line) for path in DOCUMENTS for line in commands(path, "quantunet")]
    assert len(lines) >= 9
    for path, line in lines:
        name, *words = shlex.split(line.split("&&")[0].replace("…", ""), comments=True)[1:]
        if name.startswith("-"):
            continue
        assert name in known.commands, f"{line} in {path.name}"
        options = {option for parameter in known.commands[name].params for option in parameter.opts} | {"--help"}
        unknown = {word for word in words if word.startswith("--")} - options
        assert not unknown, f"{line} in {path.name}"


def test_configurations_named_in_documents_exist():
    named = {
        name for path in DOCUMENTS for name in re.findall(r"configs/[\w/.]+\.yaml", path.read_text(encoding="utf-8"))
    }
    assert len(named - {"configs/NAME.yaml"}) >= 2
    assert not [name for name in named - {"configs/NAME.yaml"} if not (ROOT / name).exists()]


def test_make_targets_in_documents_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"setup", "demo", "test", "lint", "bench", "docs", "clean"} <= targets
    lines = [line.split("#")[0] for path in DOCUMENTS for line in commands(path, "make")]
    used = {
        word for line in lines if " -C " not in line for word in line.split()[1:] if re.fullmatch(r"[a-z][a-z-]*", word)
    }
    assert len(used) >= 5
    assert used <= targets


def test_every_dependency_is_pinned_by_name_and_version_alone():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    wrong = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line)]
    assert not wrong, "no addresses, no local builds: a CPU and a CUDA torch must both satisfy the pin"
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(name for part in project["optional-dependencies"].values() for name in part)]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=! ;]", text)[0]).lower() for text in wanted}
    assert len(names) >= 20
    assert names <= pinned


def test_pins_are_what_the_metadata_allows():
    requirements = requires("quantunet") or []
    assert any(text.startswith("torch") for text in requirements)
    try:
        torch_version = version("torch").split("+")[0]
    except PackageNotFoundError:
        pytest.skip("torch is not installed")
    assert f"torch=={torch_version}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_citation_and_changelog_name_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_program_says_its_version():
    result = CliRunner().invoke(app, ["--version"])
    assert result.output.strip() == f"quantunet {__version__}"


def test_numbers_of_the_method_are_those_of_the_code():
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    controller = BudgetController(8, 3, 1)
    loss, bit_loss, qat = train_config.LossConfig(), train_config.BitLossConfig(), train_config.QatConfig()
    split = train_config.Config.model_validate({"data": {"path": "phantom"}}).data.split
    stated = [
        f"{controller.INTEGRAL:g} error_t + {controller.PROPORTIONAL:g} (error_t",
        f"at first {2.718281828459045**controller.log_weight:g}",
        f"activation_share = {bit_loss.activation_share:g}",
        f"after {train_config.PhaseConfig().patience} validations",
        f"bce = dice = {loss.bce:g}",
        f"first {qat.descent:.0%} of".replace("%", " %"),
        f"within {TOLERANCE:.0%}".replace("%", " %"),
        f"warm-up of {WARM_UP:.0%}".replace("%", " %"),
        f"{split.validation:.0%} validation and {split.test:.0%} test".replace("%", " %"),
    ]
    assert loss.bce == loss.dice
    assert SCALE_DECAY == 0.2, "the last fifth of the steps"
    assert not [part for part in stated if part not in text]
