"""Does a backend answer as the reference does? The deck's answers compared as sets, at the levels of `harness.levels`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness import levels
from harness.certificates import Limits
from harness.checks import Check, Evidence, Judgement
from harness.checks.contract import other_than_asked
from harness.checks.reference import NoiseFloor, limits, noise_floor
from harness.compare import Comparison, Output, Pair, compare
from harness.pairs import Quantity
from harness.types import Measure, Observation, Purpose, Status

Judge: TypeAlias = Callable[[Evidence], Judgement]
Measured: TypeAlias = Callable[[Evidence, Comparison, NoiseFloor], Judgement]
Column: TypeAlias = NDArray[np.float64]


def not_comparable(evidence: Evidence, purpose: Purpose = Purpose.PARITY) -> Judgement | None:
    """Which precondition of parity fails: another cell than the reference, run as asked, whole answers. None if all hold."""
    own, reference = evidence.observed[purpose], evidence.reference[purpose]
    if own.job == reference.job:
        return Judgement(Status.DECLINED, "this is the reference itself: see reference.stable")
    differs = other_than_asked(evidence, own.effective)
    if differs:
        return Judgement(Status.ERRORED, f"{differs}: see contract.effective")
    unanswered = [image.id for image in evidence.images if image.id not in reference.answers]
    if unanswered:
        return Judgement(Status.ERRORED, f"not established: the reference left image {unanswered[0]} unanswered")
    return None


def precision_class(evidence: Evidence, purpose: Purpose = Purpose.PARITY) -> str:
    """In which precision the cell answered, as read back from its runtime: the class that decides which levels hold."""
    effective = evidence.observed[purpose].effective
    return "" if effective is None else effective.precision


def compared(evidence: Evidence, floor: NoiseFloor, compares: tuple[Output, ...] = ()) -> Comparison:
    """The cell's answers beside the reference's, on the whole deck."""
    reference, own = (side[Purpose.PARITY] for side in (evidence.reference, evidence.observed))
    return _compared(reference, own, limits(evidence, floor), tuple(image.id for image in evidence.images), compares)


@lru_cache(maxsize=512)
def _compared(
    reference: Observation, own: Observation, tolerance: Limits, deck: tuple[str, ...], compares: tuple[Output, ...]
) -> Comparison:
    """Kept: four checks of a cell ask for the same one, each after those of all other cells."""
    return compare(reference.answers, own.answers, tolerance, deck, compares, reference.ledgers)


def _at_fp32(judge: Measured, output: str, compares: tuple[Output, ...]) -> Judge:
    def guarded(evidence: Evidence) -> Judgement:
        if output not in {"", *evidence.spec.outputs}:
            return Judgement(Status.DECLINED, f"this model gives no {output}")
        unfit = not_comparable(evidence)
        if unfit is not None:
            return unfit
        if precision_class(evidence) != "fp32":
            judged_by = "panoptic quality" if output == "panoptic" else "average precision"
            words = f"{precision_class(evidence)} is judged by {judged_by} alone: see parity.kept"
            return Judgement(Status.DECLINED, words)
        floor = noise_floor(evidence)
        return judge(evidence, compared(evidence, floor, compares), floor)

    return guarded


def detections(evidence: Evidence, found: Comparison, _: NoiseFloor) -> Judgement:
    """The same detections, both ways: none missing, none extra, but for a few that a tie explains."""
    unexplained = found.unexplained
    allowed = levels.certified_allowed(found.matched + found.missing)
    measures = (
        Measure("unmatched and not certified", unexplained, 0, "detections"),
        Measure("certified", found.certified, allowed, "detections"),
        *(Measure(f"certified: {tie}", count, unit="detections") for tie, count in found.certified_by.items()),
        Measure("missing", found.missing, unit="detections"),
        Measure("extra", found.extra, unit="detections"),
        Measure("matched", found.matched, unit="detections"),
    )
    image: str | None
    if found.unanswered:
        words, image = f"{len(found.unanswered)} images have no answer", found.unanswered[0]
    elif unexplained:
        words, image = max(_unmatched(evidence, found))[1:]
        words += f" ({unexplained} unmatched in all, level 0)"
    elif found.certified > allowed:
        words = f"{found.certified} detections differ for a certified reason ({_ties(found)}), level {allowed}"
        image = found.worst_image()
    else:
        tied = f"; {found.certified} differ by a certified tie ({_ties(found)})" if found.certified else ""
        return Judgement(Status.PASSED, f"{found.matched} detections matched one to one{tied}", found.detections, measures)
    return Judgement(Status.FAILED, words, found.detections, measures, image)


def _ties(found: Comparison) -> str:
    """What explains the certified differences, the most frequent first."""
    return ", ".join(tie for tie, _ in sorted(found.certified_by.items(), key=lambda item: -item[1]))


def classes(evidence: Evidence, found: Comparison, _: NoiseFloor) -> Judgement:
    """Every matched detection has the reference's class."""
    differs = found.column("class_differs")
    measures = (Measure("matched, of another class", float(differs.sum()), 0, "detections"),)

    def words(_: int, pair: Pair) -> str:
        expected = evidence.reference[Purpose.PARITY].answers[pair.image].labels[pair.reference]
        got = evidence.observed[Purpose.PARITY].answers[pair.image].labels[pair.candidate]
        where = f"detection {pair.reference} on image {pair.image}"
        return f"{where} is {_class(evidence, expected)}, answered {_class(evidence, got)}"

    fault = failed(found, "class_differs", differs, words, measures)
    return fault or Judgement(Status.PASSED, f"{len(differs)} matched detections agree in class", len(differs), measures)


def scores(_: Evidence, found: Comparison, floor: NoiseFloor) -> Judgement:
    """Scores of matched detections within the level."""
    level = levels.score_level(floor.score)
    apart = found.column("score")
    measures = (*spread(found, "score", "score", level), Measure("noise floor F of scores", floor.score))

    def words(index: int, pair: Pair) -> str:
        return f"score of detection {pair.reference} on image {pair.image} differs by {apart[index]:.2g}, level {level:.2g}"

    passed = f"{len(apart)} scores within {level:.2g}, the worst {found.worst('score'):.2g}{_noted(apart, levels.SCORE_NOTED)}"
    fault = failed(found, "score", apart / level, words, measures, beyond=1.0)
    return fault or Judgement(Status.PASSED, passed, len(apart), measures)


def boxes(_: Evidence, found: Comparison, floor: NoiseFloor) -> Judgement:
    """Boxes of matched detections within the level in px, and their IoU not below its own."""
    side_px, apart_px, iou = found.column("side_px"), found.column("box_px"), found.column("iou")
    level_px, iou_level = levels.box_level_px(side_px, floor.box_px), levels.iou_level(side_px)
    judged = side_px >= levels.BOX_MIN_SIDE_PX
    large = side_px >= levels.IOU_LARGE_SIDE_PX
    measures = (
        *spread(found, "box_px", "box", float(level_px[judged].min(initial=levels.BOX_LIMIT_PX)), "px", judged),
        Measure("worst box against its level", float((apart_px / level_px).max(initial=0.0)), 1.0),
        Measure("worst IoU, side from 32 px", float(iou[large].min(initial=1.0)), levels.IOU_LARGE),
        Measure("worst IoU, side 8 to 32 px", float(iou[judged & ~large].min(initial=1.0)), levels.IOU_SMALL),
        Measure("noise floor F of boxes", floor.box_px, unit="px"),
        Measure("too small to judge", float((~judged).sum()), unit="detections"),
    )

    def px_words(index: int, pair: Pair) -> str:
        where = f"box of detection {pair.reference} on image {pair.image}"
        return f"{where} differs by {apart_px[index]:.3g} px, level {level_px[index]:.2g} px"

    def iou_words(index: int, pair: Pair) -> str:
        return f"IoU of detection {pair.reference} on image {pair.image} is {iou[index]:.5f}, level {iou_level[index]}"

    compared = int(judged.sum())
    fault = failed(found, "box_px", apart_px / level_px, px_words, measures, beyond=1.0)
    fault = fault or failed(found, "iou", iou_level - iou, iou_words, measures)
    worst = f"{compared} boxes within their level, the worst {apart_px[judged].max(initial=0.0):.2g} px"
    passed = worst + _noted(apart_px[judged], levels.BOX_NOTED_PX, " px")
    return fault or Judgement(Status.PASSED, passed, compared, measures)


def failed(
    found: Comparison,
    quantity: Quantity,
    severity: Column,
    words: Callable[[int, Pair], str],
    measures: tuple[Measure, ...],
    *,
    beyond: float = 0.0,
) -> Judgement | None:
    """A judgement that names the pair of the greatest ``severity`` ``float64 [P]``, where any lies ``beyond``, else None."""
    guilty = int((severity > beyond).sum())
    if not guilty:
        return None
    worst = int(severity.argmax())
    pair = found.pair(quantity, worst)
    count = f" ({guilty} of {len(severity)} detections beyond it)" if guilty > 1 else ""
    return Judgement(Status.FAILED, words(worst, pair) + count, len(severity), measures, pair.image)


def spread(
    found: Comparison, quantity: Quantity, name: str, level: float, unit: str = "", judged: NDArray[np.bool_] | None = None
) -> tuple[Measure, ...]:
    """Worst, 99th percentile and median of a difference, the worst against the level."""
    column = found.column(quantity) if judged is None else found.column(quantity)[judged]
    p99, p50 = (float(np.percentile(column, p, method="higher")) if len(column) else 0.0 for p in (99, 50))
    return (
        Measure(f"worst {name} difference", float(column.max(initial=0.0)), level, unit),
        Measure(f"99th percentile {name} difference", p99, unit=unit),
        Measure(f"median {name} difference", p50, unit=unit),
    )


def _noted(apart: Column, from_: float, unit: str = "") -> str:
    count = int((apart > from_).sum())
    return f"; noted: {count} above {from_:.2g}{unit}" if count else ""


def _unmatched(evidence: Evidence, found: Comparison) -> Iterator[tuple[float, str, str]]:
    """Score, words and image of every unmatched detection that no tie explains."""
    for image in found.images:
        sides = (
            ("missing", evidence.reference, image.matching.missing, image.certified_missing),
            ("extra", evidence.observed, image.matching.extra, image.certified_extra),
        )
        for side, given, unmatched, certified in sides:
            for index in np.setdiff1d(unmatched, certified):
                answer = given[Purpose.PARITY].answers[image.image]
                score = float(answer.scores[index])
                what = f"{_class(evidence, answer.labels[index])}, score {score:.4g}"
                yield score, f"detection {index} on image {image.image} ({what}) is {side}", image.image


def _class(evidence: Evidence, label: np.int64) -> str:
    names = evidence.spec.classes
    return names[label] if 0 <= label < len(names) else f"class {label} of {len(names)}"


def check(name: str, title: str, asks: str, judge: Measured, *, output: str = "", compares: tuple[Output, ...] = ()) -> Check:
    """A check at fp32 of models that give ``output``; ``compares`` is what it needs measured besides boxes, scores and classes."""
    return Check(
        f"parity.{name}",
        title,
        f"{asks} The answers are matched as sets, by overlap without class, one to one; the reference is torch_eager on the same "
        "model, device and deck, one image at a time.",
        frozenset({Purpose.PARITY}),
        _at_fp32(judge, output, compares),
        frozenset({Purpose.PARITY, Purpose.FLOOR}),
        output=output,
    )


CHECKS = (
    check(
        "detections",
        "The same detections",
        "Nothing is missing and nothing extra: level 0. Excused, and counted, are detections that a certified tie explains: the "
        "reference's own candidates show that a score on the threshold, two rivals, an overlap, a last rank or two proposals were "
        "apart by less than the levels, and decided the other way they give this answer; at most one, or 0.5 %. What usually "
        "breaks it: another threshold, cap or NMS in the converted graph, a lost image size, another resize. What to do: look at "
        "the named image with both answers drawn over it.",
        detections,
    ),
    check(
        "classes",
        "The same classes",
        "Every matched detection has the reference's class: level 100 %. What usually breaks it: a background class counted "
        "or dropped, labels that start at 1, classes in another order. What to do: compare the two names in the reason; a "
        "constant shift is a label map, single flips are near-ties of two classes.",
        classes,
    ),
    check(
        "scores",
        "The same scores",
        "Scores of matched detections differ by at most max(1e-4, 4F), never by more than 1e-3; above 2e-5 is noted. F is "
        "the noise floor: the reference against itself over thread counts and batches, in the same run. What usually breaks "
        "it: lower precision than claimed, another resize or channel order, a softmax in half precision. What to do: if "
        "boxes fail too, look before the heads; if not, at the last layers.",
        scores,
    ),
    check(
        "boxes",
        "The same boxes",
        "Coordinates of matched boxes with a side of 8 px and more differ by at most max(0.01 px, 1e-4 x side, 4F), never by "
        "more than 0.1 px (above 0.001 px is noted), and their IoU is at least 0.999 from 32 px and 0.99 from 8 px; the side "
        "is the shorter one. What usually breaks it: scaling back by a rounded factor, pooling aligned otherwise, clipping "
        "to another size. What to do: a difference that grows with the coordinate is a scale, a constant one an offset.",
        boxes,
    ),
)
