"""Does a backend see as well as the reference? Average precision, against the deck's ground truth and against the reference.

Both must hold, so that a fault too even to miss the levels pair by pair shows in the sum. Detections that a tie explains, which
`parity.detections` counts, are left out of both sides first. What lower precision keeps is another question: `harness.checks.kept`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness import levels
from harness.checks import Check, Evidence, Judgement
from harness.checks.parity import compared, not_comparable, precision_class
from harness.checks.reference import noise_floor
from harness.compare import NOTHING, Comparison
from harness.detections import Detections
from harness.precision import Kind, agreement, average_precision, kinds
from harness.types import Measure, Purpose, Status


@dataclass(frozen=True, slots=True)
class _Points:
    """AP of one kind, in points (AP x 100)."""

    kind: Kind
    reference: float
    candidate: float
    agreement: float

    @property
    def apart(self) -> float:
        return self.candidate - self.reference


def average_precisions(evidence: Evidence) -> Judgement:
    """As the reference's, within the level, and agreeing with it."""
    unfit = not_comparable(evidence)
    if unfit is not None:
        return unfit
    if precision_class(evidence) != "fp32":
        return Judgement(Status.DECLINED, f"{precision_class(evidence)} is judged by what it keeps: see parity.kept")
    found = compared(evidence, noise_floor(evidence))
    if not found.matched + found.missing:
        return Judgement(Status.ERRORED, "compared nothing: the reference finds nothing on this deck")
    points = list(_points(evidence, found))
    return _same(points, found, len(evidence.truth()["annotations"]))


def _points(evidence: Evidence, found: Comparison) -> Iterator[_Points]:
    mine, theirs = _settled(evidence, found)
    truth = evidence.truth()
    for kind in kinds(evidence.spec.outputs):
        against_truth = (average_precision(truth, side, kind).average for side in (mine, theirs))
        agreed = agreement(evidence.images, mine, theirs, kind, len(evidence.spec.classes)).average
        yield _Points(kind, *(100 * value for value in (*against_truth, agreed)))


def _settled(evidence: Evidence, found: Comparison) -> tuple[list[Detections], list[Detections]]:
    """Both sides' answers, image by image, without what a tie explains."""
    reference, candidate = evidence.reference[Purpose.PARITY].answers, evidence.observed[Purpose.PARITY].answers
    mine, theirs = [], []
    for image in found.images:
        pairs = image.matching.pairs[sorted(image.certificates.pairs)]
        mine.append(_without(reference.get(image.image, NOTHING), np.concatenate([image.certified_missing, pairs[:, 0]])))
        theirs.append(_without(candidate.get(image.image, NOTHING), np.concatenate([image.certified_extra, pairs[:, 1]])))
    return mine, theirs


def _without(answer: Detections, tied: NDArray[np.intp]) -> Detections:
    return answer.take(np.setdiff1d(np.arange(len(answer)), tied)) if len(tied) else answer


def _same(points: list[_Points], found: Comparison, objects: int) -> Judgement:
    judged = (
        measure
        for one in points
        for measure in (
            Measure(f"{one.kind} AP, difference from the reference", abs(one.apart), levels.PRECISION_POINTS, "points"),
            Measure(f"{one.kind} AP, agreement", one.agreement, levels.AGREEMENT_POINTS, "points"),
        )
    )
    measures = (*judged, *_reported(points, found, objects))
    compared = found.matched + found.missing
    for one in points:
        # Not a number, where there is nothing to find, is no agreement.
        if not abs(one.apart) <= levels.PRECISION_POINTS:
            words = f"{one.kind} AP is {one.candidate:.3f}, the reference's {one.reference:.3f}"
            words += f", level {levels.PRECISION_POINTS} points apart"
            return Judgement(Status.FAILED, words, compared, measures, found.worst_image())
        if not one.agreement >= levels.AGREEMENT_POINTS:
            words = f"{one.kind} AP with the reference as the truth is {one.agreement:.3f}, level {levels.AGREEMENT_POINTS}"
            return Judgement(Status.FAILED, words, compared, measures, found.worst_image())
    told = "; ".join(f"{one.kind} AP {one.candidate:.2f}, agreement {one.agreement:.2f}" for one in points)
    return Judgement(Status.PASSED, f"{told}; as the reference on {objects} objects", compared, measures)


def _reported(points: list[_Points], found: Comparison, objects: int) -> Iterator[Measure]:
    for one in points:
        yield Measure(f"{one.kind} AP", one.candidate, unit="points")
        yield Measure(f"{one.kind} AP of the reference", one.reference, unit="points")
    yield Measure("objects in the ground truth", objects)
    yield Measure("left out, certified", found.certified, unit="detections")


CHECKS = (
    Check(
        "parity.precision",
        "The same average precision",
        "COCO's AP over IoU 0.50 to 0.95, of boxes and, where the model gives them, masks and keypoints: against the deck's "
        "ground truth within 0.02 points of the reference's, and at least 99.9 with the reference's answers as the truth. Left "
        "out of both sides is what a tie explains. What usually breaks it: what breaks the other parity checks; alone, many "
        "differences that each stay within their level and all point one way. What to do: mend what else fails first.",
        frozenset({Purpose.PARITY}),
        average_precisions,
        frozenset({Purpose.PARITY, Purpose.FLOOR}),
    ),
)
