"""Adapters that break their own process, as a third party would bring them: ``--adapter breaking.py:NAME``."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np

from harness.fixtures.liars import GRAPH, LyingGraph, Wrapped
from harness.fixtures.lies import Arrays, Run


def _hang(run: Run, given: Arrays) -> Arrays:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
    time.sleep(3600)
    return run(given)


def _eat(run: Run, given: Arrays) -> Arrays:
    eaten = []
    while True:
        eaten.append(np.ones(2**23))
        time.sleep(0.02)
        if len(eaten) > 10_000:
            return run(given)


def _exit(_run: Run, _given: Arrays) -> Arrays:
    os._exit(3)


def _segfault(run: Run, given: Arrays) -> Arrays:
    ctypes.string_at(0)
    return run(given)


def _breaking(name: str, how: Any) -> Wrapped:
    return Wrapped(name, GRAPH, lambda truth: LyingGraph(truth, how))


HANGS = _breaking("hangs", _hang)
EATS_MEMORY = _breaking("eats_memory", _eat)
EXITS = _breaking("exits", _exit)
SEGFAULTS = _breaking("segfaults", _segfault)
