"""Start a served detector in processes of its own, wait until it answers, and stop all of them again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import psutil

from harness.errors import HarnessError
from harness.serving.marked import HEADER, UP
from harness.serving.places import free_place
from harness.serving.settings import MARK

if TYPE_CHECKING:
    from harness.serving.settings import Settings

DETECTOR = "harness.serving.target:DetectorService"
"""What `start` is told to serve a detector of the plain store."""

LEGACY = "harness.serving.legacy_target:service"
"""What `start` is told to serve an entry of BentoML's own routes, as its guides do."""

_FAILED = "Application startup failed"
"""What uvicorn says of a service that cannot be made; BentoML goes on trying."""

_RAISED = re.compile(r"[A-Za-z_][\w.]*: ")
"""The line of a traceback that says what was raised."""

_LONGEST_TMPDIR = 20
_SHORT_TMPDIR = "/tmp"  # noqa: S108 - a folder of its own is made there
_PATIENCE_S = 180.0
_GRACE_S = 10.0
_POLL_S = 0.1
_LAST_LINES = 20


class NotServing(HarnessError):
    """The server did not come up, or ended by itself; ``last_lines`` is the end of what it said, and in the traceback."""

    def __init__(self, what: str, last_lines: str) -> None:
        super().__init__(what)
        self.last_lines = last_lines
        # No cure: twenty lines are nothing for a table of verdicts.
        self.add_note(last_lines)


class Stopped(HarnessError):
    """It was asked to end before it was up."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers at ``url``."""

    url: str
    process: subprocess.Popen[bytes]
    mark: str
    log: Path
    scratch: Path

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to it and runs."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def last_lines(self) -> str:
        """The end of its log, for whoever is told: the log itself may be gone then."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        return "\n  ".join(("The end of its log:", *(line.rstrip() for line in lines)))

    def stop(self) -> None:
        """End all of its processes: asked first, then killed."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE_S)
        left = self.processes()
        for process in left:
            with suppress(psutil.Error):
                process.terminate()
        _, alive = psutil.wait_procs(left, timeout=_GRACE_S / 2)
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=_GRACE_S)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(_GRACE_S)
        shutil.rmtree(self.scratch, ignore_errors=True)


def start(
    target: str,
    settings: Settings,
    log: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    stopped: threading.Event | None = None,
) -> Server:
    """``bentoml serve`` of a target in this environment, once it answers; port 0 takes a free one.

    The target has `harness.serving.marked.Marked` around it, with the mark that it finds in its environment.
    Raises `harness.errors.UsageError` where the port is taken, `NotServing` where it does not come up, and `Stopped` when
    ``stopped`` is set before it is up; no process is left then.
    """
    place = free_place(host, port)
    mark = uuid4().hex
    scratch = _short_folder()
    variables = {
        **replace(settings, mark=mark).environment(os.environ),
        "BENTOML_DO_NOT_TRACK": "True",
        "TMPDIR": str(scratch),
    }
    where = ["--host", place.address, "--port", str(place.port)]
    command = [sys.executable, "-m", "bentoml", "serve", target, *where, "--api-workers", "1"]
    with log.open("ab") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=variables, cwd=log.parent, start_new_session=True
        )
    server = Server(place.url, process, mark, log, scratch)
    try:
        _await(server, stopped or threading.Event())
    except BaseException:
        server.stop()
        raise
    return server


@contextmanager
def serving(
    target: str,
    settings: Settings,
    log: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    stopped: threading.Event | None = None,
) -> Iterator[Server]:
    """`start`, and stopped at the end."""
    server = start(target, settings, log, host, port, stopped)
    try:
        yield server
    finally:
        server.stop()


def _await(server: Server, stopped: threading.Event) -> None:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        if _answers(server):
            return
        if server.process.poll() is not None or _FAILED in server.log.read_text(errors="replace"):
            raise NotServing(f"the server did not start: {_said(server)}", server.last_lines())
        if stopped.wait(_POLL_S):
            raise Stopped("the server was stopped before it was up")
    raise NotServing(f"the server did not answer within {_PATIENCE_S:.0f} s: {_said(server)}", server.last_lines())


def _answers(server: Server) -> bool:
    """Whether it is up, and it is this one: another may have taken the port since it was looked at."""
    with suppress(OSError, HTTPException), urllib.request.urlopen(f"{server.url}{UP}", timeout=5) as reply:  # noqa: S310
        return bool(reply.status == 200 and reply.headers.get(HEADER) == server.mark)
    return False


def _said(server: Server) -> str:
    """The last exception in its log: BentoML starts a service that fails anew, again and again."""
    lines = server.log.read_text(errors="replace").splitlines()
    raised = [index for index, line in enumerate(lines) if _RAISED.match(line)]
    told = lines[raised[-1] : raised[-1] + 2] if raised else lines[-1:]
    return " ".join(line.strip() for line in told)[-500:] or "it said nothing"


def _short_folder() -> Path:
    """A folder for its temporary files, sockets among them, whose paths the system allows 107 characters in all."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="hs", dir=usual if len(usual) <= _LONGEST_TMPDIR else _SHORT_TMPDIR))
