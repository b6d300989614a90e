"""How the executor spends a budget of timed processes. What a job does is invented."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.executor import Executor, Setting
from harness.fixtures.decks import deck
from harness.rounds import in_rounds, sweep_jobs
from harness.types import Cell, Job, Observation, Purpose

pytestmark = pytest.mark.covers("M19")
JOBS = in_rounds(job for model in ("m", "n") for name in ("a", "b") for job in sweep_jobs(Cell(model, name, "f32", "cpu")))


def spent(folder: Path, budget_s: float, process_s: float) -> tuple[list[Job], list[Observation | None], list[str]]:
    """Which jobs ran, what every one of them left, and which events were told, where each process takes so long."""
    ran: list[Job] = []
    events: list[str] = []
    setting = Setting(folder, deck("quick"), deck("quick"), budget_s=budget_s)
    executor = Executor(setting, (), JOBS, artifacts=None, progress=lambda _, event: events.append(event))  # type: ignore[arg-type]

    def lane(jobs: Sequence[Job]) -> None:
        ran.extend(jobs)
        time.sleep(process_s)
        executor._conclude(jobs[0], Observation(jobs[0]))

    executor._lane = lane  # type: ignore[method-assign]
    executor._judged.set()
    try:
        executor._run_lanes()
        left: list[Any] = [executor.await_observation(job) for job in JOBS]
    finally:
        executor.finish()
    return ran, left, events


def test_processes_begin_until_the_budget_is_spent_and_the_rest_say_so(tmp_path: Path) -> None:
    ran, left, events = spent(tmp_path, budget_s=1.2, process_s=0.1)
    assert 0 < len(ran) < len(JOBS)
    for model in ("m", "n"):
        # Each model has its share: six processes of it at most begin in 0.6 s, on a slow machine fewer, and always the first.
        mine = [job for job in ran if job.cell.model == model]
        assert mine == [job for job in JOBS if job.cell.model == model][: len(mine)]
        assert {job.repeat for job in mine} >= {0}
        assert len(mine) <= 7
    for job, observation in zip(JOBS, left, strict=True):
        assert observation is not None
        assert observation.job == job
        told = None if job in ran else ("budget", "the budget of 1.2 s was spent before it")
        assert (None if observation.error is None else (observation.error.kind, observation.error.message)) == told
    assert set(events) == {"done"}


def test_the_first_process_of_each_cell_runs_whatever_the_budget(tmp_path: Path) -> None:
    ran, _, _ = spent(tmp_path, budget_s=1e-6, process_s=0.0)
    assert [(job.cell.model, job.cell.backend, job.repeat) for job in ran] == [
        ("m", "a", 0),
        ("m", "b", 0),
        ("n", "a", 0),
        ("n", "b", 0),
    ]
    assert all(job.purpose is Purpose.SWEEP for job in ran)


def test_no_more_than_twenty_processes_a_cell_run(tmp_path: Path) -> None:
    ran, left, _ = spent(tmp_path, budget_s=600.0, process_s=0.0)
    assert ran == JOBS
    assert all(observation is not None and observation.error is None for observation in left)
