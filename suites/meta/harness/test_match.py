"""Sets of detections: the assignment is optimal, fair and blind to order."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.detections import Detections
from harness.match import CLASS_BONUS, MIN_OVERLAP, SCORE_BONUS, Matching, match, overlap
from harness.suites.meta.harness.answers import answers_strategy, changed, detections, grid, without

pytestmark = pytest.mark.covers("M21")


def overlaps(a: np.ndarray, b: np.ndarray, growth_px: float = 0.5) -> np.ndarray:
    """Every box of ``a`` with every box of ``b``."""
    return overlap(a[:, None], b[None], growth_px)


def weights(reference: Detections, candidate: Detections) -> np.ndarray:
    """What every pair weighs, in full: the definition that `match` must agree with."""
    shared = overlaps(reference.boxes_xyxy_px, candidate.boxes_xyxy_px)
    same = reference.labels[:, None] == candidate.labels[None]
    apart = np.abs(reference.scores[:, None].astype(np.float64) - candidate.scores[None])
    return np.where(shared >= MIN_OVERLAP, shared + CLASS_BONUS * same + SCORE_BONUS * (1 - apart), 0.0)


def total(found: Matching, reference: Detections, candidate: Detections) -> float:
    table = weights(reference, candidate)
    return float(sum(table[i, j] for i, j in found.pairs))


def best_by_trying_all(table: np.ndarray) -> float:
    if table.shape[0] > table.shape[1]:
        table = table.T
    rows, columns = table.shape
    return max((sum(table[i, j] for i, j in enumerate(chosen)) for chosen in permutations(range(columns), rows)), default=0.0)


def rows_of(found: Matching, reference: Detections, candidate: Detections) -> list[tuple[bytes, bytes]]:
    """The pairs as values: which detections met, whatever their places were."""

    def value(answer: Detections, index: int) -> bytes:
        return answer.boxes_xyxy_px[index].tobytes() + answer.scores[index].tobytes() + answer.labels[index].tobytes()

    return sorted((value(reference, i), value(candidate, j)) for i, j in found.pairs)


@given(answers_strategy(4), answers_strategy(4))
@settings(max_examples=60, deadline=None)
def test_no_other_assignment_weighs_more(reference: Detections, candidate: Detections) -> None:
    found = match(reference, candidate)
    assert total(found, reference, candidate) == pytest.approx(best_by_trying_all(weights(reference, candidate)), abs=1e-9)


@given(answers_strategy(), answers_strategy())
@settings(deadline=None)
def test_every_detection_is_matched_once_or_named_once(reference: Detections, candidate: Detections) -> None:
    found = match(reference, candidate)
    assert sorted([*found.pairs[:, 0], *found.missing]) == list(range(len(reference)))
    assert sorted([*found.pairs[:, 1], *found.extra]) == list(range(len(candidate)))
    overlap = overlaps(reference.boxes_xyxy_px, candidate.boxes_xyxy_px)
    assert all(overlap[i, j] >= MIN_OVERLAP for i, j in found.pairs)


@given(answers_strategy(), answers_strategy())
@settings(deadline=None)
def test_symmetric(reference: Detections, candidate: Detections) -> None:
    there, back = match(reference, candidate), match(candidate, reference).swapped()
    # Only detections equal in box, class and score may change places, so pairs are compared by value.
    assert rows_of(there, reference, candidate) == rows_of(back, reference, candidate)


@given(answers_strategy(), answers_strategy(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_blind_to_the_order_of_either_side(reference: Detections, candidate: Detections, random: object) -> None:
    order, other = list(range(len(reference))), list(range(len(candidate)))
    random.shuffle(order)  # type: ignore[attr-defined]
    random.shuffle(other)  # type: ignore[attr-defined]
    shuffled, moved = reference.take(order), candidate.take(other)
    before, after = match(reference, candidate), match(shuffled, moved)
    assert rows_of(before, reference, candidate) == rows_of(after, shuffled, moved)


@given(answers_strategy(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_an_answer_matches_itself_in_any_order_class_and_score_included(answer: Detections, random: object) -> None:
    order = list(range(len(answer)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = answer.take(order)
    found = match(answer, shuffled)
    assert len(found.pairs) == len(answer)
    for i, j in found.pairs:
        assert answer.boxes_xyxy_px[i].tobytes() == shuffled.boxes_xyxy_px[j].tobytes()
        assert (answer.labels[i], answer.scores[i]) == (shuffled.labels[j], shuffled.scores[j])


@given(answers_strategy().filter(len), answers_strategy().filter(len), st.integers(0, 5))
@settings(deadline=None)
def test_dropping_a_detection_never_finds_more_of_the_reference(reference: Detections, candidate: Detections, at: int) -> None:
    whole = match(reference, candidate)
    less = match(reference, without(candidate, at % len(candidate)))
    assert len(less.missing) >= len(whole.missing)


def test_overlap_is_that_of_torchvision() -> None:
    import torch
    from torchvision.ops import box_iou

    a, b = grid(6).boxes_xyxy_px, grid(5).boxes_xyxy_px + np.float32(3.5)
    expected = box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(overlaps(a, b, growth_px=0.0), expected, atol=1e-6)


@pytest.mark.parametrize("side_px", [0.0, 0.3, 1.0, 4.0])
def test_a_tiny_object_that_moves_by_a_hair_is_still_matched(side_px: float) -> None:
    here = detections([(10, 10, 10 + side_px, 10 + side_px)])
    assert len(match(here, changed(here, box_px=0.1)).pairs) == 1
    assert len(match(here, changed(here, box_px=3.0)).pairs) == 0


BOX, NOISY_BOX = (10.0, 10.0, 60.0, 60.0), (10.0, 10.0, 60.0, 59.9)


def test_two_classes_in_one_box_are_matched_by_class_however_noise_moves_the_box() -> None:
    reference = detections([BOX, NOISY_BOX], labels=[0, 1])
    assert match(reference, detections([BOX, NOISY_BOX], labels=[1, 0])).pairs.tolist() == [[0, 1], [1, 0]]


def test_two_scores_in_one_box_are_matched_by_score_however_noise_moves_the_box() -> None:
    hair = (10.0, 10.0, 60.0, 60.0001)
    reference = detections([BOX, hair], [0.9, 0.5])
    assert match(reference, detections([BOX, hair], [0.5, 0.9])).pairs.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("aside_px", [-4, 4])
def test_exact_ties_are_settled_alike_from_either_side(aside_px: float) -> None:
    across = detections([(50, 50, 70, 70), (50 + aside_px, 50, 70 + aside_px, 70)])
    along = detections([(50, 48, 70, 68), (50, 52, 70, 72)])
    table = weights(across, along)
    assert (table[:, 0] == table[:, 1]).all()
    there, back = match(across, along), match(along, across).swapped()
    assert there.pairs.tolist() == back.pairs.tolist()


def test_class_alone_never_makes_a_worse_box_win() -> None:
    reference = detections([(10, 10, 60, 60)], labels=[0])
    candidates = detections([(10, 10, 60, 60), (10, 10, 60, 55)], labels=[1, 0])
    assert match(reference, candidates).pairs.tolist() == [[0, 0]]


def test_a_chain_of_overlaps_is_solved_as_a_whole_not_greedily() -> None:
    reference = detections([(0, 0, 30, 30), (8, 0, 38, 30)])
    candidate = detections([(7, 0, 37, 30), (16, 0, 46, 30)])
    assert match(reference, candidate).pairs.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("broken", [(np.nan, 0, 5, 5), (0, 0, np.inf, 5), (50, 50, 10, 10)])
def test_a_broken_box_matches_nothing_not_even_itself(broken: tuple[float, ...]) -> None:
    answer = detections([broken, (0, 0, 20, 20)])
    found = match(answer, answer)
    assert found.pairs.tolist() == [[1, 1]]
    assert found.missing.tolist() == found.extra.tolist() == [0]


def test_a_score_that_is_not_finite_does_not_stop_the_match() -> None:
    answer = detections([(0, 0, 20, 20)], [float("nan")])
    assert match(answer, answer).pairs.tolist() == [[0, 0]]


def test_empty_answers() -> None:
    nothing = detections([])
    assert match(nothing, nothing).pairs.shape == (0, 2)
    assert match(grid(3), nothing).missing.tolist() == [0, 1, 2]
    assert match(nothing, grid(2)).extra.tolist() == [0, 1]


def test_every_pair_of_a_crowd_finds_its_own() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 400, (100, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 80, (100, 2))], axis=1)
    crowd = detections(boxes.tolist(), rng.uniform(0.05, 1, 100).tolist(), rng.integers(0, 3, 100).tolist())
    order = rng.permutation(100)
    found = match(crowd, crowd.take(order))
    assert (order[found.pairs[:, 1]] == found.pairs[:, 0]).all()


def test_brute_force_itself_is_right() -> None:
    table = np.array([[0.9, 0.8], [0.8, 0.1]])
    assert best_by_trying_all(table) == pytest.approx(1.6)
