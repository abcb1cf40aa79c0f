"""The run folder: every file written whole or not at all (temporary file, fsync, rename), one writer at a time."""

from __future__ import annotations

import fcntl
import io
import json
from pathlib import Path
from typing import Any, TextIO

import torch
from torch.utils.tensorboard.writer import SummaryWriter

from quantunet.atomic_file import write_atomically
from quantunet.errors import UserError
from quantunet.train.budget import Budget

RESUME_FILE = "checkpoints/resume.pt"
FLOAT_FILE = "checkpoints/float.pt"
QAT_FILE = "checkpoints/qat.pt"
ADOPTED_FILE = "checkpoints/float_from.json"
"""Names the run whose float network was taken over; absent where the run trained its own."""


def point_file(point: Budget) -> str:
    """Where the descent keeps its state at a point of its Pareto curve, as in a checkpoint to resume from."""
    return f"checkpoints/at_{point.slug}.pt"


class RunDir:
    """One run's folder.

    Args:
        path: the folder; made where it is absent.
        resume: whether it may hold a run already.
        writes: False in the second and further processes of one run, which read only: there, writing does nothing.

    Raises:
        UserError: if the folder cannot be written, if another process is at work in it, or if it holds a run already
            and ``resume`` is not asked for.
    """

    def __init__(self, path: Path, *, resume: bool, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self._board: SummaryWriter | None = None
        self._lock: TextIO | None = None
        if writes:
            self._lock = self._take(resume)

    def _take(self, resume: bool) -> TextIO:
        path = self.path
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"run folder {path}: cannot be written ({error.strerror}): choose another with --out"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise UserError(
                f"run folder {path}: another process is training in it: choose another with --out"
            ) from None
        if not resume and (path / "config.yaml").exists():
            lock.close()
            raise UserError(
                f"run folder {path}: holds a run already: continue it with --resume, or choose another --out"
            )
        for partial in path.rglob(".partial-*"):  # of a process that was killed as it wrote: we hold the lock
            partial.unlink(missing_ok=True)
        return lock

    def close(self) -> None:
        """Let other processes write here."""
        if self._board is not None:
            self._board.close()
        if self._lock is not None:
            self._lock.close()

    def write_text(self, name: str, text: str) -> Path:
        """Write one text file."""
        return self._write(name, text.encode("utf-8"))

    def _write(self, name: str, data: bytes) -> Path:
        path = self.path / name
        if self.writes:
            path.parent.mkdir(parents=True, exist_ok=True)  # checkpoints/
            write_atomically(path, data)
        return path

    def write_json(self, name: str, content: Any) -> Path:
        """Write one JSON file; numbers that are not finite become null."""
        return self.write_text(name, json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n")

    def save_tensors(self, name: str, state: dict[str, Any]) -> None:
        """Write tensors and plain values, loadable with ``weights_only=True``."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._write(name, buffer.getvalue())

    def load_tensors(self, name: str) -> dict[str, Any] | None:
        """What ``save_tensors`` wrote, or None.

        Raises:
            UserError: if the file is damaged.
        """
        path = self.path / name
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UserError(f"checkpoint {path}: is damaged ({type(error).__name__}): start a new run") from None

    def adopt_float(self, float_run: Path) -> None:
        """Take over the float network of the finished run ``float_run``, and go on behind its float phase.

        Nothing is done where this run has a checkpoint of its own already.

        Raises:
            UserError: if ``float_run`` holds no finished float network.
        """
        if not self.writes or (self.path / RESUME_FILE).exists():
            return
        source = RunDir(float_run, resume=True, writes=False)
        state = source.load_tensors(FLOAT_FILE)
        if state is None or not (float_run / "summary.json").exists():
            raise UserError(f"float network {float_run / FLOAT_FILE}: its training has not ended: train it first")
        times = json.loads((float_run / "summary.json").read_text(encoding="utf-8"))["time_s"]
        self.save_tensors(FLOAT_FILE, state)
        records = float_run / "metrics.jsonl"
        if records.exists():
            self.write_text("metrics.jsonl", records.read_text(encoding="utf-8"))
        self.write_json(ADOPTED_FILE, {"float_run": float_run.name})
        # last, since it says that the rest is there
        self.save_tensors(RESUME_FILE, {"phase": "qat", "time_s": {"float": times["float"]}})

    def adopt_point(self, descent: Path, point_file: str) -> None:
        """Take over the float network of the finished run ``descent``, and go on from a point that it passed.

        Nothing is done where this run has a checkpoint already.

        Raises:
            UserError: if ``descent`` has not come so far.
        """
        if (self.path / RESUME_FILE).exists():
            return
        source = RunDir(descent, resume=True, writes=False)
        network, state = source.load_tensors(FLOAT_FILE), source.load_tensors(point_file)
        if network is None or state is None:
            raise UserError(f"{descent / point_file}: is absent: train the run that descends first")
        self.save_tensors(FLOAT_FILE, network)
        self.write_text("metrics.jsonl", (descent / "metrics.jsonl").read_text(encoding="utf-8"))
        self.write_json(ADOPTED_FILE, {"float_run": descent.resolve().name})
        # last, since it says that the rest is there; what was logged after the point goes as the run resumes
        self.save_tensors(RESUME_FILE, {**state, "time_s": {"float": 0.0}})

    @property
    def has_adopted_float(self) -> bool:
        """Whether the float network was trained in another run."""
        return (self.path / ADOPTED_FILE).exists()

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl, and its numbers to TensorBoard under the name of their phase."""
        if not self.writes:
            return
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(record)) + "\n")
        if self._board is not None:
            for key, value in record.items():
                if isinstance(value, int | float) and key != "step":
                    self._board.add_scalar(f"{record['phase']}/{key}", value, record["step"])

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines that a killed run wrote after its last checkpoint; they will be written again."""
        if not self.writes:
            return
        if self._board is not None:
            self._board.close()
        self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] < step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                continue  # a line cut short by the kill
        write_atomically(path, "".join(kept).encode("utf-8"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not (value == value and abs(value) != float("inf")):
        return None
    return value
