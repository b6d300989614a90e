"""What else a machine did while something was timed: a timing beside it is no timing of the thing alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

import psutil

from harness.environment import usable_cores

OTHERS = 0.10
"""Of the processors' time, what other processes may take."""

STOLEN = 0.01
"""Of the processors' time, what a hypervisor may take away."""

SPEED = 1.10
"""How far a fixed piece of work, or the processors' frequency, may differ before and after."""

_WORK, _LOOPS = 40_000, 7


@dataclass(frozen=True, slots=True)
class Look:
    """The machine at one time. Seconds of processor time since it started: of everybody, of this process's tree, stolen.

    ``everybody_s`` is None where the system counts more processors than may be used here: others' are then among them.
    ``work_s`` is the median of a fixed piece of work; ``mhz`` the frequency, None where nobody says.
    """

    at_s: float
    everybody_s: float | None
    own_s: float
    stolen_s: float
    work_s: float
    mhz: float | None


def look() -> Look:
    """The machine as it is. Takes some ten milliseconds, for the fixed work."""
    times = psutil.cpu_times()
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
    mhz = None
    with suppress(Exception):  # a platform that cannot say raises all kinds of errors
        mhz = psutil.cpu_freq().current or None
    return Look(
        at_s=time.monotonic(),
        everybody_s=busy if psutil.cpu_count() == usable_cores() else None,
        own_s=_own_s(),
        stolen_s=getattr(times, "steal", 0.0),
        work_s=median(_worked_s() for _ in range(_LOOPS)),
        mhz=mhz,
    )


def disturbances(before: Look, after: Look, cores: int) -> Iterator[str]:
    """What happened between two looks that makes timings doubtful, in words; nothing where nothing did."""
    there_s = max(after.at_s - before.at_s, 1e-9) * cores
    if before.everybody_s is not None and after.everybody_s is not None:
        others = (after.everybody_s - before.everybody_s - (after.own_s - before.own_s)) / there_s
        if others > OTHERS:
            yield f"other processes took {others:.0%} of the processors"
    stolen = (after.stolen_s - before.stolen_s) / there_s
    if stolen > STOLEN:
        yield f"the hypervisor took {stolen:.0%} of the processors away"
    ratio = after.work_s / before.work_s
    if not 1 / SPEED <= ratio <= SPEED:
        yield f"a fixed piece of work took {ratio:.2f} times as long after as before"
    if before.mhz and after.mhz and not 1 / SPEED <= after.mhz / before.mhz <= SPEED:
        yield f"the processors ran at {before.mhz:.0f} MHz before and {after.mhz:.0f} MHz after"


def _own_s() -> float:
    """Of this process, its threads, its children that live and those that ended."""
    own = psutil.Process()
    spent = 0.0
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.Error):
            times = process.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent


def _worked_s() -> float:
    began = time.perf_counter()
    total = 0
    for number in range(_WORK):
        total += number
    return time.perf_counter() - began
