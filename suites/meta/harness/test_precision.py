"""Average precision is COCO's own, blind to order, and of equal answers without a flaw."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.detections import Detections, Masks
from harness.fixtures import train
from harness.fixtures.scenes import Scene, coco
from harness.precision import KEYPOINT_SIGMA, Kind, agreement, average_precision, kinds
from harness.suites.meta.harness.answers import answers_strategy, detections, grid, images, truth_of, with_keypoints, with_masks

pytestmark = pytest.mark.covers("M21")

KINDS: tuple[Kind, ...] = ("box", "mask", "keypoint")
ORACLES_WORD = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    return train.held_out(10)


def imperfect(scene: Scene, draws: np.random.Generator) -> Detections:
    """Boxes, masks and keypoints somewhat off, one object in six unseen, some scores equal."""
    seen = draws.random(len(scene.labels)) < 5 / 6
    shift = draws.normal(0, 3, (len(scene.labels), 2)).astype(np.float32)
    masks = [np.roll(mask, (int(y), int(x)), (0, 1)) for mask, (x, y) in zip(scene.masks, shift, strict=True)]
    keypoints = scene.keypoints + np.concatenate([np.repeat(shift[:, None], 5, 1), np.zeros((len(shift), 5, 1))], axis=2)
    return Detections(
        scene.boxes_xyxy_px + np.concatenate([shift, shift * np.float32(0.5)], axis=1),
        (draws.integers(1, 60, len(shift)) / 60).astype(np.float32),
        np.where(draws.random(len(shift)) < 0.1, 0, scene.labels),
        Masks.from_full(np.array(masks).reshape(scene.masks.shape)),
        keypoints=keypoints.astype(np.float32),
    ).take(np.flatnonzero(seen))


@pytest.fixture(scope="module")
def answers(scenes: dict[str, Scene]) -> list[Detections]:
    draws = np.random.default_rng(0)
    return [imperfect(scene, draws) for scene in scenes.values()]


def oracle(truth: dict[str, object], answers: list[Detections], kind: Kind) -> tuple[float, float]:
    """AP at 0.50 to 0.95 and at 0.50 by pycocotools, detections in the order of their boxes."""
    from pycocotools import mask as rle
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    whole = COCO()
    whole.dataset = copy.deepcopy(truth)
    whole.createIndex()
    results = []
    for number, answer in enumerate(answers, 1):
        for index in np.lexsort(answer.boxes_xyxy_px.T[::-1]):
            x1, y1, x2, y2 = answer.boxes_xyxy_px[index].tolist()
            one = {"image_id": number, "category_id": int(answer.labels[index]) + 1, "score": float(answer.scores[index])}
            if kind == "box":
                one["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            elif kind == "mask" and answer.masks is not None:
                one["segmentation"] = rle.encode(np.asfortranarray(answer.masks.full(index).astype(np.uint8)))
            elif answer.keypoints is not None:
                one["keypoints"] = answer.keypoints[index].ravel().tolist()
            results.append(one)
    judged = COCOeval(whole, whole.loadRes(results), ORACLES_WORD[kind])
    judged.params.maxDets = [100]
    judged.params.areaRng, judged.params.areaRngLbl = judged.params.areaRng[:1], ["all"]
    if kind == "keypoint":
        judged.params.kpt_oks_sigmas = np.full(5, KEYPOINT_SIGMA)
    judged.evaluate()
    judged.accumulate()
    found = judged.eval["precision"]
    return float(found[found > -1].mean()), float(found[:1][found[:1] > -1].mean())


@pytest.mark.parametrize("kind", KINDS)
def test_ap_is_pycocotools_own(kind: Kind, scenes: dict[str, Scene], answers: list[Detections]) -> None:
    truth = coco(scenes)
    before = copy.deepcopy(truth)
    found = average_precision(truth, answers, kind)
    assert 0.1 < found.average < 0.95
    assert found == pytest.approx(oracle(truth, answers, kind), abs=1e-9)
    assert truth == before


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_agrees_with_itself_in_any_order_and_with_a_worse_one_less(kind: Kind, answers: list[Detections]) -> None:
    draws = np.random.default_rng(1)
    deck = images({str(number): answer for number, answer in enumerate(answers)})
    deck = tuple(dataclasses.replace(image, height_px=h, width_px=w) for image, (h, w) in zip(deck, sizes(answers), strict=True))
    shuffled = [answer.take(draws.permutation(len(answer))) for answer in answers]
    assert agreement(deck, answers, shuffled, kind, 3) == (1, 1)
    fewer = [answer.take(range(1, len(answer))) for answer in answers]
    assert agreement(deck, answers, fewer, kind, 3).average < 0.98


def sizes(answers: list[Detections]) -> list[tuple[int, int]]:
    return [answer.masks.size_hw_px for answer in answers if answer.masks is not None]


@given(st.lists(answers_strategy().filter(len), min_size=1, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_any_answer_agrees_with_itself_wholly_equal_boxes_and_scores_included(answers: list[Detections], random: object) -> None:
    def shuffled(answer: Detections) -> Detections:
        order = list(range(len(answer)))
        random.shuffle(order)  # type: ignore[attr-defined]
        return answer.take(order)

    deck = images({str(number): answer for number, answer in enumerate(answers)})
    has_area = any((answer.boxes_xyxy_px[:, 2:] > answer.boxes_xyxy_px[:, :2]).all(axis=1).any() for answer in answers)
    found = agreement(deck, answers, [shuffled(answer) for answer in answers], "box", 2).average
    assert found == pytest.approx(1.0) if has_area else math.isnan(found)


@given(answers_strategy(), answers_strategy().filter(len), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_blind_to_the_order_of_detections(answer: Detections, shown: Detections, random: object) -> None:
    order = list(range(len(answer)))
    random.shuffle(order)  # type: ignore[attr-defined]
    truth = truth_of({"one": shown})
    assert average_precision(truth, [answer], "box") == average_precision(truth, [answer.take(order)], "box")


@given(st.integers(0, 8), st.integers(0, 8))
@settings(deadline=None)
def test_who_finds_less_has_less(a: int, b: int) -> None:
    whole = grid(8)
    fewer, more = (average_precision(truth_of({"one": whole}), [whole.take(range(n))], "box").average for n in sorted((a, b)))
    assert fewer <= more
    assert (fewer < more) == (a != b)


def test_an_empty_mask_does_not_make_an_answer_disagree_with_itself() -> None:
    answer = with_masks(detections([(5, 5, 35, 35), (50, 50, 50.2, 50.2)]))
    assert answer.masks is not None
    assert not answer.masks.full(1).any()
    deck = images({"one": answer})
    assert agreement(deck, [answer], [answer], "mask", 2).average == 1
    assert agreement(deck, [answer], [answer.take([1])], "mask", 2).average == 0


def test_every_detection_counts_beyond_cocos_hundred() -> None:
    crowd = detections([(x, y, x + 1, y + 1) for x in range(0, 150, 2) for y in range(0, 6, 2)])
    assert len(crowd) == 225
    assert agreement(images({"one": crowd}), [crowd], [crowd], "box", 1).average == 1


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_has_no_precision_and_no_truth_none_to_have(kind: Kind) -> None:
    whole, nothing = with_keypoints(with_masks(grid(3))), detections([])
    assert average_precision(truth_of({"one": whole}), [nothing], kind) == (0, 0)
    assert math.isnan(average_precision(truth_of({"one": nothing}), [whole], kind).average)


def test_who_gives_boxes_only_has_no_other_precision() -> None:
    truth = truth_of({"one": with_keypoints(with_masks(grid(3)))})
    assert [average_precision(truth, [grid(3)], kind).average for kind in KINDS] == [1, 0, 0]


def test_a_box_inside_out_is_one_too_many() -> None:
    broken = detections([*grid(3).boxes_xyxy_px.tolist(), (90, 90, 50, 110)], [*grid(3).scores, 0.99], [0, 1, 0, 0])
    assert average_precision(truth_of({"one": grid(3)}), [broken], "box").average < 1


def test_kinds_follow_outputs() -> None:
    assert kinds(frozenset()) == ("box",)
    assert kinds(frozenset({"masks", "panoptic"})) == ("box", "mask")
    assert kinds(frozenset({"keypoints"})) == ("box", "keypoint")
