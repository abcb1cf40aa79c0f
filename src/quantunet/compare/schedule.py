"""Runs the jobs of a plan, several at once, each in a process of its own; one that fails does not stop the others."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantunet.atomic_file import write_atomically
from quantunet.compare.plan import Job, Plan, has_float_network, state_of
from quantunet.train.config_file import to_yaml

Say = Callable[[str], None]
LOG_FILE = "log.txt"
POLL_S = 0.1
LEAST_MEMORY_BYTES = 2**30
"""Asked of the machine before another run is started beside others, until a run has shown how much it takes."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    started: float


def run_plan(plan: Plan, at_once: int, say: Say, on_done: Callable[[], object] = lambda: None) -> dict[Path, str]:
    """Do what is not done yet, ``at_once`` runs at a time; ``on_done`` is called after each.

    A run waits for its float network; where that fails, the runs that start from it are not tried.

    Returns:
        One line for each folder whose run failed.
    """
    wanted = [job for job in plan.runs if state_of(job) != "done"]
    floats = {job.float_folder for job in wanted}
    waiting = [job for job in plan.floats if job.folder in floats and not has_float_network(job.folder)]
    waiting = _in_order(waiting, wanted)
    total, ended, seconds = len(waiting), 0, []
    say(f"{total} runs to do, {len(plan.runs) + len(plan.floats) - total} done or not needed, {at_once} at a time")
    running: list[_Running] = []
    failed: dict[Path, str] = {}
    try:
        while waiting or running:
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                ended += 1
                seconds.append(time.monotonic() - each.started)
                line = _failure(each)
                if line is not None:
                    failed[each.job.folder] = line
                left = _time_left(seconds, total - ended, at_once)
                say(f"{ended}/{total} {each.job.label}: {line or f'done in {seconds[-1]:.0f} s'}{left}")
                on_done()
            for job in [job for job in waiting if job.float_folder in failed]:
                waiting.remove(job)
                ended += 1
                failed[job.folder] = f"not tried: its {_float_label(plan, job)} failed"
                say(f"{ended}/{total} {job.label}: {failed[job.folder]}")
            if len(running) < at_once and (not running or _memory_allows(running)):
                job = next((job for job in waiting if _is_ready(job, waiting, running)), None)
                if job is not None:
                    waiting.remove(job)
                    running.append(_start(job, at_once))
                    continue
            if running:
                time.sleep(POLL_S)
    finally:
        _stop(running)
    return failed


def _in_order(floats: Sequence[Job], runs: Sequence[Job]) -> list[Job]:
    """Each float network right before the first run that starts from it."""
    order: list[Job] = []
    for run in runs:
        order += [job for job in floats if job.folder == run.float_folder and job not in order]
        order.append(run)
    return order


def _is_ready(job: Job, waiting: Sequence[Job], running: Sequence[_Running]) -> bool:
    unfinished = {each.folder for each in waiting} | {each.job.folder for each in running}
    return job.float_folder is None or job.float_folder not in unfinished


def _float_label(plan: Plan, job: Job) -> str:
    return plan.float_run(job).label


def _start(job: Job, at_once: int) -> _Running:
    job.folder.mkdir(parents=True, exist_ok=True)
    if not (job.folder / "config.yaml").exists():
        write_atomically(job.folder / "config.yaml", to_yaml(job.config).encode("utf-8"))
    folders = [job.folder] + ([job.float_folder] if job.float_folder else [])
    return _Running(job, spawn([str(folder) for folder in folders], job_environment(at_once)), time.monotonic())


def job_environment(at_once: int) -> dict[str, str]:
    """The environment of one of ``at_once`` jobs: its share of the threads, or fewer where a variable says fewer.

    One variable limits all libraries: two threads a job beside other work wait for each other, ten times slower.
    """
    given = [os.environ.get(name, "") for name in THREAD_VARIABLES]
    limits = [int(text) for text in given if text.isdigit() and int(text)]
    threads = min([max(1, _cores() // at_once), *limits])
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}


def spawn(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start ``job.py`` in a process of its own; what it prints is appended to the log in its folder."""
    with (Path(arguments[0]) / LOG_FILE).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "quantunet.compare.job", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _failure(ended: _Running) -> str | None:
    """None after success; else one line."""
    status = ended.process.returncode
    if status == 0:
        return None
    log = ended.job.folder / LOG_FILE
    if status < 0:
        name = signal.Signals(-status).name
        hint = ": out of memory? fewer --jobs" if status == -signal.SIGKILL else ""
        return f"failed: ended by {name}{hint} (see {log})"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    reason = lines[-1].removeprefix("error: ") if lines else "no message"
    return f"failed: {reason}" if status == 2 else f"failed: {reason} (see {log})"


def _memory_allows(running: Sequence[_Running]) -> bool:
    """Whether the memory that is free holds another run like the largest so far; True where that is not known."""
    free = _proc_bytes(Path("/proc/meminfo"), "MemAvailable:")
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    for each in running:
        largest = max(largest, _proc_bytes(Path(f"/proc/{each.process.pid}/status"), "VmHWM:") or 0)
    return free is None or free >= max(LEAST_MEMORY_BYTES, 1.25 * largest)


def _proc_bytes(path: Path, key: str) -> int | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(key)), None)


def _time_left(seconds: Sequence[float], left: int, at_once: int) -> str:
    if not left:
        return ""
    minutes = sum(seconds) / len(seconds) * left / at_once / 60
    return f"; about {minutes:.0f} min left" if minutes >= 1 else ""


def _stop(running: Sequence[_Running]) -> None:
    """On an interrupt: no run stays behind; each goes on from its last checkpoint the next time."""
    for each in running:
        each.process.terminate()
    for each in running:
        each.process.wait()
