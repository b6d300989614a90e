"""Does a backend answer as the reference does in what a detector gives besides boxes: masks, keypoints, panoptic segments?"""

from __future__ import annotations

from typing import Literal

import numpy as np

from harness import levels
from harness.checks import Evidence, Judgement
from harness.checks.parity import check, failed, spread
from harness.checks.reference import NoiseFloor
from harness.compare import Comparison, Pair
from harness.detections import Segment
from harness.pairs import Column, Quantity
from harness.types import Measure, Purpose, Status


def masks(_: Evidence, found: Comparison, __: NoiseFloor) -> Judgement:
    """Masks of matched detections overlap within the level, and flip only where the reference itself is in doubt."""
    iou, area, flips = (found.column(name) for name in ("mask_iou", "mask_area_px", "mask_unexplained_px"))
    level = levels.mask_iou_level(area)
    large = area >= levels.MASK_LARGE_AREA_PX
    small = ~large & (area >= levels.MASK_SMALL_AREA_PX)
    measures = (
        Measure("worst mask IoU, area from 1024 px", float(iou[large].min(initial=1.0)), levels.MASK_IOU_LARGE),
        Measure("worst mask IoU, area 64 to 1024 px", float(iou[small].min(initial=1.0)), levels.MASK_IOU_SMALL),
        *_ends(iou[large | small], 1, "mask IoU"),
        Measure("flipped away from the threshold", float(flips.sum()), 0, "px"),
        Measure("flipped", float(found.column("mask_flipped_px").sum()), unit="px"),
        Measure("compared", found.mask_pixels, unit="px"),
    )

    def iou_words(index: int, pair: Pair) -> str:
        return f"mask IoU of detection {pair.reference} on image {pair.image} is {iou[index]:.5f}, level {level[index]}"

    def flip_words(index: int, pair: Pair) -> str:
        where = f"mask of detection {pair.reference} on image {pair.image}"
        return f"{where}: {flips[index]:.0f} pixels flip that the reference has more than 0.01 from the threshold, level 0"

    fault = _left_out(found, "mask_iou", "a mask", measures)
    fault = fault or failed(found, "mask_iou", level - iou, iou_words, measures)
    fault = fault or failed(found, "mask_unexplained_px", flips, flip_words, measures)
    return fault or Judgement(Status.PASSED, f"{len(iou)} masks agree over {found.mask_pixels} px", len(iou), measures)


def raw_masks(evidence: Evidence, found: Comparison, floor: NoiseFloor) -> Judgement:
    """The mask head's probabilities of matched detections agree, value by value."""
    share, cosine = found.column("raw_mask_share"), found.column("raw_mask_cosine")
    for words, side in (("the reference", evidence.reference), ("this backend", evidence.observed)):
        if all(answer.raw_masks is None for answer in side[Purpose.PARITY].answers.values()):
            return Judgement(Status.DECLINED, f"{words} gives masks only after they are pasted: see parity.masks")
    level = levels.raw_share_level(floor.raw_mask_share)
    measures = (
        Measure("worst raw mask difference against its level", float(share.max(initial=0.0)), level),
        *_ends(share, 99, "raw mask difference against its level"),
        Measure("noise floor F of raw masks against their level", floor.raw_mask_share),
        Measure("worst raw mask cosine", float(cosine.min(initial=1.0)), levels.RAW_COSINE),
        *_ends(cosine, 1, "raw mask cosine"),
    )

    def share_words(index: int, pair: Pair) -> str:
        return f"raw mask of detection {pair.reference} on image {pair.image} differs by {share[index]:.3g} times its level"

    def cosine_words(index: int, pair: Pair) -> str:
        where = f"cosine of the raw masks of detection {pair.reference} on image {pair.image}"
        return f"{where} is {cosine[index]:.7f}, level {levels.RAW_COSINE}"

    fault = _left_out(found, "raw_mask_share", "a raw mask", measures)
    fault = fault or failed(found, "raw_mask_share", share / level, share_words, measures, beyond=1.0)
    fault = fault or failed(found, "raw_mask_cosine", levels.RAW_COSINE - cosine, cosine_words, measures)
    return fault or Judgement(Status.PASSED, f"{len(share)} raw masks within their level", len(share), measures)


def keypoints(evidence: Evidence, found: Comparison, _: NoiseFloor) -> Judgement:
    """The farthest keypoint of each matched detection within the level; their scores are reported."""
    apart = found.column("keypoint_px")
    count = len(apart) * len(evidence.spec.keypoints)
    measures = (
        *spread(found, "keypoint_px", "keypoint", levels.KEYPOINT_PX, "px"),
        Measure("worst keypoint score difference", found.worst("keypoint_score")),
        Measure("at a tied maximum", found.tied_keypoints, levels.certified_allowed(count), "keypoints"),
        Measure("compared", count, unit="keypoints"),
    )

    def words(index: int, pair: Pair) -> str:
        where = f"a keypoint of detection {pair.reference} on image {pair.image}"
        return f"{where} lies {apart[index]:.3g} px off, level {levels.KEYPOINT_PX} px"

    fault = _left_out(found, "keypoint_px", "keypoints", measures)
    fault = fault or failed(found, "keypoint_px", apart, words, measures, beyond=levels.KEYPOINT_PX)
    if fault is None and found.tied_keypoints > levels.certified_allowed(count):
        tied = f"{found.tied_keypoints} keypoints lie at another maximum of their heatmap, level {levels.certified_allowed(count)}"
        return Judgement(Status.FAILED, tied, len(apart), measures)
    passed = f"{count} keypoints within {levels.KEYPOINT_PX} px, the worst {found.worst('keypoint_px'):.2g} px"
    return fault or Judgement(Status.PASSED, passed, len(apart), measures)


def panoptic(evidence: Evidence, found: Comparison, _: NoiseFloor) -> Judgement:
    """The same segments on every picture, and nearly the same pixels in each."""
    given = [(image.image, image.segments) for image in found.images if image.segments is not None]
    pairs = sum(len(segments.pairs) for _, segments in given)
    unmatched = [(name, "missing", s) for name, segments in given for s in segments.missing]
    unmatched += [(name, "extra", s) for name, segments in given for s in segments.extra]
    quality = found.panoptic_quality
    measures = (
        Measure("segments on one side only", len(unmatched), 0),
        Measure("panoptic quality", quality if given else 0.0, levels.PANOPTIC_QUALITY),
        Measure("segments on both sides", pairs),
        Measure("pictures", len(given)),
    )
    compared = pairs + len(unmatched)
    if len(given) < len(found.images):
        held = {name for name, _ in given}
        first = next(image.image for image in found.images if image.image not in held)
        pictures = f"{len(found.images) - len(given)} of {len(found.images)} pictures"
        words = f"{pictures} have panoptic segments on one side only, on none, or of another size"
        return Judgement(Status.FAILED, words, len(found.images), measures, first)
    if unmatched:
        name, side, segment = unmatched[0]
        words = f"a segment of {_label(evidence, segment)} is {side} on image {name} ({len(unmatched)} in all, level 0)"
        return Judgement(Status.FAILED, words, compared, measures, name)
    if not pairs:
        return Judgement(Status.ERRORED, "compared nothing: neither side has a segment on any picture", 0, measures)
    if quality < levels.PANOPTIC_QUALITY:
        iou, name = min((iou, name) for name, segments in given for _, _, iou in segments.pairs)
        words = f"panoptic quality is {quality:.5f}, level {levels.PANOPTIC_QUALITY}; the worst segment has an IoU of {iou:.5f}"
        return Judgement(Status.FAILED, f"{words}, on image {name}", compared, measures, name)
    return Judgement(Status.PASSED, f"{pairs} segments agree, panoptic quality {quality:.5f}", compared, measures)


def _label(evidence: Evidence, segment: Segment) -> str:
    names = evidence.spec.classes if segment.is_thing else evidence.spec.stuff
    return names[segment.label] if 0 <= segment.label < len(names) else f"label {segment.label} of {len(names)}"


def _ends(column: Column, percentile: int, name: str) -> tuple[Measure, ...]:
    """The percentile towards the worst and the median, where there is something."""
    if not len(column):
        return ()
    worse: Literal["lower", "higher"] = "lower" if percentile < 50 else "higher"
    near, middle = (float(np.percentile(column, p, method=worse)) for p in (percentile, 50))
    return (Measure(f"{percentile}{'st' if percentile == 1 else 'th'} percentile {name}", near), Measure(f"median {name}", middle))


def _left_out(found: Comparison, quantity: Quantity, what: str, measures: tuple[Measure, ...]) -> Judgement | None:
    """Failed, where matched detections have an output on one side only, or on none; else None."""
    absent = found.judged - len(found.column(quantity))
    if not absent:
        return None
    words = f"{absent} of {found.judged} matched detections have {what} on one side only, or on none"
    return Judgement(Status.FAILED, words, found.judged, measures)


CHECKS = (
    check(
        "masks",
        "The same masks",
        "Masks of matched detections have an IoU of at least 0.999 from 1024 px of area and 0.99 from 64 px, and every pixel "
        "that flips lies within 0.01 of the threshold in the reference. What usually breaks it: pasting by another "
        "interpolation, masks rounded before they are resized, boxes rounded before they are pasted. What to do: see the "
        "boxes first; a mask cannot agree in a box that does not.",
        masks,
        output="masks",
        compares=("masks",),
    ),
    check(
        "raw_masks",
        "The same raw masks",
        "What the mask head gives for matched detections before it is pasted into their boxes, probabilities in 0..1, differs "
        "in no value by more than 1e-5 of the largest and 1e-4 of the value, or four times what the reference's own repeats "
        "differ by, and never by ten times that level; the cosine is at least 0.99999, and nothing is not a number or "
        "infinite. Declined where a side gives pasted masks only. What usually breaks it: the pooling of the mask branch, a "
        "sigmoid lost or done twice, the mask of another class. What to do: if parity.masks fails and this passes, look at the "
        "pasting; if both do, at the mask head and its pooling.",
        raw_masks,
        output="masks",
        compares=("raw_masks",),
    ),
    check(
        "keypoints",
        "The same keypoints",
        "No keypoint of a matched detection lies more than 0.1 px from the reference's; the difference of their scores is "
        "reported, not judged. What usually breaks it: heatmaps resized by another interpolation, half a pixel lost when a "
        "cell becomes a coordinate, keypoints not scaled back as the boxes are, the order of left and right. What to do: a "
        "difference of about one heatmap cell at few points is two maxima nearly tied; one at all points is an offset.",
        keypoints,
        output="keypoints",
        compares=("keypoints",),
    ),
    check(
        "panoptic",
        "The same panoptic segments",
        "On every picture the same things and the same stuff, matched by class and an IoU above 0.5, none missing and none "
        "extra, and a panoptic quality of at least 0.999 with the reference as the truth. What usually breaks it: another "
        "resize of the semantic logits, another order in which detections take their pixels, thresholds of the combination "
        "left out. What to do: see the masks first, then the named segment's picture.",
        panoptic,
        output="panoptic",
        compares=("panoptic",),
    ),
)
