"""What a run ran with: versions, commit, processor; kept beside its results."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from quantunet import __version__


def describe_environment(threads: int, cuda: str | None) -> dict[str, Any]:
    """Versions, commit, machine; ``threads`` of a training process, and the name of its GPU."""
    packages = {}
    for name in ("torch", "numpy", "scipy", "brevitas", "lightning-fabric", "safetensors", "nibabel", "tifffile"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "quantunet": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": threads,
        "cuda": cuda,
        "packages": packages,
    }


def _commit() -> str | None:
    here = Path(__file__).parent
    result = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
