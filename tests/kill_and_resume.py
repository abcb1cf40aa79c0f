"""Script of test_resume: trains once undisturbed, once killed again and again; prints where the kills struck.

Children are forked from a process that has imported torch already, so that many kills take little time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from quantunet import integer_model, pipeline  # imported before the fork, for speed
from quantunet.cli import main


def start(arguments: list[str]) -> int:
    """Process id of a child that runs the command line."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        torch.set_num_threads(1)
        main(arguments)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0
    finally:
        os._exit(status)


def logged(out: Path) -> list[dict]:
    path = out / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def last_step(out: Path) -> int:
    records = logged(out)
    return records[-1]["step"] if records else -1


def run_until(child: int, out: Path, step: int, extra_s: float) -> bool:
    """Kill the child ``extra_s`` after it has logged ``step``; whether it was still alive then."""
    limit = time.monotonic() + 120
    while last_step(out) < step and time.monotonic() < limit:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    time.sleep(extra_s)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_and_resume(config: Path, out: Path, steps: int, kills: int, seed: int) -> list[str]:
    """Where each kill struck; the last start goes through to the end."""
    rng = random.Random(seed)
    targets = sorted(rng.randrange(steps) for _ in range(kills))
    struck, arguments = [], ["train", str(config), "--out", str(out)]
    for target in targets:
        child = start(arguments)
        late = target >= steps - 2  # also into what follows the last step
        if run_until(child, out, target, rng.uniform(0, 1.0 if late else 0.02)):
            struck.append(f"{logged(out)[-1]['phase']}:{last_step(out)}")
        arguments = ["train", "--resume", "--out", str(out)]
    if os.waitpid(start(arguments), 0)[1]:
        raise SystemExit("the last resume failed")
    return struck


if __name__ == "__main__":
    pipeline.write_report = lambda folder: None  # the report's figures and the C compiler take most of the time,
    pipeline.has_compiler = integer_model.has_compiler = lambda: False  # and change no weight
    config, folder, steps, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
    if os.waitpid(start(["train", str(config), "--out", str(folder / "whole")]), 0)[1]:
        raise SystemExit("the undisturbed run failed")
    print(json.dumps(kill_and_resume(config, folder / "killed", steps, kills, seed)))
