"""What every backend must do before anything is compared: open, answer in proper form, and run as it was asked to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from harness import levels
from harness.checks import Check, Evidence, Judgement
from harness.checks.rules import broke
from harness.types import Detections, Effective, Image, Measure, ModelSpec, Purpose, Status

BLANK = "blank"
"""The image of every deck that shows nothing."""


def opens(evidence: Evidence) -> Judgement:
    """The build and the parity job ended without an error and left answers."""
    seen = [evidence.observed[purpose] for purpose in (Purpose.BUILD, Purpose.PARITY) if purpose in evidence.observed]
    for observation in seen:
        if observation.error is not None and observation.build_s is None:
            return Judgement(Status.ERRORED, broke(observation))
    if Purpose.PARITY not in evidence.observed:
        return Judgement(Status.MISSING, "planned, but there is no observation of its parity job")
    answered = len(evidence.observed[Purpose.PARITY].answers)
    if not answered:
        return Judgement(Status.FAILED, "it opened without an error and answered no image of the deck", len(seen))
    return Judgement(Status.PASSED, f"built, opened in another process, answered {answered} images", answered)


def well_formed(evidence: Evidence) -> Judgement:
    """Every image of the deck has one answer, and every value of it is one that a detector may give."""
    answers = evidence.observed[Purpose.PARITY].answers
    faults = list(_deck_faults(evidence.images, answers))
    for image in evidence.images:
        if image.id in answers:
            faults += [(image.id, fault) for fault in _faults(answers[image.id], image, evidence.spec)]
    found = sum(len(answer) for answer in answers.values())
    measures = (Measure("faults", len(faults), 0), Measure("images", len(answers)), Measure("detections", found))
    compared = len(evidence.images) + found
    if faults:
        image_id, words = faults[0]
        more = f" ({len(faults) - 1} more like it)" if len(faults) > 1 else ""
        return Judgement(Status.FAILED, f"image {image_id}: {words}{more}", compared, measures, image_id)
    if not found:
        return Judgement(Status.ERRORED, "compared nothing: no detection on any image of the deck", 0, measures)
    return Judgement(Status.PASSED, f"{found} detections on {len(answers)} images are in proper form", compared, measures)


def effective(evidence: Evidence) -> Judgement:
    """Precision class and device, read back from the runtime, are those that were asked for."""
    found = evidence.observed[Purpose.PARITY].effective
    differs = other_than_asked(evidence, found)
    if found is None or differs:
        return Judgement(Status.ERRORED, differs, 0 if found is None else 2)
    return Judgement(Status.PASSED, f"{found.precision} on {found.device} through {found.provider}, as asked", 2)


def other_than_asked(evidence: Evidence, found: Effective | None) -> str:
    """How the runtime differs from what was asked, in words; empty where it does not."""
    if found is None:
        return "the runtime did not say how it runs"
    if found.precision != evidence.variant.precision:
        return f"the effective precision is {found.precision}, asked was {evidence.variant.precision}"
    if device_kind(found.device) != evidence.cell.device:
        return f"the effective device is {found.device}, asked was {evidence.cell.device}"
    return ""


def device_kind(device: str) -> str:
    """``cuda:0`` is of the kind ``cuda``."""
    return device.partition(":")[0].lower()


def _deck_faults(images: tuple[Image, ...], answers: Mapping[str, Detections]) -> Iterator[tuple[str, str]]:
    for image in images:
        if image.id not in answers:
            yield image.id, "has no answer"
    for stranger in sorted(set(answers) - {image.id for image in images}):
        yield stranger, "is not in the deck, yet has an answer"


def _faults(found: Detections, image: Image, spec: ModelSpec) -> Iterator[str]:
    """What is wrong with one answer, in words, one fault of each kind."""
    width, height = image.width_px, image.height_px
    x1, y1, x2, y2 = found.boxes_xyxy_px.T
    scores = found.scores
    edge = np.array([width, height, width, height], np.float64) + levels.INSIDE_PX
    finite = np.isfinite(found.boxes_xyxy_px).all(axis=1)
    outside = finite & ((found.boxes_xyxy_px < -levels.INSIDE_PX) | (found.boxes_xyxy_px > edge)).any(axis=1)
    # In float32, as the detectors themselves compare: 0.7 is 0.69999999 there.
    below = scores < np.float32(spec.score_threshold)
    classes = len(spec.classes)

    def first(broken: NDArray[np.bool_] | np.bool_, words: str) -> Iterator[str]:
        for index in np.flatnonzero(broken)[:1]:
            box = ", ".join(f"{v:.6g}" for v in found.boxes_xyxy_px[index])
            yield f"detection {index} {words.format(box=box, score=scores[index], label=found.labels[index])}"

    yield from first(~finite, "has the box [{box}], which is not finite")
    yield from first(outside, f"has the box [{{box}}], outside the {width}x{height} px image by more than {levels.INSIDE_PX} px")
    yield from first((x2 < x1) | (y2 < y1), "has the box [{box}], whose corners are the wrong way round")
    yield from first(~((scores >= 0) & (scores <= 1)), "has the score {score}, outside 0..1")
    yield from first(below, f"has the score {{score}}, below the threshold {spec.score_threshold}")
    yield from first((found.labels < 0) | (found.labels >= classes), f"has the label {{label}}, of {classes} classes from 0")
    if len(found) > spec.detection_cap:
        yield f"{len(found)} detections, above the cap of {spec.detection_cap}"
    if len(found) and image.id == BLANK:
        yield f"{len(found)} detections on a blank picture"
    if len(found) and spec.task == "segmentation":
        yield from _mask_faults(found, image)


def _mask_faults(found: Detections, image: Image) -> Iterator[str]:
    if found.masks is None:
        yield "no masks, from a model that segments"
    elif found.masks.size_hw_px != (image.height_px, image.width_px):
        height, width = found.masks.size_hw_px
        yield f"masks of {width}x{height} px for an image of {image.width_px}x{image.height_px} px"


CHECKS = (
    Check(
        "contract.opens",
        "It builds, opens and answers",
        "The backend saves or converts the model, and in another process opens what it wrote and answers the deck, without "
        "an exception, a crash, or running past the limits of time and memory. Where this fails, the other checks of the "
        "cell are declined: there is nothing to compare. What usually breaks it: an operator that the conversion does not "
        "know, a library of another version, an artifact that cannot do without its source. What to do: the reason holds the "
        "error and the stage at which it came; the command below runs the same job again.",
        frozenset({Purpose.BUILD, Purpose.PARITY}),
        opens,
        handles=frozenset({Purpose.BUILD, Purpose.PARITY}),
    ),
    Check(
        "contract.well_formed",
        "Answers are in proper form",
        "One answer for each image of the deck; boxes finite, right way round and inside the image (a float32 rounding of "
        "0.001 px over the edge is allowed); scores in 0..1 and not below the model's threshold; labels within its classes; "
        "no more detections than its cap; masks of the image's size where the model segments; nothing on a blank picture. "
        "What usually breaks it: boxes left in the resized frame, clipping or the threshold lost in conversion, labels that "
        "count a background class. What to do: look at the named detection; its value shows which step was lost.",
        frozenset({Purpose.PARITY}),
        well_formed,
    ),
    Check(
        "contract.effective",
        "It runs as asked",
        "The precision class and the device that the runtime reports after opening are those that were asked for; where they "
        "are not, every comparison would be of something else, so that the parity checks of the cell are errored too. The "
        "levels take this as their precondition. What usually breaks it: a runtime that picks bf16 or TF32 by itself, an "
        "artifact stored in half precision, a GPU provider that could not start and fell back to the CPU without an error. "
        "What to do: set the precision or the provider in the variant, and read it back.",
        frozenset({Purpose.PARITY}),
        effective,
    ),
)
