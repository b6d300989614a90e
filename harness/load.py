"""Load on what answers requests: clients that wait for their answers (closed loop), and arrivals that wait for nobody (open loop).

A closed loop shows what a service gives at its best, an open one what its users wait. Latency counts from the time at which a
request was due, not from when the generator came to send it: a service that stalls delays those that should have come meanwhile too
(coordinated omission, Tene 2013).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np

Answer = TypeVar("Answer")
Clock = Callable[[], float]

MOST_IN_FLIGHT = 256
"""Requests that an open loop has under way at once; those beyond wait in the generator, which `Loaded.late` tells."""


class Refused(Exception):
    """What a submit function raises where the service says in good form that it takes no more for now (429, 503)."""


@dataclass(frozen=True, slots=True)
class Sent(Generic[Answer]):
    """One request, by ``index`` in the order of arrival. Seconds since the load began; ``refused`` is the service's own word.

    ``due_s`` is when it should have been sent: for an arrival of its schedule, for a client as soon as its last one was done.
    """

    index: int
    due_s: float
    sent_s: float
    done_s: float
    answer: Answer | None = None
    refused: str = ""

    @property
    def latency_s(self) -> float:
        """From when it was due until it was done."""
        return self.done_s - self.due_s


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Answer]):
    """All requests of one load, by index. ``offered`` is the number of clients, or of arrivals a second."""

    kind: Literal["closed", "open"]
    offered: float
    requests: tuple[Sent[Answer], ...]
    seconds: float

    @property
    def answered(self) -> tuple[Sent[Answer], ...]:
        """Those that were not refused."""
        return tuple(request for request in self.requests if not request.refused)

    def steady(self, warmup_s: float) -> tuple[Sent[Answer], ...]:
        """Those answered that were due after the warm-up and before the load ended: none that found the service half empty."""
        return tuple(request for request in self.answered if warmup_s <= request.due_s < self.seconds)

    def completed(self, warmup_s: float) -> tuple[Sent[Answer], ...]:
        """Those answered whose answer came after the warm-up and before the load ended."""
        return tuple(request for request in self.answered if warmup_s <= request.done_s < self.seconds)

    def throughput_per_s(self, warmup_s: float = 0.0) -> float:
        """Answers that came after the warm-up and before the load ended, a second."""
        return len(self.completed(warmup_s)) / (self.seconds - warmup_s)

    @property
    def late(self) -> float:
        """The share of requests that the generator itself sent too late: by over a tenth of the median latency, and over 1 ms."""
        if not self.requests:
            return 0.0
        allowed_s = max(1e-3, 0.1 * float(np.median([request.latency_s for request in self.requests])))
        return sum(request.sent_s - request.due_s > allowed_s for request in self.requests) / len(self.requests)


def closed_loop(submit: Callable[[int], Answer], clients: int, seconds: float, clock: Clock = time.monotonic) -> Loaded[Answer]:
    """``clients`` threads that send the next request as soon as they have their answer, until ``seconds`` have passed.

    ``submit`` gets the index of the request, waits for the answer and returns it, or raises `Refused`. Requests under way when the
    time is up are waited for. Whatever else it raises ends the load and is raised here.
    """
    done: deque[Sent[Answer]] = deque()
    numbers, lock, stop = iter(range(10**12)), threading.Lock(), threading.Event()
    ready = threading.Barrier(clients + 1)

    def client() -> None:
        ready.wait()
        due_s = clock() - begun[0]
        while due_s < seconds and not stop.is_set():
            with lock:
                index = next(numbers)
            request = _sent(submit, index, due_s, begun[0], clock)
            done.append(request)
            due_s = request.done_s

    begun = [0.0]
    with ThreadPoolExecutor(clients, thread_name_prefix="client") as pool:
        waiting = [pool.submit(client) for _ in range(clients)]
        begun[0] = clock()
        ready.wait()
        _all_done(waiting, stop)
    return Loaded("closed", clients, _by_index(done), seconds)


def arrivals_s(rate_per_s: float, seconds: float, seed: int) -> tuple[float, ...]:
    """When requests of independent users are due, in seconds: a Poisson process of this rate, the same for the same seed."""
    noise = np.random.default_rng(seed)
    # Enough with all but no doubt, and more where that should not be.
    gaps = noise.exponential(1 / rate_per_s, int(rate_per_s * seconds + 10 * np.sqrt(rate_per_s * seconds) + 10))
    times = np.cumsum(gaps)
    while times[-1] < seconds:
        times = np.concatenate([times, times[-1] + np.cumsum(noise.exponential(1 / rate_per_s, len(gaps)))])
    return tuple(times[times < seconds].tolist())


def open_loop(
    submit: Callable[[int], Answer],
    rate_per_s: float,
    seconds: float,
    seed: int,
    clock: Clock = time.monotonic,
    sleep: Callable[[float], Any] = time.sleep,
) -> Loaded[Answer]:
    """Requests that come at `arrivals_s` whether or not others were answered; ``submit`` as for `closed_loop`.

    A service that falls behind has ever more of them under way, up to `MOST_IN_FLIGHT`.
    """
    done: deque[Sent[Answer]] = deque()
    stop = threading.Event()
    waiting: list[Future[None]] = []

    def request(index: int, due_s: float) -> None:
        if not stop.is_set():
            done.append(_sent(submit, index, due_s, begun, clock))

    with ThreadPoolExecutor(MOST_IN_FLIGHT, thread_name_prefix="arrival") as pool:
        begun = clock()
        for index, due_s in enumerate(arrivals_s(rate_per_s, seconds, seed)):
            early_s = due_s - (clock() - begun)
            if early_s > 0:
                sleep(early_s)
            waiting.append(pool.submit(request, index, due_s))
            if any(one.done() and one.exception() for one in waiting[-2 * MOST_IN_FLIGHT :: 16]):
                break
        _all_done(waiting, stop)
    return Loaded("open", rate_per_s, _by_index(done), seconds)


def _sent(submit: Callable[[int], Answer], index: int, due_s: float, begun: float, clock: Clock) -> Sent[Answer]:
    sent_s = clock() - begun
    try:
        answer = submit(index)
    except Refused as error:
        return Sent(index, due_s, sent_s, clock() - begun, None, str(error) or "refused")
    return Sent(index, due_s, sent_s, clock() - begun, answer)


def _all_done(waiting: Sequence[Future[None]], stop: threading.Event) -> None:
    """Wait for all; at the first that raised let the others end after the request that they have under way, and raise it."""
    wait(waiting, return_when=FIRST_EXCEPTION)
    if any(one.done() and one.exception() for one in waiting):
        stop.set()
    for one in waiting:
        one.result()


def _by_index(done: Sequence[Sent[Answer]]) -> tuple[Sent[Answer], ...]:
    return tuple(sorted(done, key=lambda request: request.index))
