"""The survey of a batch curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from harness import clock, levels
from harness.detections import Detections, Pixels

EMPTY = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def test_curve_asks_for_equal_sizes_in_growing_batches_and_synchronises_around_each_call() -> None:
    events: list[str] = []
    sizes: list[set[tuple[int, ...]]] = []

    def predict(images: Sequence[Pixels]) -> list[Detections]:
        events.append("predict")
        sizes.append({image.shape for image in images})
        return [EMPTY] * len(images)

    images = [np.full((8, 8, 3), i, np.uint8) for i in range(3)] + [np.zeros((4, 4, 3), np.uint8)]
    curve = clock.batch_curve(predict, images, "a loop", lambda: events.append("synchronise"))
    assert [point.batch for point in curve] == list(clock.BATCHES)
    assert all(shapes == {(8, 8, 3)} for shapes in sizes)
    assert events[:3] == ["synchronise", "predict", "synchronise"]
    assert events.count("synchronise") == 2 * events.count("predict")
    assert [point.kind for point in curve] == ["one image", "a loop", "a loop", "a loop"]
    for point in curve:
        assert levels.MEDIAN_SAMPLES <= clock.FEWEST_CALLS <= len(point.predict_s) <= clock.MOST_CALLS
        assert all(seconds >= 0 for seconds in point.predict_s)


def test_a_batch_takes_different_images_in_turn() -> None:
    asked: list[list[int]] = []

    def predict(images: Sequence[Pixels]) -> list[Detections]:
        asked.append([int(image[0, 0, 0]) for image in images])
        return [EMPTY] * len(images)

    images = [np.full((8, 8, 3), i, np.uint8) for i in range(3)]
    clock.batch_curve(predict, images, "a loop", lambda: None)
    assert asked[:3] == [[0], [1], [2]]
    pairs = [group for group in asked if len(group) == 2]
    assert pairs[:2] == [[0, 1], [2, 0]]


def test_a_slow_backend_ends_each_point_with_the_calls_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def predict(images: Sequence[Pixels]) -> list[Detections]:
        now[0] += 3.0
        return [EMPTY] * len(images)

    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    curve = clock.batch_curve(predict, [np.zeros((8, 8, 3), np.uint8)], "a loop", lambda: None)
    assert [point.predict_s for point in curve] == [(3.0, 3.0, 3.0)] * 4
