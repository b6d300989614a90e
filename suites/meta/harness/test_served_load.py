"""A service under load: one made up, in this process, that forms batches and may fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from harness import levels
from harness.detections import Detections
from harness.errors import HarnessError
from harness.served_load import ARRIVALS, CLIENTS, LEAST_S, loads
from harness.serving.answers import from_json, to_json
from harness.serving.pictures import decoded
from harness.suites.meta.harness.answers import SPEC, grid
from harness.sweep import read_name
from harness.timings import LoadPoint

pytestmark = pytest.mark.covers("M6")

PICTURES = {name: np.full((20, 20, 3), number, np.uint8) for number, name in enumerate("abc", start=1)}
CALL_S = 0.004


class Invented:
    """Answers a picture of the value n with n detections, one request after the other, in ``CALL_S``."""

    token = "sesame"  # noqa: S105 - of nothing

    def __init__(self, status: Callable[[int], int] = lambda _: 200, says: bool = True) -> None:
        self.asked: list[str | None] = []
        self._status, self._says, self._lock = status, says, threading.Lock()

    def post(self, route: str, body: bytes, kind: str, token: str | None) -> tuple[int, str, bytes]:
        assert (route, kind) == ("detect", "image/png")
        with self._lock:
            self.asked.append(token)
            time.sleep(CALL_S)
            status = self._status(len(self.asked))
        picture = decoded(body)
        told = to_json(self.answer(picture), picture, SPEC) | ({"batch": 3} if self._says else {})
        return status, "application/json", json.dumps(told if status == 200 else {"error": "too busy"}).encode()

    def answer(self, picture: np.ndarray) -> Detections:  # type: ignore[type-arg]
        return grid(int(picture[0, 0, 0]))

    def read(self, body: bytes, picture: bytes) -> Detections:
        return from_json(json.loads(body), SPEC)


@pytest.fixture(scope="module")
def loaded() -> tuple[Invented, tuple[LoadPoint, ...], dict[str, Detections], list[str]]:
    session, entered = Invented(), []  # type: ignore[var-annotated]
    points, answers = loads(session, PICTURES, 0.0, entered.append)
    return session, points, answers, entered


def test_one_after_the_other_gains_nothing_and_ends_before_all_clients(loaded: tuple[Invented, ...]) -> None:
    _, points, _, entered = loaded
    closed = [point for point in points if point.kind == "closed"]  # type: ignore[attr-defined]
    # At four on a quiet machine.
    assert [point.offered for point in closed] == list(CLIENTS[: len(closed)])
    assert 3 <= len(closed) < len(CLIENTS)
    assert entered[:3] == ["load with 1 clients", "load with 2 clients", "load with 4 clients"]  # type: ignore[index]
    for point in closed:
        assert point.seconds == LEAST_S
        assert point.throughput_per_s < 1 / CALL_S
        assert len(point.latencies_s) >= levels.MEDIAN_SAMPLES
        # Whoever waits for a lock is not served in order: of the latencies the mean alone is known.
        assert np.mean(point.latencies_s) >= 0.8 * point.offered * CALL_S
        assert point.refused == 0
        assert set(point.formed) == {3}


def test_then_arrivals_come_at_shares_of_the_best_and_wait_the_longer_the_more_they_are(loaded: tuple[Invented, ...]) -> None:
    _, points, *_ = loaded
    best = max(point.throughput_per_s for point in points if point.kind == "closed")  # type: ignore[attr-defined]
    open_ones = [point for point in points if point.kind == "open"]  # type: ignore[attr-defined]
    assert [point.of_best for point in open_ones] == list(ARRIVALS)
    assert [point.offered for point in open_ones] == pytest.approx([share * best for share in ARRIVALS])
    assert np.median(open_ones[0].latencies_s) < np.percentile(open_ones[1].latencies_s, 95)


def test_every_request_has_the_token_and_every_different_answer_is_kept_once(loaded: tuple[Invented, ...]) -> None:
    session, points, answers, _ = loaded
    assert set(session.asked) == {session.token}  # type: ignore[attr-defined]
    kept = [read_name(name) for name in answers]  # type: ignore[attr-defined]
    assert {(picture, number) for _, picture, number in kept} == {(name, 0) for name in PICTURES}
    assert len({asked for asked, *_ in kept}) == len(points)  # type: ignore[arg-type]
    for (_, picture, _), answer in zip(kept, answers.values(), strict=True):  # type: ignore[attr-defined]
        assert len(answer) == int(PICTURES[picture][0, 0, 0])


def test_refusals_are_counted_and_a_service_may_tell_nothing_of_batches() -> None:
    session = Invented(lambda asked: 503 if asked % 5 == 0 else 200, says=False)
    points, _ = loads(session, PICTURES, 0.0)
    assert all(point.refused > 0 for point in points)
    assert all(point.formed == {} for point in points)
    assert len(points) <= len(CLIENTS) + len(ARRIVALS)


def test_any_other_reply_ends_it_with_what_was_said() -> None:
    with pytest.raises(HarnessError, match=r"under load the service answered 500: .*too busy"):
        loads(Invented(lambda asked: 500 if asked > 20 else 200), PICTURES, 0.0)


def test_one_that_refuses_everything_is_under_no_load() -> None:
    points, answers = loads(Invented(lambda _: 429), PICTURES, 0.0)
    assert {point.kind for point in points} == {"closed"}
    assert all(point.throughput_per_s == 0 and point.refused for point in points)
    assert answers == {}
