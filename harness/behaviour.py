"""What a backend is asked besides the deck: short sequences of calls whose answers must fit each other.

A case is data: the pictures of each call, in order. `run` asks them of an open session and keeps every answer under a name of
its own; `told` finds them again, for `harness.checks.behaviour` to judge.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.errors import HarnessError, Unavailable

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels
    from harness.sessions import Detector

BATCH = 4
"""Pictures of one size in a call: enough for a first, a last and two between."""

MIXED = 3
"""Pictures of different sizes in a call."""

BLANK = "blank"
"""The picture of every deck that shows nothing."""

SWAPPED = "channels swapped"
"""What the export's picture is called with its red and blue exchanged."""

Call = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """``calls`` are the ids of the pictures that go in together, call after call.

    ``how``: ``calls`` keeps the answers to each call. ``held`` makes all calls before it reads what the session returned to the
    first, beside a copy made at once: two answers, as if there had been two calls. ``mixed`` gives unequal sizes to one call of
    the library, where the session can.
    """

    name: str
    calls: tuple[Call, ...]
    how: Literal["calls", "held", "mixed"] = "calls"


def cases(pictures: Mapping[str, Pixels], sample: str) -> tuple[Case, ...]:
    """Every case that this deck has the pictures for; ``sample`` is the picture used for export."""
    shape = pictures[sample].shape
    equal = (sample, *(name for name, pixels in pictures.items() if pixels.shape == shape and name not in (sample, SWAPPED)))
    batch = equal[:BATCH]
    by_shape = {shape: sample}
    for name, pixels in pictures.items():
        if name != BLANK:
            by_shape.setdefault(pixels.shape, name)
    mixed = tuple(by_shape.values())[:MIXED]
    found = (
        Case("twice", ((sample,), (sample,), batch[-1:], batch[-1:])),
        Case("blank", ((sample,), (BLANK,), (sample,))),
        Case("batch", (*((name,) for name in batch), batch)),
        Case("permuted", (batch, (*batch[1:], *batch[:1]))),
        Case("swapped", ((sample,), (SWAPPED,))),
        Case("one held", (batch[:1], batch[1:2]), "held"),
        Case("batch held", (batch, (*batch[1:], *batch[:1])), "held"),
        Case("mixed", (mixed,), "mixed"),
    )
    return tuple(case for case in found if all(name in pictures for call in case.calls for name in call))


def run(
    detector: Detector, pictures: Mapping[str, Pixels], sample: str, enter: Callable[[str], None]
) -> tuple[dict[str, Detections], dict[str, str]]:
    """Ask every case; the answers by name (`told` finds them), and the cases that were declined, each with why in words.

    ``enter`` is told which call comes next.
    """
    given = {**pictures, SWAPPED: np.ascontiguousarray(pictures[sample][:, :, ::-1])}
    answers: dict[str, Detections] = {}
    declined: dict[str, str] = {}
    for case in cases(given, sample):
        enter(f"behaviour, {case.name}")
        try:
            rounds = _ASK[case.how](detector, given, case.calls)
        except Unavailable as error:
            declined[case.name] = error.what
            continue
        for number, answered in enumerate(rounds):
            answers.update({f"{case.name}/{number}/{name}": answer for name, answer in answered.items()})
    return answers, declined


def told(answers: Mapping[str, Detections], case: str) -> tuple[dict[str, Detections], ...]:
    """The answers to one case: for each call, by picture; empty where it was not asked."""
    rounds: dict[str, dict[str, Detections]] = {}
    for key, answer in answers.items():
        name, number, picture = key.split("/", 2)
        if name == case:
            rounds.setdefault(number, {})[picture] = answer
    return tuple(rounds.values())


def _each(detector: Detector, pictures: Mapping[str, Pixels], calls: Sequence[Call]) -> list[dict[str, Detections]]:
    return [_named(call, detector.predict([pictures[name] for name in call])) for call in calls]


def _held(detector: Detector, pictures: Mapping[str, Pixels], calls: Sequence[Call]) -> list[dict[str, Detections]]:
    first, *others = ([pictures[name] for name in call] for call in calls)
    kept = detector.raw(first)
    at_once = copy.deepcopy(kept)
    for images in others:
        detector.raw(images)
    return [_named(calls[0], detector.finish(given, first)) for given in (at_once, kept)]


def _mixed(detector: Detector, pictures: Mapping[str, Pixels], calls: Sequence[Call]) -> list[dict[str, Detections]]:
    return [_named(call, detector.predict_mixed([pictures[name] for name in call])) for call in calls]


_ASK = {"calls": _each, "held": _held, "mixed": _mixed}


def _named(call: Call, got: Sequence[Detections]) -> dict[str, Detections]:
    if len(got) != len(call):
        raise HarnessError(f"predict answered {len(got)} times for {len(call)} images")
    return dict(zip(call, got, strict=True))
