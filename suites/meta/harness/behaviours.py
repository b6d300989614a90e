"""Invented answers to the cases of `harness.behaviour`, of a backend that behaves."""

from __future__ import annotations

from collections.abc import Mapping

from harness.behaviour import BLANK, SWAPPED
from harness.detections import Detections
from harness.suites.meta.harness.answers import changed, detections

Told = dict[str, Detections]


def behaved(pictures: Mapping[str, Detections], blank: Detections | None = None) -> Told:
    """The answers by name, as `harness.behaviour.run` leaves them; ``pictures`` answers those of one size, the export's first."""
    nothing = detections([]) if blank is None else blank
    (first, answer), *_ = pictures.items()
    single = [{name: one} for name, one in pictures.items()]
    batch, turned = dict(pictures), dict([*list(pictures.items())[1:], (first, answer)])
    rounds: dict[str, list[Mapping[str, Detections]]] = {
        "twice": [single[0], single[0], single[-1], single[-1]],
        "blank": [single[0], {BLANK: nothing}, single[0]],
        "batch": [*single, batch],
        "permuted": [batch, turned],
        "swapped": [single[0], {SWAPPED: changed(answer, label=1)}],
        "one held": [single[0], single[0]],
        "batch held": [batch, batch],
        "mixed": [batch],
    }
    return {
        f"{case}/{number}/{name}": one
        for case, calls in rounds.items()
        for number, call in enumerate(calls)
        for name, one in call.items()
    }
