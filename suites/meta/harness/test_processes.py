"""Workers are watched as whole trees, and nothing outlives a limit."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from harness.processes import Worker, watch

GIB = 2**30


def start(code: str) -> Worker:
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


def ended(code: str, seconds: float = 30.0, limit: int = GIB) -> tuple[str, int]:
    ending = watch(start(code), seconds, limit, threading.Event())
    return ending.kind, ending.status


@pytest.mark.parametrize(("code", "status"), [("pass", 0), ("raise SystemExit(7)", 7)])
def test_exit_status_is_told(code: str, status: int) -> None:
    assert ended(code) == ("exited", status)


def test_a_signal_is_told_as_a_negative_status() -> None:
    assert ended("import os; os.kill(os.getpid(), 11)") == ("exited", -signal.SIGSEGV)


def test_time_limit_ends_it() -> None:
    began = time.monotonic()
    assert ended("import time; time.sleep(600)", seconds=0.5) == ("timeout", -signal.SIGKILL)
    assert time.monotonic() - began < 10


def test_memory_of_a_child_counts() -> None:
    eater = "x = bytearray(400 * 2**20); import time; time.sleep(600)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{eater}'])"
    assert ended(child, limit=200 * 2**20) == ("memory", -signal.SIGKILL)


def test_a_child_in_a_session_of_its_own_is_ended_too() -> None:
    mark = "left-behind-by-a-test"
    child = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', '{mark}'], start_new_session=True)\n"
        "time.sleep(600)"
    )
    assert ended(child, seconds=2)[0] == "timeout"
    time.sleep(0.2)
    alive = [p for p in psutil.process_iter(["cmdline", "status"]) if mark in str(p.info["cmdline"])]
    assert [p for p in alive if p.info["status"] != psutil.STATUS_ZOMBIE and p.pid not in psutil.Process().parents()] == []


def test_stopping_ends_it() -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    assert watch(start("import time; time.sleep(600)"), 60, GIB, stop).kind == "killed"


def test_peak_memory_is_measured() -> None:
    ending = watch(start("x = bytearray(300 * 2**20); import time; time.sleep(1)"), 60, GIB, threading.Event())
    assert ending.peak_rss_bytes > 300 * 2**20
