"""Starting a worker, watching its whole process tree, and ending it: time and memory limits are enforced here.

Memory is polled from the process tree's resident set: an address-space limit kills OpenVINO and torch at start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

POLL_S = 0.02
MEMORY_POLL_S = 0.4
"""Walking the process table costs milliseconds: rarely enough to stay under 1 % of what is being timed."""
GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a worker ended: ``kind`` is exited, timeout, memory or killed; ``status`` is negative for a signal."""

    kind: str
    status: int
    seconds: float
    peak_rss_bytes: int

    def told(self, limit_s: float, limit_bytes: int) -> str:
        """In words, of one that left no observation."""
        if self.kind == "timeout":
            return f"still running after {limit_s:.0f} s, and was ended (--job-seconds sets the limit)"
        if self.kind == "memory":
            return f"used more than {limit_bytes / 2**30:.1f} GiB, and was ended (--job-memory sets the limit)"
        if self.kind == "killed":
            return "the run was stopped before this job was done"
        if self.status < 0:
            return f"its process died of {signal.Signals(-self.status).name}"
        return f"its process exited with status {self.status} and left no observation"


class Worker(Protocol):
    """A running worker process."""

    pid: int

    def poll(self) -> int | None:
        """The exit status once it is gone, negative for a signal; None while it runs."""


def spawn(order: Path, log: Path, variables: Mapping[str, str]) -> Worker:
    """A fresh interpreter in a session of its own, started with ``variables`` over this process's environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BENTOML_", "PYTEST_", "COV_"))}
    with log.open("wb") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", "harness.worker", str(order)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env={**inherited, **variables},
            start_new_session=True,
        )


class Forker:
    """A `harness.zygote` and the jobs it forked; started on first use, started anew when it died."""

    def __init__(self, log: Path, variables: Mapping[str, str]) -> None:
        self._log = log
        self._variables = variables
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._parents: dict[int, subprocess.Popen[str]] = {}
        self._pids: dict[int, int] = {}
        self._statuses: dict[int, int] = {}
        self._changed = threading.Condition()
        self._count = 0

    def fork(self, order: Path, log: Path) -> Worker:
        """Run one order in a forked process; returns when it runs. Raises `RuntimeError` when the zygote cannot start."""
        with self._lock:
            process = self._started()
            self._count += 1
            number = self._count
            self._parents[number] = process
            _tell(process, {"id": number, "order": str(order), "log": str(log)})
        with self._changed:
            while number not in self._pids and process.poll() is None:
                self._changed.wait(timeout=1.0)
            if number not in self._pids:
                said = self._log.read_text(errors="replace")[-1000:] if self._log.is_file() else ""
                raise RuntimeError(f"the process that forks jobs is gone: {said}")
            return _Forked(self, number, self._pids[number])

    def close(self) -> None:
        """End the zygote; jobs that still run are the executor's to end."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
            if self._process.poll() is None:
                self._process.kill()
        if self._listener is not None:
            self._listener.join(GRACE_S)

    def status(self, number: int) -> int | None:
        """The exit status of job ``number``, None while it runs."""
        with self._changed:
            if number in self._statuses:
                return self._statuses[number]
        gone = self._parents[number].poll() is not None
        return -signal.SIGKILL if gone and not psutil.pid_exists(self._pids[number]) else None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            with self._log.open("ab") as sink:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "harness.zygote"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=sink,
                    text=True,
                    env={**os.environ, **self._variables},
                    start_new_session=True,
                )
            self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
            self._listener.start()
        return self._process

    def _listen(self, process: subprocess.Popen[str]) -> None:
        with process.stdout or nullcontext(()) as lines:
            for line in lines:
                message: dict[str, Any] = json.loads(line)
                with self._changed:
                    if "pid" in message:
                        self._pids[message["id"]] = message["pid"]
                    elif "status" in message:
                        self._statuses[message["id"]] = os.waitstatus_to_exitcode(message["status"])
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


def _tell(process: subprocess.Popen[str], message: Mapping[str, Any]) -> None:
    if process.stdin is None:
        raise RuntimeError("the process that forks jobs has no standard input")
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


class _Forked:
    def __init__(self, forker: Forker, number: int, pid: int) -> None:
        self._forker = forker
        self._number = number
        self.pid = pid

    def poll(self) -> int | None:
        return self._forker.status(self._number)


def watch(worker: Worker, limit_s: float, limit_bytes: int, stop: threading.Event) -> Ending:
    """Wait for the worker, polling its tree's memory; ends the whole tree at a limit or when ``stop`` is set."""
    began = looked = time.monotonic()
    seen: dict[int, psutil.Process] = {}
    used = peak = _tree_rss(worker.pid, seen)
    kind = "exited"
    while (status := worker.poll()) is None:
        now = time.monotonic()
        if now - looked > MEMORY_POLL_S:
            used, looked = _tree_rss(worker.pid, seen), now
            peak = max(peak, used)
        if stop.is_set():
            kind = "killed"
        elif used > limit_bytes:
            kind = "memory"
        elif now - began > limit_s:
            kind = "timeout"
        if kind != "exited":
            end_tree(worker.pid, seen.values())
            status = _last_status(worker)
            break
        time.sleep(POLL_S)
    end_tree(worker.pid, seen.values())
    return Ending(kind, status, time.monotonic() - began, peak)


def _last_status(worker: Worker) -> int:
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline:
        if (status := worker.poll()) is not None:
            return status
        time.sleep(POLL_S)
    return -signal.SIGKILL


def _tree_rss(pid: int, seen: dict[int, psutil.Process]) -> int:
    used = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            seen.setdefault(process.pid, process)
            with suppress(psutil.Error):
                used += process.memory_info().rss
    return used


def end_tree(pid: int, known: Iterable[psutil.Process] = ()) -> None:
    """Kill every process of the worker's session and every descendant ever seen (a service may leave the session)."""
    doomed = {process.pid: process for process in known}
    for process in psutil.process_iter(["pid"]):
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == pid:
                doomed[process.pid] = process
    for process in doomed.values():
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
