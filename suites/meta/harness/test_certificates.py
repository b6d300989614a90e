"""A certificate is given within its margin and never beyond it, and only for the answer that the tie would give."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.certificates import NONE, Certificate, Certificates, certificates, excused_keypoints
from harness.compare import compare
from harness.detections import Detections
from harness.ledger import KeypointTies, Ledger, Selection
from harness.match import match
from harness.suites.meta.harness.answers import THRESHOLD, changed, deck, detections, without
from harness.suites.meta.harness.ledgers import LIMITS, SIZE_HW_PX, answer, contest, ledger, replayed, selection, selections

pytestmark = pytest.mark.covers("M21")

FAR = ((100.0, 60.0, 140.0, 100.0), 0.9, 0)
BOX = (10.0, 10.0, 50.0, 50.0)
margins = st.floats(-3e-4, 3e-4).filter(lambda margin: abs(abs(margin) - LIMITS.score_tolerance) > 1e-7)


def certified(known: Ledger, candidate: Detections, reference: Detections | None = None) -> Certificates:
    own = answer(known) if reference is None else reference
    return certificates(own, candidate, match(own, candidate), LIMITS, known)


def taking(known: Ledger, rows: Sequence[int]) -> Detections:
    return answer(known, np.array(rows, np.intp))


@given(margins)
@settings(deadline=None)
def test_a_score_is_on_the_threshold_within_the_tolerance_and_no_further(margin: float) -> None:
    known = ledger([FAR, (BOX, THRESHOLD + margin, 1)])
    with_it, without_it = taking(known, [0, 1]), taking(known, [0])
    found = certified(known, without_it if len(answer(known)) == 2 else with_it)
    tied = [Certificate.THRESHOLD] if abs(margin) <= LIMITS.score_tolerance else []
    assert [*found.missing.values(), *found.extra.values()] == tied
    assert found.count == len(tied)


@given(margins.filter(lambda margin: margin > 1e-7), st.booleans())
@settings(deadline=None)
def test_rivals_are_tied_within_the_tolerance_and_no_further(margin: float, near: bool) -> None:
    # Near, the two are a matched pair; else, with an IoU between NMS's threshold and matching's, one is missing and one extra.
    loser = (14.0, 10.0, 54.0, 50.0) if near else (26.0, 10.0, 66.0, 50.0)
    known = ledger([FAR, (BOX, 0.5 + margin, 0), (loser, 0.5, 0)], overlap=0.3)
    found = certified(known, taking(known, [0, 2]))
    tied = [Certificate.RIVALS] if margin <= LIMITS.score_tolerance else []
    assert list(found.pairs.values()) == (tied if near else [])
    assert list(found.missing.values()) == list(found.extra.values()) == ([] if near else tied)
    assert found.counts == dict.fromkeys(tied, 1)


@given(st.floats(-0.1, 0.1))
@settings(deadline=None)
def test_an_overlap_is_on_the_threshold_when_the_boxes_could_move_it_there(shift: float) -> None:
    # Of two boxes of 40 px, shifted by s, the IoU is (40 - s) / (40 + s): a half at 40 / 3. All eight edges, if each moved by the
    # level of 0.01 px, could move it as far as about 0.065 px of shift.
    assume(abs(abs(shift) - 0.065) > 0.02)
    known = ledger([(BOX, 0.9, 0), ((10.0 + 40 / 3 + shift, 10.0, 50.0 + 40 / 3 + shift, 50.0), 0.5, 0)])
    other = taking(known, [0]) if len(answer(known)) == 2 else taking(known, [0, 1])
    found = certified(known, other)
    assert [*found.missing.values(), *found.extra.values()] == ([Certificate.OVERLAP] if abs(shift) < 0.065 else [])


@given(margins.filter(lambda margin: margin > 1e-7), st.booleans())
@settings(deadline=None)
def test_the_last_rank_is_tied_within_the_tolerance_and_no_further(margin: float, one_object: bool) -> None:
    place = BOX if one_object else (60.0, 10.0, 90.0, 40.0)
    known = ledger([FAR, (BOX, 0.5 + margin, 0), (place, 0.5, 1)], cap=2)
    found = certified(known, taking(known, [0, 2]))
    kind = Certificate.CLASSES if one_object else Certificate.CAP
    assert found.counts == ({kind: 1} if margin <= LIMITS.score_tolerance else {})
    # In two classes of one place the two are a matched pair.
    assert (len(found.pairs) == 1) == (one_object and margin <= LIMITS.score_tolerance)


def test_the_last_rank_before_suppression() -> None:
    rows = [FAR, (BOX, 0.5 + 5e-5, 0), ((60.0, 10.0, 90.0, 40.0), 0.5, 0)]
    assert certified(ledger(rows, pool_size=2), taking(ledger(rows), [0, 2])).counts == {Certificate.POOL: 1}
    assert certified(ledger(rows, pool_size=1), taking(ledger(rows), [0, 2])).counts == {}


def two_stages(gap: float) -> Ledger:
    """Two proposals that rival each other, the logit of the second lower by ``gap``, and what the box head makes of either."""
    apart = [(FAR[0], 5.0, 0), (BOX, 2.0, 0), ((12.0, 10.0, 52.0, 50.0), 2.0 - gap, 0)]
    proposals = selection(apart, threshold=-np.inf, cap=0, logits=True)
    rows = [FAR, ((11.0, 11.0, 49.0, 49.0), 0.7, 1), ((11.3, 11.0, 49.2, 49.0), 0.65, 1)]
    return Ledger(SIZE_HW_PX, SIZE_HW_PX, selection(rows, sources=np.array([0, 1, 2], np.int32)), proposals)


def test_a_tied_proposal_certifies_the_detection_that_it_becomes() -> None:
    known = two_stages(1e-4)
    assert replayed(known).tolist() == [0, 1]
    found = certified(known, taking(known, [0, 2]))
    assert found.counts == {Certificate.PROPOSALS: 1}
    assert len(found.pairs) == 1


def test_a_proposal_that_clearly_won_certifies_nothing() -> None:
    known = two_stages(5e-4)
    assert certified(known, taking(known, [0, 2])).count == 0


def test_a_tied_proposal_does_not_certify_another_detection() -> None:
    known = two_stages(1e-4)
    moved = changed(taking(known, [0, 2]), box_px=0.2, index=1)
    assert certified(known, moved).count == 0
    assert certified(known, taking(known, [0])).count == 0


def test_a_dropped_detection_is_not_excused_by_a_tie_with_one_that_is_not_there() -> None:
    known = ledger([FAR, (BOX, 0.5 + 5e-5, 0), ((14.0, 10.0, 54.0, 50.0), 0.5, 0)])
    assert certified(known, taking(known, [0])).count == 0
    assert certified(known, taking(known, [0, 1, 2])).count == 0


def test_what_follows_from_a_tie_is_certified_with_it() -> None:
    # The second overlaps both of the others: once it wins against the first, it suppresses the last as well.
    known = ledger([(BOX, 0.5 + 5e-5, 0), ((18.0, 10.0, 58.0, 50.0), 0.5, 0), ((26.0, 10.0, 66.0, 50.0), 0.3, 0)])
    assert replayed(known).tolist() == [0, 2]
    found = certified(known, taking(known, [1]))
    assert (found.counts, list(found.pairs), list(found.missing)) == ({Certificate.RIVALS: 2}, [0], [1])


@given(selections(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_every_tie_decided_the_other_way_is_certified_in_full(rows: Selection, random: object) -> None:
    known = Ledger(SIZE_HW_PX, SIZE_HW_PX, rows)
    everything = np.ones(len(rows), np.bool_)
    ties = list(contest(known).ties(everything, contest(known).undecided(everything, everything)))
    assume(ties)
    reference, candidate = answer(known), answer(known, replayed(known, [random.choice(ties)]))  # type: ignore[attr-defined]
    found = compare({"a": reference}, {"a": candidate}, LIMITS, ledgers={"a": known})
    assert found.unexplained == 0
    assert found.worst("class_differs") == 0
    assert found.worst("score") <= LIMITS.score_tolerance


@given(selections(), st.permutations(range(20)), st.permutations(range(20)), st.integers(0, 19))
@settings(deadline=None)
def test_blind_to_the_order_of_either_answer(rows: Selection, first: list[int], second: list[int], dropped: int) -> None:
    known = Ledger(SIZE_HW_PX, SIZE_HW_PX, rows)
    reference = answer(known)
    assume(len(reference))
    candidate = without(reference, dropped % len(reference))
    plain = certified(known, candidate)
    mine = [i for i in first if i < len(reference)]
    theirs = [i for i in second if i < len(candidate)]
    found = certified(known, candidate.take(theirs), reference.take(mine))
    assert found.counts == plain.counts
    assert sorted(mine[i] for i in found.missing) == sorted(plain.missing)


@given(selections(), st.integers(0, 19), st.floats(0.05, 5), st.booleans())
@settings(deadline=None)
def test_nothing_that_the_ledger_does_not_know_is_certified(rows: Selection, at: int, px: float, dropped: bool) -> None:
    known = Ledger(SIZE_HW_PX, SIZE_HW_PX, rows)
    reference = answer(known)
    invented = detections([(100, 60, 100 + 20 + px, 90)], [0.5], [1])
    candidate = detections(
        [*reference.boxes_xyxy_px.tolist(), *invented.boxes_xyxy_px.tolist()], [*reference.scores, 0.5], [*reference.labels, 1]
    )
    if dropped and len(reference):
        candidate = without(candidate, at % len(reference))
    found = certified(known, candidate)
    unknown = len(candidate) - 1
    assert unknown not in found.extra


@given(selections())
@settings(deadline=None)
def test_a_ledger_of_another_answer_explains_nothing(rows: Selection) -> None:
    known = Ledger(SIZE_HW_PX, SIZE_HW_PX, rows)
    reference = answer(known)
    assume(len(reference))
    other = changed(reference, score=0.01)
    assert certified(known, without(other, len(other) - 1), other).count == 0


@given(selections())
@settings(deadline=None)
def test_equal_answers_need_no_certificate(rows: Selection) -> None:
    known = Ledger(SIZE_HW_PX, SIZE_HW_PX, rows)
    assert certified(known, answer(known)) is NONE


def test_boxes_outside_the_image_are_known_as_they_are_answered() -> None:
    known = ledger([FAR, ((-5.0, -5.0, 30.0, 30.0), THRESHOLD + 5e-5, 0)])
    assert answer(known).boxes_xyxy_px.min() == 0
    assert certified(known, taking(known, [0])).counts == {Certificate.THRESHOLD: 1}


def test_a_certified_pair_is_counted_and_not_judged() -> None:
    known = ledger([FAR, (BOX, 0.5 + 5e-5, 0), ((14.0, 10.0, 54.0, 50.0), 0.5, 0)])
    candidate = deck(a=taking(known, [0, 2]))
    found = compare(deck(a=answer(known)), candidate, LIMITS, ledgers={"a": known})
    assert (found.matched, found.judged, found.certified, found.unexplained) == (2, 1, 1, 0)
    assert found.certified_by == {Certificate.RIVALS: 1}
    assert (found.worst("box_px"), len(found.column("score"))) == (0, 1)
    assert found.pair("score", 0)[1:] == (0, 0)
    assert found.worst_image() == "a"
    plain = compare(deck(a=answer(known)), candidate, LIMITS)
    assert (plain.certified, plain.worst("box_px")) == (0, 4)


class TestKeypoints:
    ties = KeypointTies(np.array([1], np.int32), np.array([0], np.int32), np.array([(40.0, 20.0)], np.float32))
    known = dataclasses.replace(ledger([FAR]), keypoints=ties)
    reference = np.array([[(10, 20, 1), (11, 21, 1)], [(30, 20, 1), (31, 21, 1)]], np.float32)

    def excused(self, x: float, known: Ledger | None = None, point: int = 0) -> list[list[bool]]:
        candidate = self.reference.copy()
        candidate[1, point, 0] = x
        held = self.known if known is None else known
        return excused_keypoints(held, np.array([0, 1]), self.reference, candidate).tolist()

    def test_the_tied_place_is_excused_and_no_other(self) -> None:
        assert self.excused(40.05) == [[False, False], [True, False]]
        assert self.excused(40.11) == [[False, False], [False, False]]
        assert self.excused(40.0, point=1) == [[False, False], [False, False]]

    def test_a_keypoint_within_its_level_needs_no_excuse(self) -> None:
        here = dataclasses.replace(self.ties, places_xy_px=np.array([(30.05, 20.0)], np.float32))
        known = dataclasses.replace(self.known, keypoints=here)
        assert self.excused(30.05, known) == [[False, False], [False, False]]

    def test_without_a_ledger_or_its_keypoints_nothing_is(self) -> None:
        assert self.excused(40.0, ledger([FAR])) == [[False, False], [False, False]]
        assert not excused_keypoints(None, np.array([0, 1]), self.reference, self.reference + 1).any()
