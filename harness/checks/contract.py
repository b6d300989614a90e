"""What every backend must do before anything is compared: open, answer in proper form, and run as it was asked to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from harness import levels
from harness.behaviour import BLANK
from harness.checks import Check, Evidence, Judgement
from harness.checks.rules import broke
from harness.detections import Detections
from harness.types import Effective, Image, Measure, ModelSpec, Purpose, Status


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
    if evidence.variant.precision not in ("default", found.precision):
        return f"the effective precision is {found.precision}, asked was {evidence.variant.precision}"
    device = evidence.variant.device or evidence.cell.device
    if device not in ("any", device_kind(found.device)):
        return f"the effective device is {found.device}, asked was {device}"
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
    if len(found) and "masks" in spec.outputs:
        yield from _mask_faults(found, image)
    if len(found) and "keypoints" in spec.outputs:
        yield from _keypoint_faults(found, image, spec)
    if "panoptic" in spec.outputs:
        yield from _panoptic_faults(found, image, spec)


def _mask_faults(found: Detections, image: Image) -> Iterator[str]:
    if found.masks is None:
        yield "no masks, from a model that segments"
    elif found.masks.size_hw_px != (image.height_px, image.width_px):
        height, width = found.masks.size_hw_px
        yield f"masks of {width}x{height} px for an image of {image.width_px}x{image.height_px} px"


def _keypoint_faults(found: Detections, image: Image, spec: ModelSpec) -> Iterator[str]:
    """The detectors known here read keypoints off a heatmap over the box: they cannot lie outside it."""
    if found.keypoints is None:
        yield "no keypoints, from a model that finds them"
        return
    if found.keypoints.shape[1:] != (len(spec.keypoints), 3):
        yield f"keypoints of shape {list(found.keypoints.shape)}, not [{len(found)}, {len(spec.keypoints)}, 3]"
        return
    slack_px = levels.KEYPOINT_OUTSIDE * np.array([image.width_px, image.height_px])
    places = found.keypoints[:, :, :2].astype(np.float64)
    low, high = found.boxes_xyxy_px[:, None, :2] - slack_px, found.boxes_xyxy_px[:, None, 2:] + slack_px
    finite = np.isfinite(found.keypoints).all(axis=2)
    outside = finite & ((places < low) | (places > high)).any(axis=2)
    for broken, words in ((~finite, "which is not finite"), (outside, "outside its box by more than 1 % of the image")):
        for index, point in np.argwhere(broken)[:1]:
            values = ", ".join(f"{value:.6g}" for value in found.keypoints[index, point])
            yield f"detection {index} has the keypoint {spec.keypoints[point]} at [{values}], {words}"


def _panoptic_faults(found: Detections, image: Image, spec: ModelSpec) -> Iterator[str]:
    if found.panoptic is None:
        yield "no panoptic segments, from a model that finds them"
        return
    height, width = found.panoptic.ids.shape
    if (height, width) != (image.height_px, image.width_px):
        yield f"panoptic segments of {width}x{height} px for an image of {image.width_px}x{image.height_px} px"
    for segment in found.panoptic.segments:
        kind, names = ("thing", spec.classes) if segment.is_thing else ("stuff", spec.stuff)
        if not 0 <= segment.label < len(names):
            yield f"segment {segment.id} has the label {segment.label}, of {len(names)} kinds of {kind} from 0"
        if segment.score is not None and not 0 <= segment.score <= 1:
            yield f"segment {segment.id} has the score {segment.score:.6g}, outside 0..1"
        if segment.is_thing and image.id == BLANK:
            yield f"segment {segment.id} is a thing on a blank picture"
        if not (found.panoptic.ids == segment.id).any():
            yield f"segment {segment.id} has no pixel"


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
        "no more detections than its cap; where the model gives them, masks and panoptic segments of the image's size, segments "
        "of its classes and stuff, keypoints finite and inside their box (1 % of the image's side over its edge is allowed, as a "
        "box below a pixel of the resized picture is taken for a whole one); nothing on a blank picture. "
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
