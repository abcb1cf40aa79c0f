"""Imports run downhill: who may import whom, deferred imports included; and the integer half runs without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "quantunet"

MAY_IMPORT = {
    "formats": set(),
    "errors": set(),
    "atomic_file": set(),
    "cost": set(),
    "fpga_cost": set(),
    "energy": set(),
    "environment": set(),
    "metrics": set(),
    "data": set(),
    "arith": {"formats"},
    "quant": {"formats"},
    "nn": {"quant", "formats"},
    "losses": {"quant", "cost"},
    "train": {"nn", "quant", "losses", "data", "metrics", "cost"},
    "evaluate": {"data", "metrics"},
    "ir": {"formats", "arith", "cost"},
    "backends": {"ir", "formats", "arith", "fpga_cost", "energy"},
    "integer_model": {"ir", "backends", "data", "formats", "arith"},
    "lower": {"nn", "quant", "ir", "formats", "arith"},
    "fake_quant_proof": {"nn", "ir", "arith"},
    "measures": {"ir", "backends", "cost"},
    "report": {"cost", "metrics"},
}
"""``ir`` imports ``cost`` for one formula: the bytes of packed codes, which the file and the tables must share.
``lower`` crosses the bridge, and ``fake_quant_proof`` compares its two ends; below
``pipeline`` no other unit sees both.
"""

ALL_MAY_IMPORT = {"errors", "atomic_file"}
MAY_IMPORT_ALL_BUT = {
    "summary": {"cli", "compare", "pipeline"},
    "pipeline": {"cli", "compare"},
    "compare": {"cli"},
    "cli": set(),
}

TORCH_FREE = {
    "environment",
    "fpga_cost",
    "energy",
    "formats",
    "arith",
    "errors",
    "atomic_file",
    "cost",
    "metrics",
    "data",
    "evaluate",
    "ir",
    "backends",
    "report",
    "integer_model",
    "measures",
}
TRAINING_LIBRARIES = {"torch", "torchvision", "lightning", "lightning_fabric", "brevitas", "monai"}
BREVITAS_FILE = "quant/brevitas_adapter.py"


def files() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def unit_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Full names of all modules that a file imports, at its top or within functions; relative imports resolved."""
    package = ["quantunet", *path.relative_to(SOURCE).parent.parts]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from quantunet import cost` imports a module, `from quantunet.cost import bops` does not
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "quantunet" else {module}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                names.add(node.args[0].value)
    return names


def imported_units(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported_modules(path)]
    return {each[1] for each in parts if each[0] == "quantunet" and len(each) > 1} - {"__version__"}


def test_there_is_something_to_check():
    assert len(files()) >= 15
    units = {unit_of(path) for path in files()}
    assert units - {"__main__"} <= set(MAY_IMPORT) | set(MAY_IMPORT_ALL_BUT)
    assert "formats" in imported_units(SOURCE / "arith.py")
    assert "cost" in imported_units(SOURCE / "ir" / "layer_table.py")


def test_the_table_has_no_cycle():
    done = set(ALL_MAY_IMPORT)
    while len(done) < len(MAY_IMPORT):
        ready = {unit for unit, below in MAY_IMPORT.items() if unit not in done and below <= done}
        assert ready, f"a cycle among {set(MAY_IMPORT) - done}"
        done |= ready


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_downhill(path):
    unit = unit_of(path)
    if unit == "__main__":
        return
    assert unit in MAY_IMPORT or unit in MAY_IMPORT_ALL_BUT, f"say in the table above what {unit} may import"
    forbidden = MAY_IMPORT_ALL_BUT.get(unit)
    if forbidden is None:
        known = set(MAY_IMPORT) | set(MAY_IMPORT_ALL_BUT)
        forbidden = (known | imported_units(path)) - MAY_IMPORT[unit] - {unit} - ALL_MAY_IMPORT
    assert not imported_units(path) & forbidden
    libraries = {name.split(".")[0] for name in imported_modules(path)}
    if unit in TORCH_FREE:
        assert not libraries & TRAINING_LIBRARIES
    if path.relative_to(SOURCE).as_posix() != BREVITAS_FILE:
        assert "brevitas" not in libraries


def test_the_integer_half_runs_where_torch_cannot_be_imported():
    modules = [
        ".".join(("quantunet", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for path in files()
        if unit_of(path) in TORCH_FREE
    ]
    assert len(modules) >= 12
    script = (
        "import importlib, sys\n"
        f"for name in {sorted(TRAINING_LIBRARIES)}: sys.modules[name] = None\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "print(len(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
