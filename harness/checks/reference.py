"""How steady the reference is: the noise floor that the levels of parity refer to, and a check that it is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from harness import levels
from harness.certificates import Limits
from harness.checks import Check, Evidence, Judgement
from harness.checks.differences import unequal
from harness.checks.rules import broke
from harness.compare import Comparison, ImageComparison, Output, compare
from harness.panoptic import panoptic_quality
from harness.types import Load, Measure, Observation, Purpose, Status


class NoiseFloor(NamedTuple):
    """F: the largest difference of matched detections between the reference and its repeats.

    In score (0..1), in px, and of raw masks in terms of their level. Boxes too small to be judged do not count: they must not raise
    the level of the others.
    """

    score: float
    box_px: float
    raw_mask_share: float = 0.0


SILENT = NoiseFloor(0.0, 0.0)
"""No noise: the levels as they are before any."""


def noise_floor(evidence: Evidence) -> NoiseFloor:
    """F of the reference that this evidence is judged against; zero, so that no level is raised, where nothing was repeated."""
    return _widest(_repeats(evidence.reference[Purpose.PARITY], evidence.floors, limits(evidence)))


def limits(evidence: Evidence, floor: NoiseFloor = SILENT) -> Limits:
    """What counts as a tie for this cell's model, at that noise floor."""
    spec = evidence.spec
    return Limits(spec.score_threshold, spec.detection_cap, levels.score_level(floor.score), floor.box_px)


def stable(evidence: Evidence) -> Judgement:
    """The reference's repeats under other loads agree with it, at the levels before any noise.

    That it answers the same bits under the same load, in another process, is `fidelity.answers`.
    """
    if not evidence.floors:
        return Judgement(Status.MISSING, "planned, but the reference was not repeated")
    for floor in evidence.floors:
        if floor.error is not None:
            return Judgement(Status.ERRORED, f"not established: {broke(floor)}")
    own = evidence.observed[Purpose.PARITY]
    repeats = _repeats(own, evidence.floors, limits(evidence))
    measures = _measures(repeats)
    compared, equal = 0, 0
    for floor, found in zip(evidence.floors, repeats, strict=True):
        compared += found.detections
        differing = [image for image, answer in own.answers.items() if unequal(answer, floor.answers.get(image))]
        equal += not differing
        whole = compare(own.answers, floor.answers, limits(evidence), ledgers=own.ledgers)
        wrong = fault(whole)
        if wrong is not None:
            words = f"repeated with {_words(floor.job.load)}, {wrong.words}"
            return Judgement(Status.FAILED, words, compared, measures, wrong.image)
    words = f"{len(repeats)} repeats under other loads agree, {equal} of them bit for bit"
    return Judgement(Status.PASSED, words, compared, measures)


@lru_cache(maxsize=16)
def _repeats(reference: Observation, floors: tuple[Observation, ...], tolerance: Limits) -> tuple[Comparison, ...]:
    """The reference against each repeat that answered, pasted masks left out; kept: every parity check of a model asks for it."""
    answered = (floor.answers for floor in floors if floor.error is None)
    chosen: tuple[Output, ...] = ("raw_masks",)
    return tuple(compare(reference.answers, answers, tolerance, outputs=chosen, ledgers=reference.ledgers) for answers in answered)


def _widest(repeats: Sequence[Comparison]) -> NoiseFloor:
    boxes = (r.column("box_px")[r.column("side_px") >= levels.BOX_MIN_SIDE_PX] for r in repeats)
    return NoiseFloor(
        max((r.worst("score") for r in repeats), default=0.0),
        max((float(px.max(initial=0.0)) for px in boxes), default=0.0),
        max((r.worst("raw_mask_share") for r in repeats), default=0.0),
    )


def _measures(repeats: Sequence[Comparison]) -> tuple[Measure, ...]:
    floor = _widest(repeats)
    unmatched = sum(r.missing + r.extra for r in repeats)
    return (
        Measure("noise floor F of scores", floor.score, levels.SCORE),
        Measure("noise floor F of boxes", floor.box_px, levels.BOX_PX, "px"),
        Measure("unmatched", unmatched, unit="detections"),
    )


class Fault(NamedTuple):
    """In which way two answers of one detector differ, and on which image most."""

    words: str
    image: str | None


def fault(found: Comparison) -> Fault | None:
    """In which way a repeat misses the levels that hold for a backend, before any noise; None where it does not."""
    return next(_faults(found), None)


def _faults(found: Comparison) -> Iterator[Fault]:
    if found.unexplained:
        yield Fault(f"{found.unexplained} detections have no partner, level 0", found.worst_image())
    allowed = levels.certified_allowed(found.matched + found.missing)
    if found.certified > allowed:
        yield Fault(f"{found.certified} detections differ by a tie, level {allowed}", found.worst_image())
    classes, scores, boxes = found.column("class_differs"), found.column("score"), found.column("box_px")
    if classes.any():
        yield Fault("a matched detection has another class", found.pair("class_differs", int(classes.argmax())).image)
    if scores.max(initial=0.0) > levels.SCORE:
        where = found.pair("score", int(scores.argmax())).image
        yield Fault(f"a score differs by {scores.max():.2g}, level {levels.SCORE}", where)
    beyond = boxes / levels.box_level_px(found.column("side_px"))
    if beyond.max(initial=0.0) > 1.0:
        worst = int(beyond.argmax())
        words = f"a box differs by {boxes[worst]:.2g} px, {beyond[worst]:.2g} times its level"
        yield Fault(words, found.pair("box_px", worst).image)
    yield from _output_faults(found)


def _output_faults(found: Comparison) -> Iterator[Fault]:
    """The same of what a detector gives besides boxes, scores and classes, where it was compared.

    Only a reference says which pixels of a mask lie near its threshold, so that single flipped pixels are not counted; raw masks
    may differ by as much as noise can ever excuse.
    """
    for image in found.images:
        gone = [name for name in image.lost if name != "raw_masks"]
        if gone:
            yield Fault(f"it has no {' and no '.join(gone)} of the picture's size", image.image)
    masks, areas = found.column("mask_iou"), found.column("mask_area_px")
    tiny = np.where(areas >= levels.MASK_GROSS_AREA_PX, levels.MASK_GROSS_IOU, 0.0)
    short = np.maximum(levels.mask_iou_level(areas), tiny) - masks
    if short.max(initial=0.0) > 0.0:
        worst = int(short.argmax())
        yield Fault(f"two masks have an IoU of {masks[worst]:.4f}", found.pair("mask_iou", worst).image)
    share = found.column("raw_mask_share")
    if share.max(initial=0.0) > levels.RAW_SHARE_LIMIT:
        where = found.pair("raw_mask_share", int(share.argmax())).image
        yield Fault(f"a raw mask differs by {share.max():.3g} times its level, at most {levels.RAW_SHARE_LIMIT:g}", where)
    apart = found.column("keypoint_px")
    if apart.max(initial=0.0) > levels.KEYPOINT_PX:
        where = found.pair("keypoint_px", int(apart.argmax())).image
        yield Fault(f"a keypoint lies {apart.max():.2g} px off, level {levels.KEYPOINT_PX} px", where)
    for image in found.images:
        if image.segments is not None and (image.segments.missing or image.segments.extra):
            alone = len(image.segments.missing) + len(image.segments.extra)
            yield Fault(f"{alone} panoptic segments have no partner, level 0", image.image)
    if found.panoptic_quality < levels.PANOPTIC_QUALITY:
        words = f"the panoptic quality is {found.panoptic_quality:.4f}, level {levels.PANOPTIC_QUALITY}"
        yield Fault(words, min(found.images, key=_segment_quality).image)


def _segment_quality(image: ImageComparison) -> float:
    return 1.0 if image.segments is None else panoptic_quality([image.segments])


def _words(load: Load) -> str:
    return f"{load.threads or 'all'} thread(s) and {load.batch} image(s) a call"


CHECKS = (
    Check(
        "reference.stable",
        "The reference agrees with itself",
        "torch_eager, repeated under another number of threads and with batches of equal size, gives the same detections "
        "within the levels that a backend must meet (score 1e-4; box max(0.01 px, 1e-4 x side)). The differences are the noise "
        "floor F. What usually breaks it: sums in another order near a tie, kernels chosen by timing, images padded to one size "
        "in a batch. What to do: where it fails, no parity verdict of this model is worth more than the floor; find the layer "
        "that is not steady.",
        frozenset({Purpose.PARITY}),
        stable,
        frozenset({Purpose.FLOOR}),
    ),
)
