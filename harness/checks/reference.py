"""How steady the reference is: the noise floor that the levels of parity refer to, and a check that it is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from harness import levels
from harness.certificates import Limits
from harness.checks import Check, Evidence, Judgement
from harness.checks.differences import unequal
from harness.checks.rules import broke
from harness.compare import Comparison, Output, compare
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
        wrong = fault(found)
        if wrong:
            words = f"repeated with {_words(floor.job.load)}, {wrong}"
            return Judgement(Status.FAILED, words, compared, measures, found.worst_image())
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


def fault(found: Comparison) -> str:
    """In which way a repeat misses the levels that hold for a backend, before any noise; empty where it does not."""
    if found.unexplained:
        return f"{found.unexplained} detections have no partner, level 0"
    allowed = levels.certified_allowed(found.matched + found.missing)
    if found.certified > allowed:
        return f"{found.certified} detections differ by a tie, level {allowed}"
    if found.worst("class_differs"):
        return "a matched detection has another class"
    if found.worst("score") > levels.SCORE:
        return f"a score differs by {found.worst('score'):.2g}, level {levels.SCORE}"
    beyond = found.column("box_px") / levels.box_level_px(found.column("side_px"))
    if beyond.max(initial=0.0) > 1.0:
        return f"a box differs by {found.column('box_px')[beyond.argmax()]:.2g} px, {beyond.max():.2g} times its level"
    return next(_output_faults(found), "")


def _output_faults(found: Comparison) -> Iterator[str]:
    """The same of what a detector gives besides boxes, scores and classes, where it was compared."""
    short = levels.mask_iou_level(found.column("mask_area_px")) - found.column("mask_iou")
    if short.max(initial=0.0) > 0.0:
        yield f"two masks have an IoU of {found.column('mask_iou')[short.argmax()]:.4f}"
    if found.worst("keypoint_px") > levels.KEYPOINT_PX:
        yield f"a keypoint lies {found.worst('keypoint_px'):.2g} px off, level {levels.KEYPOINT_PX} px"
    if found.panoptic_quality < levels.PANOPTIC_QUALITY:
        yield f"the panoptic quality is {found.panoptic_quality:.4f}, level {levels.PANOPTIC_QUALITY}"


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
