"""What the user sees while a run goes on: a bar a phase with the time left, or lines where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 15.0
"""Seconds between lines where the output is no terminal."""


class PhaseProgress:
    """A context manager around the steps of one phase."""

    def __init__(self, phase: str, steps: int, first: int, console: Console, enabled: bool) -> None:
        self.phase, self.steps, self.first = phase, steps, first
        self.console, self.enabled = console, enabled
        self.started = self.last_line = time.monotonic()
        self.bar: Progress | None = None

    def __enter__(self) -> PhaseProgress:
        if self.enabled and self.console.is_terminal:
            columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = Progress(
                *columns,
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"),
                console=self.console,
            )
            self.task = self.bar.add_task(self.phase, total=self.steps, completed=self.first, status="")
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, done: int, status: str) -> None:
        """``done`` steps are behind us; ``status`` is a short text of figures."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, status=status)
            return
        now = time.monotonic()
        if not self.enabled or (now - self.last_line < LINE_EVERY_S and done != self.steps):
            return
        self.last_line = now
        left = (now - self.started) / max(done - self.first, 1) * (self.steps - done)
        self.console.print(f"{self.phase:>9} {done:>6}/{self.steps}  {left:5.0f} s left  {status}", highlight=False)
