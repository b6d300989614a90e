"""In which order timed processes run: round after round, there and back, so that what drifts meets all sides alike.

A round is one process of every cell of a model, in order, the next in the reverse order (A B C, C B A). A pair of processes of two
cells is that of one round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence

from harness import levels
from harness.types import Cell, Job, Load, Purpose

OPENING_S = 2.5
"""What a process takes before and after it measures, of what a budget of seconds must hold."""

SERVER_OPENING_S = 9.0
"""The same of a process that starts a server, whose own processes import the libraries once more and are stopped again."""

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


def process_seconds(jobs: Sequence[Job], budget_s: float, served: Collection[Cell] = ()) -> float:
    """What one process may measure, so that as many as a verdict needs fit into the budget; those of ``served`` start servers."""
    cells = {job.cell for job in jobs}
    opening_s = sum(SERVER_OPENING_S if cell in served else OPENING_S for cell in cells)
    return max(LEAST_S, (budget_s / levels.FEWEST_PROCESSES - opening_s) / (len(cells) or 1))


def deadline_s(job: Job, jobs: Sequence[Job], budget_s: float) -> float:
    """Seconds after the first at which no further process of the job's model begins: each model has its share, and what is left."""
    models = list(dict.fromkeys(one.cell.model for one in jobs))
    cells = [cell.model for cell in dict.fromkeys(one.cell for one in jobs)]
    come = sum(model in models[: models.index(job.cell.model) + 1] for model in cells)
    return budget_s * come / len(cells)
