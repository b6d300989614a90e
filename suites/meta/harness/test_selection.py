"""A selection replayed is the one a plain loop makes; and no sound difference decides a row that was said to be decided."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.ledger import Selection
from harness.selection import Contest, Tie, iou_between
from harness.suites.meta.harness.ledgers import LIMITS, selection, selections

pytestmark = pytest.mark.covers("M21")

ONE = (1.0, 1.0)


def made(rows: Selection) -> Contest:
    return Contest(rows, ONE, LIMITS.score_tolerance, LIMITS.box_floor_px)


def plainly(rows: Selection) -> list[int]:
    """The same selection, row by row."""
    order = sorted(range(len(rows)), key=lambda row: -rows.scores[row])
    ranked = [row for row in order if rows.scores[row] > rows.threshold]
    if rows.pool_size:
        ranked = [r for r in ranked if sum(rows.pools[q] == rows.pools[r] for q in ranked[: ranked.index(r)]) < rows.pool_size]
    kept: list[int] = []
    for row in ranked:
        rivals = [other for other in kept if rows.groups[other] == rows.groups[row]]
        if rows.fit[row] and all(iou(rows.boxes_xyxy_px[row], rows.boxes_xyxy_px[other]) <= rows.overlap for other in rivals):
            kept.append(row)
    return kept[: rows.cap] if rows.cap else kept


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]).astype(float) - np.maximum(a[:2], b[:2]), 0, None)
    union = sum(float(np.prod((box[2:] - box[:2]).astype(float))) for box in (a, b)) - sides.prod()
    return float(sides.prod() / union)


@given(selections())
@settings(deadline=None)
def test_a_replay_is_the_selection_made_row_by_row(rows: Selection) -> None:
    assert made(rows).kept().tolist() == plainly(rows)


@given(selections(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=200)
def test_only_undecided_rows_change_when_scores_and_boxes_move_within_tolerance(rows: Selection, seed: int) -> None:
    random = np.random.default_rng(seed)
    contest = made(rows)
    everything = np.ones(len(rows), np.bool_)
    undecided = contest.undecided(everything, everything)
    # Two scores that each move by half of the tolerance change places only if they were tied.
    scores = rows.scores + random.choice([-0.49, 0.0, 0.49], len(rows)) * LIMITS.score_tolerance
    boxes = rows.boxes_xyxy_px + random.choice([-0.99, 0.0, 0.99], (len(rows), 4)) * contest.moves_px[:, None]
    moved = dataclasses.replace(rows, scores=scores.astype(np.float32), boxes_xyxy_px=boxes.astype(np.float32))
    changed = set(contest.kept().tolist()) ^ set(made(moved).kept().tolist())
    assert changed <= set(np.flatnonzero(undecided).tolist())


@given(selections())
@settings(deadline=None)
def test_a_flipped_tie_changes_only_undecided_rows(rows: Selection) -> None:
    contest = made(rows)
    everything = np.ones(len(rows), np.bool_)
    undecided = contest.undecided(everything, everything)
    before = set(contest.kept().tolist())
    for tie in contest.ties(everything, undecided):
        assert before ^ set(contest.kept(None, [tie]).tolist()) <= set(np.flatnonzero(undecided).tolist()), tie


@given(selections(most=6))
@settings(deadline=None)
def test_every_tie_is_within_its_tolerance(rows: Selection) -> None:
    contest = made(rows)
    everything = np.ones(len(rows), np.bool_)
    for tie in contest.ties(everything, everything):
        a, b = tie.first, tie.second
        if tie.kind == "threshold":
            assert abs(float(rows.scores[a]) - rows.threshold) <= LIMITS.score_tolerance
        elif tie.kind == "order":
            assert abs(float(rows.scores[a]) - float(rows.scores[b])) <= LIMITS.score_tolerance
        else:
            assert rows.groups[a] == rows.groups[b]


@pytest.mark.parametrize(("margin", "tied"), [(0.0, True), (0.99e-4, True), (1.01e-4, False), (-0.99e-4, True), (-1.01e-4, False)])
def test_the_tolerance_of_a_score_is_met_from_either_side(margin: float, tied: bool) -> None:
    rows = selection([((0, 0, 20, 20), 0.05 + margin, 0)])
    everything = np.ones(1, np.bool_)
    assert made(rows).undecided(everything, everything)[0] == tied
    assert list(made(rows).ties(everything, everything)) == ([Tie("threshold", 0, 0)] if tied else [])


def test_a_logit_has_the_tolerance_of_a_raw_tensor() -> None:
    # The largest is 20: 2e-4 of it, and 1e-4 of 10, for the others.
    rows = [((0, 0, 20, 20), 20.0, 0), ((50, 50, 70, 70), 10.0, 0), ((50, 50, 71, 70), 10.0 - 1.1e-3, 0)]
    figures = {"threshold": -np.inf, "logits": True}
    tied, apart = selection(rows, **figures), selection([*rows[:2], (rows[2][0], 10.0 - 1.3e-3, 0)], **figures)
    everything = np.ones(3, np.bool_)
    assert made(tied).undecided(everything, everything).tolist() == [False, True, True]
    assert not made(apart).undecided(everything, everything).any()


boxes = st.tuples(*[st.floats(0, 50)] * 2, *[st.floats(1, 60)] * 2).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@given(st.lists(boxes, min_size=2, max_size=4), st.floats(0, 0.4), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_no_boxes_that_move_by_less_pass_the_bounds_of_their_iou(
    given_boxes: list[tuple[float, ...]], move: float, seed: int
) -> None:
    held = np.array(given_boxes)
    moves = np.full(len(held), move)
    corners = held + np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], held.shape) * move
    least, most = iou_between(held, -moves), iou_between(held, moves)
    reached = iou_between(corners, np.zeros(len(held)))
    apart = ~np.eye(len(held), dtype=bool)
    assert (least <= reached + 1e-9)[apart].all()
    assert (reached <= most + 1e-9)[apart].all()
    assert (iou_between(held, np.zeros(len(held))) <= most + 1e-9).all()
