"""Segments are matched as COCO's panoptic evaluation does, alike from either side."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.detections import Panoptic, Segment
from harness.panoptic import SegmentMatching, match_segments, panoptic_quality

pytestmark = pytest.mark.covers("M21")

IDS = (-7, 3, 2**31 - 1)


@st.composite
def panoptics(draw: st.DrawFn) -> Panoptic:
    ids = draw(arrays.arrays(np.int32, (4, 6), elements=st.sampled_from([0, *IDS])))
    kinds = draw(st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=len(IDS), max_size=len(IDS)))
    return Panoptic(ids, tuple(Segment(i, label, thing) for i, (label, thing) in zip(IDS, kinds, strict=True)))


def by_definition(reference: Panoptic, candidate: Panoptic) -> set[tuple[int, int, float]]:
    """Every pair of segments, tried one by one."""
    found = set()
    for mine in reference.segments:
        for theirs in candidate.segments:
            a, b = reference.ids == mine.id, candidate.ids == theirs.id
            iou = (a & b).sum() / max((a | b).sum(), 1)
            if (mine.is_thing, mine.label) == (theirs.is_thing, theirs.label) and iou > 0.5:
                found.add((mine.id, theirs.id, float(iou)))
    return found


def as_set(found: SegmentMatching) -> set[tuple[int, int, float]]:
    return {(mine.id, theirs.id, iou) for mine, theirs, iou in found.pairs}


@given(panoptics(), panoptics())
@settings(deadline=None)
def test_every_pair_is_found_and_no_other_each_segment_once(a: Panoptic, b: Panoptic) -> None:
    found = match_segments(a, b)
    assert as_set(found) == by_definition(a, b)
    assert sorted(s.id for s in (*(mine for mine, _, _ in found.pairs), *found.missing)) == sorted(IDS)
    assert sorted(s.id for s in (*(theirs for _, theirs, _ in found.pairs), *found.extra)) == sorted(IDS)


@given(panoptics(), panoptics())
@settings(deadline=None)
def test_symmetric(a: Panoptic, b: Panoptic) -> None:
    there, back = match_segments(a, b), match_segments(b, a)
    assert as_set(there) == {(mine, theirs, iou) for theirs, mine, iou in as_set(back)}
    assert (there.missing, there.extra) == (back.extra, back.missing)
    assert panoptic_quality([there]) == pytest.approx(panoptic_quality([back]), nan_ok=True)


@given(panoptics(), st.permutations(IDS))
@settings(deadline=None)
def test_blind_to_the_numbers_and_the_order_of_segments(a: Panoptic, names: list[int]) -> None:
    renamed = dict(zip(IDS, names, strict=True))
    ids = np.vectorize(lambda i: renamed.get(int(i), 0), otypes=[np.int32])(a.ids)
    other = Panoptic(ids, tuple(dataclasses.replace(s, id=renamed[s.id]) for s in reversed(a.segments)))
    shown = sum((a.ids == segment.id).any() for segment in a.segments)
    found = match_segments(a, other)
    assert len(found.pairs) == shown
    assert all(iou == 1 for _, _, iou in found.pairs)


def halves(left_px: int, stuff: int = 1) -> Panoptic:
    """So many columns of 20 a thing, the others stuff of that label."""
    ids = np.full((10, 20), 2, np.int32)
    ids[:, :left_px] = 1
    return Panoptic(ids, (Segment(1, 0, is_thing=True), Segment(2, stuff, is_thing=False)))


@given(st.sets(st.integers(0, 9), min_size=2, max_size=2))
def test_the_further_a_border_moves_the_worse_the_quality(steps_px: set[int]) -> None:
    near, far = (panoptic_quality([match_segments(halves(10), halves(10 - px))]) for px in sorted(steps_px))
    assert near > far


def test_quality_is_kirillovs() -> None:
    # 10 x 10 px against 8 x 10 px of a thing: 0.8; 10 x 10 against 12 x 10 of stuff: 10 / 12.
    assert panoptic_quality([match_segments(halves(10), halves(8))]) == pytest.approx((0.8 + 10 / 12) / 2)


def test_a_segment_of_another_class_is_missing_and_extra() -> None:
    found = match_segments(halves(10), halves(10, stuff=0))
    assert [s.label for s in found.missing] == [1]
    assert [s.label for s in found.extra] == [0]
    assert panoptic_quality([found]) == pytest.approx(1 / 3)


def test_filling_in_what_the_reference_leaves_to_nothing_is_seen() -> None:
    empty = np.zeros((10, 20), np.int32)
    found = match_segments(Panoptic(empty, ()), Panoptic(empty + 1, (Segment(1, 0, is_thing=False),)))
    assert len(found.extra) == 1


def test_no_segment_has_no_quality_and_unlike_sizes_no_match() -> None:
    nothing = Panoptic(np.zeros((2, 2), np.int32), ())
    assert math.isnan(panoptic_quality([match_segments(nothing, nothing)]))
    with pytest.raises(ValueError, match="segments of pictures of"):
        match_segments(nothing, Panoptic(np.zeros((2, 3), np.int32), ()))
