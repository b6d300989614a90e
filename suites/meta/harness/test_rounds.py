"""The order of timed processes, and how a budget is shared."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import levels
from harness.rounds import LEAST_S, OPENING_S, SERVER_OPENING_S, SPARE, WORTH_S, Budget, deadline_s, in_rounds, sweep_jobs
from harness.suites.meta.harness.timings import point, process
from harness.types import Cell, Job

pytestmark = pytest.mark.covers("M19")


def jobs(*models: tuple[str, int]) -> list[Job]:
    """All sweep jobs of models with so many backends each."""
    return [job for model, count in models for n in range(count) for job in sweep_jobs(Cell(model, f"backend{n}", "f32", "cpu"))]


def test_rounds_go_there_and_back() -> None:
    order = [(job.cell.backend[-1], job.repeat) for job in in_rounds(jobs(("m", 3)))]
    assert order[:9] == [("0", 0), ("1", 0), ("2", 0), ("2", 1), ("1", 1), ("0", 1), ("0", 2), ("1", 2), ("2", 2)]
    assert len(order) == 3 * levels.MOST_PROCESSES


def test_each_model_has_its_rounds_before_the_next() -> None:
    models = [job.cell.model for job in in_rounds(jobs(("m", 2), ("n", 1)))]
    assert models == ["m"] * 2 * levels.MOST_PROCESSES + ["n"] * levels.MOST_PROCESSES


@given(st.integers(1, 12))
def test_two_sides_lie_as_far_apart_before_as_behind(cells: int) -> None:
    """Whatever drifts steadily over two rounds meets every cell alike: the mean place of each is the same."""
    order = in_rounds(jobs(("m", cells)))[: 2 * cells]
    places = {cell: [n for n, job in enumerate(order) if job.cell == cell] for cell in {job.cell for job in order}}
    assert {sum(found) for found in places.values()} == {2 * cells - 1}


class Clocked:
    """A budget on a clock that only processes move."""

    def __init__(self, given_jobs: list[Job], seconds: float, served: tuple[Cell, ...] = ()) -> None:
        self.now = 1000.0
        self.jobs = in_rounds(given_jobs)
        self.budget = Budget(self.jobs, seconds, served, lambda: self.now)
        self.measured: dict[Job, float] = {}

    def run(self, besides_s: float, ends_after_s: float = 1e9, **of: object) -> Clocked:
        """Each process takes so long besides what it measures, which is at most ``ends_after_s``."""
        for job in self.jobs:
            if not self.budget.begins(job):
                continue
            self.measured[job] = min(self.budget.measure_s(job), ends_after_s)
            took_s = besides_s + self.measured[job]
            self.now += took_s
            self.budget.ended(job, took_s, process(job.repeat, point(1, 0.01, spent_s=self.measured[job]), cell=job.cell, **of))
        return self

    @property
    def fewest(self) -> int:
        """Processes of the cell that has the fewest."""
        return min(Counter(job.cell for job in self.measured).values())


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.floats(1, 5000))
def test_a_budget_holds_as_many_processes_as_a_verdict_needs(counts: list[int], seconds: float) -> None:
    ran = Clocked(jobs(*((f"m{n}", count) for n, count in enumerate(counts))), seconds)
    first = ran.budget.measure_s(ran.jobs[0])
    fit = seconds / (sum(counts) * (first + OPENING_S))
    assert first == LEAST_S or levels.FEWEST_PROCESSES <= fit + 1e-9 <= levels.FEWEST_PROCESSES + SPARE + 1e-6
    # None to spare where that would leave each too little.
    assert first >= WORTH_S or fit <= levels.FEWEST_PROCESSES + 1e-6
    ends = [deadline_s(job, ran.jobs, seconds) for job in ran.jobs]
    assert all(before <= after for before, after in pairwise(ends))
    assert ends[-1] == pytest.approx(seconds)
    assert ends[0] == pytest.approx(seconds * counts[0] / sum(counts))


@pytest.mark.parametrize("besides_s", [0.2, OPENING_S, 4 * OPENING_S])
@pytest.mark.parametrize("models", [(("m", 1),), (("m", 6),), (("m", 3), ("n", 2))])
def test_whatever_processes_take_besides_enough_of_them_fit(besides_s: float, models: tuple[tuple[str, int], ...]) -> None:
    cells = sum(count for _, count in models)
    seconds = cells * (levels.FEWEST_PROCESSES + SPARE) * (besides_s + 4.0)
    ran = Clocked(jobs(*models), seconds).run(besides_s)
    assert ran.fewest >= levels.FEWEST_PROCESSES + SPARE
    assert ran.now - 1000.0 <= seconds + max(ran.measured.values()) + besides_s
    by_round = {(job.cell.model, job.repeat): s for job, s in ran.measured.items()}
    assert all(s == pytest.approx(by_round[job.cell.model, job.repeat]) for job, s in ran.measured.items())


def test_what_takes_little_besides_measures_longer() -> None:
    ran = Clocked(jobs(("m", 4)), 100.0).run(0.5)
    seconds = [ran.measured[job] for job in ran.jobs if job in ran.measured]
    assert seconds[4] > seconds[0] + 1.0


def test_what_happens_once_is_not_expected_again() -> None:
    """Of the first process: imports and the parts of a call."""
    ran = Clocked(jobs(("m", 1)), 60.0)
    job = ran.jobs[0]
    of = {"cold": {"import": 5.0, "first answer": 0.04}, "parts": {"infer": (0.5, 0.5)}}
    seconds = ran.budget.measure_s(job)
    ran.now += seconds + 7.0
    ran.budget.ended(job, seconds + 7.0, process(0, point(1, 0.01, spent_s=seconds), **of))
    # 1 s of the 7 is not explained, and is what the next will need too.
    assert ran.budget.measure_s(ran.jobs[1]) == pytest.approx((60.0 - seconds - 7.0) / (levels.FEWEST_PROCESSES + SPARE - 1) - 1.0)


def test_what_broke_says_nothing_of_the_others() -> None:
    ran = Clocked(jobs(("m", 1)), 60.0)
    before = ran.budget.measure_s(ran.jobs[0])
    ran.budget.ended(ran.jobs[0], 0.1, process(0, sweep=None))
    assert ran.budget.measure_s(ran.jobs[1]) >= before


def test_a_curve_that_is_done_early_leaves_time_for_more_processes() -> None:
    assert Clocked(jobs(("m", 2)), 200.0).run(OPENING_S, ends_after_s=5.0).fewest > 2 * levels.FEWEST_PROCESSES


def test_no_jobs_take_no_time() -> None:
    assert in_rounds([]) == []


def test_a_server_takes_longer_to_start_and_leaves_less_for_all() -> None:
    cells = [Cell("m", backend, "v", "cpu") for backend in ("torch_eager", "bentoml_service")]
    given_jobs = [job for cell in cells for job in sweep_jobs(cell)]
    ran = Clocked(given_jobs, 300.0, (cells[1],))
    seconds = ran.budget.measure_s(ran.jobs[0])
    assert (levels.FEWEST_PROCESSES + SPARE) * (2 * seconds + OPENING_S + SERVER_OPENING_S) == pytest.approx(300.0)
