"""Load on services whose behaviour is known."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.intervals import little
from harness.load import MOST_IN_FLIGHT, Loaded, Refused, Sent, arrivals_s, closed_loop, open_loop

pytestmark = pytest.mark.covers("M19", "M21")


class Service:
    """Answers ``abreast`` requests at a time in the order in which they came, ``seconds`` each, with the index it was asked."""

    def __init__(self, abreast: int, seconds: float) -> None:
        self._pool, self._seconds, self._lock = ThreadPoolExecutor(abreast), seconds, threading.Lock()
        self.most_waiting = self._waiting = 0

    def submit(self, index: int) -> int:
        with self._lock:
            self._waiting += 1
            self.most_waiting = max(self.most_waiting, self._waiting)
        self._pool.submit(time.sleep, self._seconds).result()
        with self._lock:
            self._waiting -= 1
        return index


def test_clients_of_a_closed_loop_wait_for_their_answers() -> None:
    service = Service(abreast=8, seconds=0.01)
    found = closed_loop(service.submit, clients=3, seconds=0.4)
    assert service.most_waiting == 3
    assert [request.index for request in found.requests] == list(range(len(found.requests)))
    assert all(request.answer == request.index for request in found.requests)
    # Whatever else the machine does, three clients at 10 ms cannot have more than 120 answers and their last.
    assert 10 < len(found.requests) <= 123
    assert all(request.due_s <= request.sent_s <= request.done_s for request in found.requests)
    assert little(3, found.throughput_per_s(), float(np.mean([r.latency_s for r in found.requests]))) < 0.2


def test_clients_beyond_what_a_service_does_at_once_only_wait_longer() -> None:
    found = closed_loop(Service(abreast=1, seconds=0.01).submit, clients=4, seconds=0.5)
    # The first of each client found the service half empty.
    assert float(np.median([request.latency_s for request in found.steady(warmup_s=0.1)])) > 0.035


def test_arrivals_wait_for_nobody() -> None:
    service = Service(abreast=1, seconds=0.02)
    found = open_loop(service.submit, rate_per_s=150, seconds=0.6, seed=4)
    assert found.kind == "open"
    assert [request.due_s for request in found.requests] == list(arrivals_s(150, 0.6, 4))
    assert service.most_waiting > 10
    # Served one at a time at a third of the rate, the last waits for two thirds of all.
    assert found.requests[-1].latency_s > 0.5
    assert all(request.answer == request.index for request in found.requests)


def test_a_stall_delays_those_that_were_due_meanwhile() -> None:
    """A service that takes one request at a time and stops once: in a closed loop one request is slow, here all due then are."""

    def submit(index: int) -> int:
        time.sleep(0.3 if index == 5 else 0)
        return index

    one_at_a_time = threading.Lock()

    def alone(index: int) -> int:
        with one_at_a_time:
            return submit(index)

    found = open_loop(alone, rate_per_s=200, seconds=0.5, seed=1)
    assert sum(request.latency_s > 0.05 for request in found.requests) > 20
    assert sum(request.latency_s > 0.05 for request in closed_loop(alone, 1, 0.5).requests) < 5


def test_what_a_service_refuses_is_counted_apart() -> None:
    def submit(index: int) -> int:
        if index % 2:
            raise Refused("429: too many")
        time.sleep(0.002)
        return index

    found = closed_loop(submit, clients=2, seconds=0.1)
    refused = [request for request in found.requests if request.refused]
    assert refused
    assert {request.refused for request in refused} == {"429: too many"}
    assert all(request.answer == request.index for request in found.answered)
    assert len(found.answered) + len(refused) == len(found.requests)


@pytest.mark.parametrize("kind", ["closed", "open"])
def test_an_error_ends_the_load_and_is_raised(kind: str) -> None:
    asked: list[int] = []

    def submit(index: int) -> int:
        asked.append(index)
        if index == 20:
            raise ConnectionResetError("gone")
        time.sleep(0.001)
        return index

    began = time.monotonic()
    with pytest.raises(ConnectionResetError, match="gone"):
        closed_loop(submit, 2, 30) if kind == "closed" else open_loop(submit, 500, 30, seed=0)
    assert time.monotonic() - began < 15
    assert len(asked) < 30 + 2 * MOST_IN_FLIGHT


def test_a_generator_that_falls_behind_says_so() -> None:
    on_time = Loaded("open", 10, tuple(Sent(i, i / 10, i / 10, i / 10 + 0.05, i) for i in range(10)), 1.0)
    behind = Loaded("open", 10, tuple(Sent(i, i / 10, i / 10 + 0.02, i / 10 + 0.05, i) for i in range(10)), 1.0)
    assert (on_time.late, behind.late) == (0.0, 1.0)
    assert Loaded("open", 10, (), 1.0).late == 0.0


@given(st.floats(1, 2000), st.floats(0.1, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_arrivals_are_a_poisson_process(rate: float, seconds: float, seed: int) -> None:
    times = arrivals_s(rate, seconds, seed)
    assert times == arrivals_s(rate, seconds, seed)
    assert all(a <= b for a, b in itertools.pairwise(times))
    assert all(0 <= due < seconds for due in times)
    # Six standard deviations of the count.
    assert abs(len(times) - rate * seconds) < 6 * np.sqrt(rate * seconds) + 6


def test_gaps_between_arrivals_vary_as_much_as_they_last() -> None:
    gaps = np.diff(arrivals_s(1000, 20, seed=7))
    assert gaps.mean() == pytest.approx(1e-3, rel=0.03)
    assert gaps.std() == pytest.approx(1e-3, rel=0.03)


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0.001, 3)), min_size=1, max_size=40), st.floats(0, 5))
def test_what_came_within_the_time_is_what_is_counted(spans: list[tuple[float, float]], warmup_s: float) -> None:
    requests = tuple(Sent(i, due, due, due + took, i) for i, (due, took) in enumerate(spans))
    found = Loaded("closed", 4, requests, 10.0)
    expected = [request for request in requests if warmup_s <= request.done_s < 10.0]
    assert found.throughput_per_s(warmup_s) * (10.0 - warmup_s) == pytest.approx(len(expected))
    assert set(found.steady(warmup_s)) == {request for request in requests if request.due_s >= warmup_s}
