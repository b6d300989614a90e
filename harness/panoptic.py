"""Panoptic quality: how far two ways to divide a picture into segments agree (Kirillov et al., CVPR 2019).

Two segments of one category match when their IoU is above 0.5, which no two of one side can both reach with the same partner. A
category's quality is the sum of the matched IoUs over the matches plus half of what has no partner; the figure is the mean over the
categories that occur on either side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from harness.detections import Panoptic, Segment

MATCH_IOU = 0.5

Category = tuple[bool, int]
"""Whether it is a thing, and its label."""


@dataclass(slots=True)
class _Tally:
    iou: float = 0.0
    matched: int = 0
    unmatched: int = 0

    @property
    def quality(self) -> float:
        return self.iou / (self.matched + self.unmatched / 2)


@dataclass(frozen=True, slots=True)
class SegmentMatching:
    """The segments of two answers to one picture: pairs with their IoU, and those of either side without a partner."""

    pairs: tuple[tuple[Segment, Segment, float], ...] = ()
    missing: tuple[Segment, ...] = field(default=())
    extra: tuple[Segment, ...] = field(default=())


def match_segments(reference: Panoptic, candidate: Panoptic) -> SegmentMatching:
    """Pairs of one category with an IoU above 0.5; the same seen from either side.

    What a side gives to nothing (id 0) is no segment, but it is not forgiven either, as COCO forgives unlabelled pixels of a truth:
    here a candidate that fills them in differs. Raises `ValueError` for pictures of unlike sizes.
    """
    if reference.ids.shape != candidate.ids.shape:
        raise ValueError(f"segments of pictures of {reference.ids.shape} and {candidate.ids.shape} px (height, width)")
    shared = _shared(reference, candidate)
    mine_px, theirs_px = (_areas(side) for side in (reference, candidate))
    partners = {segment.id: segment for segment in candidate.segments}
    pairs = []
    for mine in reference.segments:
        for other, common in shared[mine.id].items():
            theirs = partners.get(other)
            if theirs is None or (mine.is_thing, mine.label) != (theirs.is_thing, theirs.label):
                continue
            iou = common / (mine_px[mine.id] + theirs_px[other] - common)
            if iou > MATCH_IOU:
                pairs.append((mine, theirs, iou))
    held = {mine.id for mine, _, _ in pairs}, {theirs.id for _, theirs, _ in pairs}
    missing = tuple(segment for segment in reference.segments if segment.id not in held[0])
    extra = tuple(segment for segment in candidate.segments if segment.id not in held[1])
    return SegmentMatching(tuple(pairs), missing, extra)


def match_to_truth(truth: Panoptic, answer: Panoptic | None) -> SegmentMatching:
    """As `match_segments`; of who gives no segments, or those of another size, all of the truth's are missing."""
    if answer is None or answer.ids.shape != truth.ids.shape:
        return SegmentMatching(missing=truth.segments, extra=() if answer is None else answer.segments)
    return match_segments(truth, answer)


def panoptic_quality(matchings: Iterable[SegmentMatching]) -> float:
    """PQ in 0..1 over a deck, the mean over categories; NaN where neither side has a segment."""
    tallies: dict[Category, _Tally] = defaultdict(_Tally)
    for matching in matchings:
        for mine, _, iou in matching.pairs:
            tally = tallies[mine.is_thing, mine.label]
            tally.iou += iou
            tally.matched += 1
        for segment in (*matching.missing, *matching.extra):
            tallies[segment.is_thing, segment.label].unmatched += 1
    return float(np.mean([tally.quality for tally in tallies.values()])) if tallies else float("nan")


def _areas(side: Panoptic) -> dict[int, int]:
    ids, counts = np.unique(side.ids, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _shared(reference: Panoptic, candidate: Panoptic) -> dict[int, dict[int, int]]:
    """By id of the reference and id of the candidate, how many pixels have both."""
    both = reference.ids.astype(np.int64) << 32 | candidate.ids.astype(np.int64) & 0xFFFFFFFF
    shared: dict[int, dict[int, int]] = defaultdict(dict)
    for pair, count in zip(*np.unique(both, return_counts=True), strict=True):
        shared[int(pair >> 32)][int(np.int64(pair).astype(np.int32))] = int(count)
    return shared
