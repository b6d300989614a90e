"""What a service makes of several clients: of ever more that wait for their answers, then of arrivals that wait for nobody.

The first shows what it can give and at how many clients that no longer grows, the second what its users wait at a half and at four
fifths of it. Nothing is judged and nothing read while the load is on: answers are taken as they came over the wire.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias

from harness.digests import answer_sha256
from harness.errors import HarnessError
from harness.load import Loaded, Refused, closed_loop, open_loop
from harness.serving.pictures import encoded
from harness.sweep import IN_VAIN, PAYS, PICTURES, answer_name
from harness.timings import LoadPoint

if TYPE_CHECKING:
    from harness.adapters import ServedSession
    from harness.detections import Detections, Pixels

CLIENTS = (1, 2, 4, 8, 16, 32)
ARRIVALS = (0.5, 0.8)
"""Rates of arrivals, of the best that clients who wait were given."""

WARM_UP = 0.25
"""Of a load, what is not counted: the service fills up, and learns what a batch takes."""

LEAST_S = 1.0
"""What every load lasts, however small the budget."""

_REFUSALS = (429, 503)
_SEED = 20260711

Body: TypeAlias = tuple[str, bytes]
"""The picture that was asked about, and the reply as it came."""


def loads(
    session: ServedSession, pictures: Mapping[str, Pixels], seconds: float, enter: Callable[[str], object] = lambda _: None
) -> tuple[tuple[LoadPoint, ...], dict[str, Detections]]:
    """All loads within about ``seconds``, and every different answer by `harness.sweep.answer_name`.

    Raises `HarnessError` for a reply that is neither an answer nor a refusal (429, 503). ``enter`` is told how far it came.
    """
    names = list(pictures)[:PICTURES]
    files = {name: encoded(pictures[name]) for name in names}
    points: list[LoadPoint] = []
    answers: dict[str, Detections] = {}

    def submit(index: int) -> Body:
        name = names[index % len(names)]
        status, _, body = session.post("detect", files[name], "image/png", session.token)
        if status in _REFUSALS:
            raise Refused(f"status {status}")
        if status != 200:
            raise HarnessError(f"under load the service answered {status}: {body.decode('utf-8', 'replace')[:300]}")
        return name, body

    def take(loaded: Loaded[Body], of_best: float = 0.0) -> LoadPoint:
        answers.update(_different(session, loaded, files))
        points.append(_point(loaded, of_best))
        return points[-1]

    share_s = max(LEAST_S, seconds / (len(CLIENTS) + len(ARRIVALS)))
    best, in_vain = 0.0, 0
    for clients in CLIENTS:
        enter(f"load with {clients} clients")
        found = take(closed_loop(submit, clients, share_s))
        in_vain = 0 if found.throughput_per_s > best * (1 + PAYS) else in_vain + 1
        best = max(best, found.throughput_per_s)
        if in_vain == IN_VAIN:
            break
    # What the clients left of the time is for the arrivals: what they show needs more requests.
    left_s = max(share_s, (seconds - share_s * len(points)) / len(ARRIVALS))
    for of_best in ARRIVALS if best > 0 else ():
        enter(f"load with arrivals at {of_best:.0%} of the best")
        take(open_loop(submit, of_best * best, left_s, _SEED), of_best)
    return tuple(points), answers


def load_words(kind: str, offered: float) -> str:
    """A load in words, as its answers' names have it."""
    return f"{offered:.0f} clients" if kind == "closed" else f"{offered:.3g} arrivals a second"


def _point(loaded: Loaded[Body], of_best: float) -> LoadPoint:
    warmup_s = WARM_UP * loaded.seconds
    counted = loaded.completed(warmup_s) if loaded.kind == "closed" else loaded.steady(warmup_s)
    return LoadPoint(
        kind=loaded.kind,
        offered=loaded.offered,
        of_best=of_best,
        seconds=loaded.seconds,
        warmup_s=warmup_s,
        latencies_s=tuple(request.latency_s for request in counted),
        throughput_per_s=loaded.throughput_per_s(warmup_s),
        refused=len(loaded.requests) - len(loaded.answered),
        late=loaded.late,
        formed=dict(sorted(Counter(_formed(loaded)).items())),
    )


def _formed(loaded: Loaded[Body]) -> Iterator[int]:
    """Of each answered request, in a batch of how many it was answered, where the service tells."""
    for request in loaded.answered:
        batch = json.loads(request.answer[1]).get("batch") if request.answer is not None else None
        if isinstance(batch, int):
            yield batch


def _different(session: ServedSession, loaded: Loaded[Body], files: Mapping[str, bytes]) -> dict[str, Detections]:
    """By name, each picture's first answer and every one that is not bit for bit one of those before it."""
    found: dict[str, dict[str, Detections]] = {}
    for name, body in dict.fromkeys(request.answer for request in loaded.answered if request.answer is not None):
        answer = session.read(body, files[name])
        found.setdefault(name, {}).setdefault(answer_sha256(answer), answer)
    asked = load_words(loaded.kind, loaded.offered)
    return {answer_name(asked, name, n): answer for name, others in found.items() for n, answer in enumerate(others.values())}
