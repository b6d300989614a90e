"""How long a run will take, roughly."""

from __future__ import annotations

from collections.abc import Iterable

from harness.plan import TIMED
from harness.types import Job, Purpose

_COSTS_S = {
    Purpose.BUILD: 6.0,
    Purpose.PARITY: 3.0,
    Purpose.FIDELITY: 6.0,
    Purpose.BEHAVIOUR: 2.5,
    Purpose.PRECISION: 8.0,
    Purpose.SERVING: 8.0,
    Purpose.FLOOR: 2.5,
    Purpose.TIMING: 6.0,
    Purpose.SWEEP: 0.0,
}


def estimated_minutes(jobs: Iterable[Job], cached: Iterable[Job], lanes: int, budget_s: float = 0.0) -> float:
    """A rough figure from what jobs cost on 2 quiet cores; timing jobs run alone, builds already cached cost nothing.

    Sweeps take the budget.
    """
    given, skip = list(jobs), set(cached)
    shared = sum(_COSTS_S[j.purpose] for j in given if j.purpose not in TIMED and j not in skip)
    alone = sum(_COSTS_S[j.purpose] for j in given if j.purpose is Purpose.TIMING)
    swept = budget_s if any(j.purpose is Purpose.SWEEP for j in given) else 0.0
    return (shared / lanes + alone + swept) / 60
