"""Comparing two decks of answers costs at most a fifth of what their AP costs: judging must never be what a run waits for.

An ordinary run compares a few pictures. `pytest suites/meta/benchmarks --benchmark-only` compares 5,000, COCO's validation set.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO
from faster_coco_eval import COCOeval_faster as Evaluation

from harness.certificates import Limits
from harness.compare import Comparison, compare
from harness.detections import Detections
from harness.suites.meta.harness.answers import truth_of

FEW, MANY = 250, 5_000
DETECTIONS = 100
CLASSES = 80
"""COCO's. With fewer classes the AP is cheaper, since its boxes are taken together more of them at a time."""

PICTURE_PX = 640
ROUNDS = 3
SHARE = 1 / 5
LIMITS = Limits(score_threshold=0.05, detection_cap=DETECTIONS, score_tolerance=1e-4)


def answers(draws: np.random.Generator) -> Detections:
    """Boxes of all sizes anywhere in a picture: nearly half of the pictures have some that two of the other side may match."""
    corners = draws.uniform(0, PICTURE_PX - 20, (DETECTIONS, 2))
    sides = draws.lognormal(3.5, 0.8, (DETECTIONS, 2)).clip(4, 300)
    boxes = np.concatenate([corners, np.minimum(corners + sides, PICTURE_PX)], axis=1)
    scores = draws.uniform(0.06, 1, DETECTIONS)
    return Detections(boxes.astype(np.float32), scores.astype(np.float32), draws.integers(0, CLASSES, DETECTIONS))


def as_a_backend_gives_it(answer: Detections, draws: np.random.Generator) -> Detections:
    """The same in another order, with the noise of a sound backend."""
    boxes = answer.boxes_xyxy_px + draws.normal(0, 5e-5, answer.boxes_xyxy_px.shape).astype(np.float32)
    scores = answer.scores + draws.normal(0, 1e-6, len(answer)).astype(np.float32)
    return Detections(boxes, scores, answer.labels).take(draws.permutation(len(answer)))


def evaluation(reference: dict[str, Detections], candidate: dict[str, Detections]) -> Any:
    """The AP of the candidate with the reference as the truth, not yet worked out."""
    truth = COCO({**truth_of(reference), "categories": [{"id": label + 1, "name": str(label)} for label in range(CLASSES)]})
    found = [
        {"image_id": one["image_id"], "category_id": one["category_id"], "bbox": one["bbox"], "score": score}
        for one, score in zip(
            truth_of(candidate)["annotations"], np.concatenate([a.scores for a in candidate.values()]).tolist(), strict=True
        )
    ]
    return Evaluation(truth, truth.loadRes(found), "bbox", print_function=lambda *_: None)


@pytest.mark.alone
def test_comparing_takes_at_most_a_fifth_of_the_ap(benchmark: Any, request: pytest.FixtureRequest) -> None:
    images = MANY if request.config.getoption("benchmark_only") else FEW
    draws = np.random.default_rng(0)
    reference = {str(image): answers(draws) for image in range(images)}
    candidate = {name: as_a_backend_gives_it(answer, draws) for name, answer in reference.items()}
    judged = evaluation(reference, candidate)
    # CPU time: what else the machine does then weighs on neither.
    spent: dict[str, list[float]] = {"compare": [], "AP": []}

    def average_precision() -> None:
        began = time.process_time()
        judged.evaluate()
        judged.accumulate()
        spent["AP"].append(time.process_time() - began)

    def compared() -> Comparison:
        began = time.process_time()
        found = compare(reference, candidate, LIMITS)
        spent["compare"].append(time.process_time() - began)
        return found

    compare({"0": reference["0"]}, {"0": candidate["0"]}, LIMITS)
    # The two take turns, so that a clock that slows down slows both.
    found = benchmark.pedantic(compared, setup=average_precision, rounds=ROUNDS)
    assert found.matched == images * DETECTIONS
    share = min(spent["compare"]) / min(spent["AP"])
    benchmark.extra_info.update({"images": images, "AP, CPU s": min(spent["AP"]), "share of the AP's CPU time": share})
    assert share <= SHARE, f"comparing took {min(spent['compare']):.2f} s, the AP {min(spent['AP']):.2f} s"
