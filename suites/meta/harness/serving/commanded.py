"""``harness serve`` as a person starts and stops it, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.serving.settings import MARK

PATIENCE_S = 180.0


@dataclass(frozen=True, slots=True)
class Command:
    """A ``harness serve`` that runs; ``home`` is the store that it was told."""

    process: subprocess.Popen[bytes]
    output: Path
    home: Path

    def said(self) -> str:
        """Everything that it has printed so far."""
        return self.output.read_text(errors="replace")

    def await_(self, done: Callable[[], object]) -> None:
        """Wait until it is so; fails where the command ends before."""
        until = time.monotonic() + PATIENCE_S
        while not done():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < until, self.said()
            time.sleep(0.05)

    def url(self) -> str:
        """The address that it prints once the detector can be asked."""
        self.await_(lambda: " at http" in self.said())
        found = re.search(r" at (http://\S+): POST", self.said())
        assert found, self.said()
        return found[1]

    def servers(self) -> list[psutil.Process]:
        """`servers_of` its store."""
        return servers_of(self.home)

    def end(self, number: signal.Signals = signal.SIGINT) -> None:
        """Ask it to end, and see that it does so at once, soundly, and with everything that it had started."""
        self.process.send_signal(number)
        assert self.process.wait(60) == 0, self.said()
        assert self.said().endswith("stopped\n")
        assert self.servers() == []


def servers_of(home: Path) -> list[psutil.Process]:
    """The processes that serve out of a store, and run."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            around = process.environ()
            if around.get(MARK) and around.get("BENTOML_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextmanager
def _hearing_hangups() -> Iterator[None]:
    """What is started now ends with its terminal, whatever started these tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def commanded(tag: str, home: Path, folder: Path, *options: str, **variables: str) -> Iterator[Command]:
    """``harness serve TAG``, not awaited; one thread, as the tests have. Killed at the end if it still runs then."""
    # One that this shell holds is not what is tested.
    around = {name: value for name, value in os.environ.items() if name != "HARNESS_TOKEN"}
    command = [sys.executable, "-W", "ignore", "-m", "harness.cli", "serve", tag, "--store", str(home), "--port", "0", *options]
    with (folder / "out").open("wb") as out, _hearing_hangups():
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**around, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **variables}
        )
    found = Command(process, folder / "out", home.resolve())
    try:
        yield found
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for left in found.servers():
            with suppress(psutil.Error):
                left.kill()
