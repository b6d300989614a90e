"""Progress on standard error: a live line on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from harness.live import LiveRun
    from harness.types import Job

_EVERY_S = 10.0
"""At most one plain line in so many seconds, failures aside."""


class Reporter:
    """Told of every job; ``command`` is the command line as the user typed it."""

    def __init__(self, command: str, quiet: bool) -> None:
        self.command = command
        self.run: LiveRun | None = None
        self._quiet = quiet
        self._stream = _own_standard_error()
        self._lock = threading.Lock()
        self._done = self._total = 0
        self._failed: list[str] = []
        self._last = 0.0
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def begin(self, run: LiveRun) -> None:
        """The jobs are known."""
        self.run = run
        self._total = len(run.jobs)
        if self._quiet:
            return
        self._say(f"{self._total} jobs on {len(run.plan.cells)} cells; run folder {run.folder}")
        if self._stream.isatty():
            self._show_bar()

    def say(self, text: str) -> None:
        """Something that takes long before the first job."""
        if not self._quiet:
            self._say(text)

    def job(self, job: Job, event: str) -> None:
        """A job was started, is done, or failed."""
        with self._lock:
            self._done += event != "started"
            if event == "failed":
                self._failed.append(str(job))
            if self._quiet:
                return
            if self._progress is not None and self._task is not None:
                self._progress.update(self._task, completed=self._done, total=self._total or None, description=str(job))
            elif event == "failed" or (event == "done" and time.monotonic() - self._last > _EVERY_S):
                self._last = time.monotonic()
                self._say(f"[{self._done}/{self._total}] {event}: {job}")

    def end(self) -> None:
        """No more jobs."""
        if self._progress is not None:
            self._progress.stop()

    def _show_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
        console = Console(file=self._stream)
        self._progress = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        self._task = self._progress.add_task("starting", total=self._total)
        self._progress.start()

    def _say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


def _own_standard_error() -> TextIO:
    """Standard error as it is now: pytest takes what is written to the other while tests run, and tests are what a run is."""
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace")
    except (AttributeError, OSError, ValueError):
        return sys.stderr
