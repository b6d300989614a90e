"""How much does lower precision keep? Average precision and panoptic quality on a deck of many objects, beside the reference's.

fp16, bf16 and int8 answer other numbers by their nature: pair by pair they miss what fp32 must meet, and only many objects tell
whether they see as well. So they have rows of their own, and a deck of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness import levels
from harness.checks import Check, Evidence, Judgement
from harness.checks.parity import not_comparable, precision_class
from harness.checks.rules import broke
from harness.detections import Detections, Panoptic
from harness.panoptic import match_to_truth, panoptic_quality
from harness.precision import Kind, average_precision, kinds
from harness.types import Measure, Purpose, Status

_JOB = frozenset({Purpose.PRECISION})


@dataclass(frozen=True, slots=True)
class _Kept:
    """AP of one kind, or panoptic quality, in points (x 100)."""

    figure: str
    reference: float
    candidate: float

    @property
    def percent(self) -> float:
        return 100 * self.candidate / self.reference if self.reference else math.nan


def kept(evidence: Evidence) -> Judgement:
    """The share of the reference's AP that is kept, on at least `levels.KEPT_OBJECTS` objects, against the level of its class."""
    own = evidence.observed[Purpose.PRECISION]
    if own.error is not None:
        return Judgement(Status.ERRORED, broke(own))
    unfit = not_comparable(evidence, Purpose.PRECISION)
    if unfit is not None:
        return unfit
    precision = precision_class(evidence, Purpose.PRECISION)
    if precision == "fp32":
        return Judgement(Status.DECLINED, "it answered in fp32: see the other parity checks")
    compared = sum(len(answer) for answer in evidence.reference[Purpose.PRECISION].answers.values())
    if not compared:
        return Judgement(Status.ERRORED, "compared nothing: the reference finds nothing on this deck")
    unanswered = [image.id for image in evidence.images if image.id not in own.answers]
    if unanswered:
        return Judgement(Status.FAILED, f"image {unanswered[0]} has no answer", compared)
    return _judged(evidence, precision, compared)


def _judged(evidence: Evidence, precision: str, compared: int) -> Judgement:
    found = [_average_precision(evidence, kind) for kind in kinds(evidence.spec.outputs)]
    segments = evidence.segments() if "panoptic" in evidence.spec.outputs else {}
    if segments:
        found.append(_panoptic_quality(evidence, segments))
    objects, level = len(evidence.truth()["annotations"]), levels.KEPT_PERCENT.get(precision)
    measures = (
        *(Measure(f"{one.figure} kept", one.percent, level, "%") for one in found),
        *(Measure(one.figure, one.candidate, unit="points") for one in found),
        *(Measure(f"{one.figure} of the reference", one.reference, unit="points") for one in found),
        Measure("objects in the ground truth", objects),
    )
    told = ", ".join(f"{one.percent:.2f} % of the reference's {one.figure}" for one in found)
    words = f"{precision} keeps {told} on {objects:,} objects"
    if "panoptic" in evidence.spec.outputs and not segments:
        words += " (panoptic quality is not judged: this deck's truth has no segments)"
    if level is None:
        return Judgement(Status.INCONCLUSIVE, f"{words}; there is no level for {precision}: not established", compared, measures)
    if objects < levels.KEPT_OBJECTS:
        words = f"{words}; {levels.KEPT_OBJECTS:,} are needed: not established"
        return Judgement(Status.INCONCLUSIVE, words, compared, measures)
    # Not a number, where the reference has nothing to keep, is not kept.
    status = Status.PASSED if all(one.percent >= level for one in found) else Status.FAILED
    return Judgement(status, f"{words}, level {level} %", compared, measures)


def _average_precision(evidence: Evidence, kind: Kind) -> _Kept:
    truth = evidence.truth()
    mine, theirs = (100 * average_precision(truth, side, kind).average for side in _answers(evidence))
    return _Kept(f"{kind} AP", mine, theirs)


def _panoptic_quality(evidence: Evidence, segments: Mapping[str, Panoptic]) -> _Kept:
    truth = [segments[image.id] for image in evidence.images]
    mine, theirs = (
        100 * panoptic_quality(match_to_truth(one, answer.panoptic) for one, answer in zip(truth, side, strict=True))
        for side in _answers(evidence)
    )
    return _Kept("panoptic quality", mine, theirs)


def _answers(evidence: Evidence) -> tuple[list[Detections], list[Detections]]:
    """The reference's and the cell's, in the order of the deck."""
    mine, theirs = (side[Purpose.PRECISION].answers for side in (evidence.reference, evidence.observed))
    return [mine[image.id] for image in evidence.images], [theirs[image.id] for image in evidence.images]


CHECKS = (
    Check(
        "parity.kept",
        "Lower precision keeps the average precision",
        "fp16, bf16 and int8 keep at least 99.9 %, 99.9 % and 99 % of the reference's average precision: COCO's AP over IoU 0.50 "
        "to 0.95, of boxes and, where the model gives them, masks and keypoints, and the same share of the panoptic quality of "
        "panoptic segments, against the ground truth of a deck of its own "
        "with at least 1,000 objects, else it is not established. The class is the one that the runtime says it stored and "
        "computed in. What usually breaks it: a layer near the scores that needs more precision, ranges learnt from too few "
        "pictures, accumulation in half precision. What to do: leave the first and last layers in fp32, and look for the layer "
        "that costs most.",
        _JOB,
        kept,
        _JOB,
        handles=_JOB,
        at="lower",
    ),
)
