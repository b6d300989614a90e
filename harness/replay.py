"""Timings of a run handed on to pytest-benchmark, so that its table, ``--benchmark-json``, ``compare`` and histograms have them.

pytest-benchmark times a function on a clock; here the clock is one that replays what the run's own processes measured. A round is a
process, by its own figure, or in a survey one warm call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.types import Cell, Json


class Replay:
    """Seconds of one image, in order, on a clock of their own; ``extra`` goes into ``extra_info``."""

    def __init__(self, cell: Cell, seconds: Sequence[float], extra: Mapping[str, Json]) -> None:
        self.group = f"{cell.model}@{cell.device}, one image"
        self._cell, self._seconds, self._extra, self._now, self._round = cell, tuple(seconds), dict(extra), 0.0, 0

    @property
    def timer(self) -> Callable[[], float]:
        """The clock, as pytest-benchmark names and reads one."""

        def replayed() -> float:
            return self._now

        return replayed

    def feed(self, benchmark: Any) -> None:
        """Let pytest-benchmark's fixture, made with this `timer`, time every figure once; nothing where there is none."""
        if not self._seconds:
            return
        benchmark.extra_info.update({"backend": self._cell.backend, "variant": self._cell.variant, **self._extra})
        benchmark.pedantic(self._pass, rounds=len(self._seconds), iterations=1)

    def _pass(self) -> None:
        self._now += self._seconds[self._round]
        self._round = (self._round + 1) % len(self._seconds)
