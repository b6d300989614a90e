"""In which order timed processes run: round after round, there and back, so that what drifts meets all sides alike.

A round is one process of every cell of a model, in order, the next in the reverse order (A B C, C B A). A pair of processes of two
cells is that of one round.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from harness import levels
from harness.types import Cell, Job, Load, Observation, Purpose

OPENING_S = 2.5
"""What a process is taken to need before and after it measures, until one of its cell has shown it."""

SERVER_OPENING_S = 9.0
"""The same of a process that starts a server, whose own processes import the libraries once more and are stopped again."""

SPARE = 2
"""Processes a cell beyond those that a verdict needs, where there is time: on most machines one or two are disturbed."""

WORTH_S = 1.5
"""What a process must be able to measure for more of them to be worth it: less is seldom steady."""

LEAST_S = 0.5
"""What every process may measure, however small the budget."""


def sweep_jobs(cell: Cell) -> tuple[Job, ...]:
    """All processes of a cell that a budget may come to."""
    first = Job(cell, Purpose.SWEEP, Load(threads=0))
    return tuple(dataclasses.replace(first, repeat=number) for number in range(levels.MOST_PROCESSES))


def in_rounds(jobs: Iterable[Job]) -> list[Job]:
    """The sweep jobs of one or more models: model by model, each in rounds there and back."""
    given = list(jobs)
    models, cells = list(dict.fromkeys(job.cell.model for job in given)), list(dict.fromkeys(job.cell for job in given))

    def place(job: Job) -> tuple[int, int, int]:
        position = cells.index(job.cell)
        return models.index(job.cell.model), job.repeat, -position if job.repeat % 2 else position

    return sorted(given, key=place)


class Budget:
    """Shares seconds among timed processes: whether one may begin, and how long it may measure.

    The processes of a round measure equally long: as many rounds as a verdict needs shall fit, and a few to spare, by what
    processes of these cells took besides so far (opening, the audit), by assumption before any has ended; those of ``served``
    start servers.
    """

    def __init__(
        self, jobs: Sequence[Job], seconds: float, served: Collection[Cell] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._jobs, self.seconds, self._clock = jobs, seconds, clock
        cells = dict.fromkeys(job.cell for job in jobs)
        self._besides_s = {cell: SERVER_OPENING_S if cell in served else OPENING_S for cell in cells}
        self._of_round: dict[tuple[str, int], float] = {}
        self._began: float | None = None

    def begins(self, job: Job) -> bool:
        """Whether there is time for this process. The first one of a cell always begins."""
        passed_s = self._passed_s()
        return job.repeat == 0 or passed_s < deadline_s(job, self._jobs, self.seconds)

    def measure_s(self, job: Job) -> float:
        """Seconds that this process may measure."""
        key = job.cell.model, job.repeat
        if key not in self._of_round:
            self._of_round[key] = self._share_s(job)
        return self._of_round[key]

    def ended(self, job: Job, took_s: float, seen: Observation) -> None:
        """A process has ended after so many seconds in all."""
        if seen.sweep is None:
            return
        found = seen.sweep
        measured_s = sum(point.spent_s for point in (*found.points, *found.mixed)) + sum(load.seconds for load in found.loads)
        # Of the first process alone; its first answer is part of what was measured.
        once_s = sum(found.cold.values()) - found.cold.get("first answer", 0.0) + sum(map(sum, found.parts.values()))
        self._besides_s[job.cell] = max(0.0, took_s - measured_s - once_s)

    def _share_s(self, job: Job) -> float:
        besides_s = [taken_s for cell, taken_s in self._besides_s.items() if cell.model == job.cell.model]
        left_s = deadline_s(job, self._jobs, self.seconds) - self._passed_s()
        share_s = self._of_round.get((job.cell.model, job.repeat - 1), 0.0)
        for spare in range(SPARE, -1, -1):
            rounds = levels.FEWEST_PROCESSES + spare - job.repeat
            if rounds <= 0:
                break
            share_s = (left_s / rounds - sum(besides_s)) / len(besides_s)
            if share_s >= WORTH_S:
                break
        return max(LEAST_S, share_s)

    def _passed_s(self) -> float:
        """Since it was asked for the first time."""
        if self._began is None:
            self._began = self._clock()
        return self._clock() - self._began


def deadline_s(job: Job, jobs: Sequence[Job], budget_s: float) -> float:
    """Seconds after the first at which no further process of the job's model begins: each model has its share, and what is left."""
    models = list(dict.fromkeys(one.cell.model for one in jobs))
    cells = [cell.model for cell in dict.fromkeys(one.cell for one in jobs)]
    come = sum(model in models[: models.index(job.cell.model) + 1] for model in cells)
    return budget_s * come / len(cells)
