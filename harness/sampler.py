"""One process's calls at one point, until they are steady or the budget is spent: the unit that intervals are made of.

Nothing is thrown away: every call's seconds are kept in order, and what is warm-up is said beside them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from harness import levels
from harness.intervals import is_steady, warm_up
from harness.timings import Samples

WINDOW_S = 0.25
"""A window lasts so long: what a machine does in milliseconds is noise within it, what it does in seconds shows between windows."""

_FEWEST_IN_WINDOW, _MOST_IN_WINDOW = levels.MEDIAN_SAMPLES, 500

MOST_SAMPLES = 5_000
_CLOCK_SHARE = 1e-3
"""The clock may cost so much of what it times."""

_CALIBRATIONS = 200

Clock = Callable[[], float]


def sample(
    call: Callable[[int], object],
    budget_s: float,
    device: str = "cpu",
    synchronise: Callable[[], object] = lambda: None,
    clock: Clock = time.monotonic,
) -> Samples:
    """Call again and again, with 0, 1, 2, ..., until the last windows are steady or ``budget_s`` is spent.

    The device is synchronised before the clock is read, at both ends.
    """
    begun = clock()
    first_s = _timed(call, 0, 1, synchronise, clock)
    done, calls = 1, 1
    seconds: list[float] = []
    warmup, steady, looked, shortest_s = 0, False, 0, math.inf
    while len(seconds) < MOST_SAMPLES and clock() - begun < budget_s:
        if not seconds:
            second_s = _timed(call, done, 1, synchronise, clock)
            done += 1
            calls = _calls_a_sample(second_s, clock)
            if calls == 1:
                seconds.append(second_s)
                continue
        seconds.append(_timed(call, done, calls, synchronise, clock) / calls)
        done, shortest_s = done + calls, min(shortest_s, seconds[-1])
        if len(seconds) - looked >= (size := window(shortest_s * calls)):
            looked, warmup = len(seconds), warm_up(seconds)
            steady = is_steady(seconds[warmup:], size, device)
            if steady:
                break
    if not steady:
        warmup = warm_up(seconds)
    return Samples(first_s, tuple(seconds), calls, warmup, steady, clock() - begun)


def window(sample_s: float) -> int:
    """How many samples of this length a window has."""
    return min(max(math.ceil(WINDOW_S / sample_s), _FEWEST_IN_WINDOW), _MOST_IN_WINDOW) if sample_s > 0 else _MOST_IN_WINDOW


def clock_cost_s(clock: Clock = time.monotonic) -> float:
    """What reading the clock twice costs."""
    begun = clock()
    for _ in range(2 * _CALIBRATIONS):
        clock()
    return (clock() - begun) / _CALIBRATIONS


def _calls_a_sample(call_s: float, clock: Clock) -> int:
    """So many that the clock costs at most a thousandth of them."""
    shortest_s = clock_cost_s(clock) / _CLOCK_SHARE
    return 1 if call_s >= shortest_s else max(1, int(shortest_s / max(call_s, shortest_s / 1000)) + 1)


def _timed(call: Callable[[int], object], index: int, count: int, synchronise: Callable[[], object], clock: Clock) -> float:
    synchronise()
    began = clock()
    for offset in range(count):
        call(index + offset)
    synchronise()
    return clock() - began
