"""The order of timed processes, and how a budget is shared."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import levels
from harness.rounds import LEAST_S, OPENING_S, SERVER_OPENING_S, deadline_s, in_rounds, process_seconds, sweep_jobs
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


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.floats(1, 5000))
def test_a_budget_holds_as_many_processes_as_a_verdict_needs(counts: list[int], budget_s: float) -> None:
    given_jobs = in_rounds(jobs(*((f"m{n}", count) for n, count in enumerate(counts))))
    seconds = process_seconds(given_jobs, budget_s)
    needed_s = sum(counts) * levels.FEWEST_PROCESSES * (seconds + OPENING_S)
    assert seconds == LEAST_S or needed_s == pytest.approx(budget_s)
    ends = [deadline_s(job, given_jobs, budget_s) for job in given_jobs]
    assert all(before <= after for before, after in pairwise(ends))
    assert ends[-1] == pytest.approx(budget_s)
    assert ends[0] == pytest.approx(budget_s * counts[0] / sum(counts))


def test_no_jobs_take_no_time() -> None:
    assert in_rounds([]) == []
    assert process_seconds([], 10.0) > 0


def test_a_server_takes_longer_to_start_and_leaves_less_for_all() -> None:
    cells = [Cell("m", backend, "v", "cpu") for backend in ("torch_eager", "bentoml_service")]
    given_jobs = [job for cell in cells for job in sweep_jobs(cell)]
    seconds = process_seconds(given_jobs, 300.0, {cells[1]})
    assert levels.FEWEST_PROCESSES * (2 * seconds + OPENING_S + SERVER_OPENING_S) == pytest.approx(300.0)
    assert seconds < process_seconds(given_jobs, 300.0)
