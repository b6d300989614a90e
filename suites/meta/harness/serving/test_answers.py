"""Answers as JSON come back bit for bit, whatever a detector answers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.checks.differences import unequal
from harness.detections import Detections, Masks, Panoptic, Segment
from harness.errors import MalformedDetections
from harness.fixtures.models import MODELS
from harness.serving.answers import from_json, to_json

pytestmark = pytest.mark.covers("M5", "M21")

SPEC = replace(MODELS["d2_panoptic_fpn_tiny"], keypoints=("a", "b"), stuff=("sky", "sea"))
PICTURE = np.zeros((7, 9, 3), np.uint8)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def answers(draw: st.DrawFn) -> Detections:
    count = draw(st.integers(0, 4))
    masks = draw(arrays.arrays(np.bool_, (count, 7, 9)))
    ids = draw(arrays.arrays(np.int32, (7, 9), elements=st.sampled_from([0, 1, 70_000])))
    segments = (Segment(1, draw(st.integers(0, 2)), is_thing=True, score=draw(FLOATS)), Segment(70_000, 1, is_thing=False))
    return Detections(
        draw(arrays.arrays(np.float32, (count, 4), elements=FLOATS)),
        draw(arrays.arrays(np.float32, count, elements=FLOATS)),
        draw(arrays.arrays(np.int64, count, elements=st.integers(0, len(SPEC.classes) - 1))),
        masks=Masks.from_full(masks) if draw(st.booleans()) else None,
        keypoints=draw(arrays.arrays(np.float32, (count, 2, 3), elements=FLOATS)) if draw(st.booleans()) else None,
        panoptic=Panoptic(ids, segments) if draw(st.booleans()) else None,
    )


@given(answers())
def test_every_bit_comes_back(answer: Detections) -> None:
    told = json.loads(json.dumps(to_json(answer, PICTURE, SPEC), allow_nan=False))
    back = from_json(told, SPEC)
    assert not unequal(answer, back)
    assert (told["height_px"], told["width_px"]) == (7, 9)
    assert told["classes"] == [SPEC.classes[label] for label in answer.labels]
    for name in ("masks", "keypoints", "panoptic"):
        assert (name in told) == (getattr(answer, name) is not None)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_masks_are_run_lengths_as_coco_has_them() -> None:
    pycocotools = pytest.importorskip("pycocotools.mask")
    masks = np.random.default_rng(1).random((3, 7, 9)) > 0.5
    answer = Detections(np.zeros((3, 4), np.float32), np.zeros(3, np.float32), np.zeros(3, np.int64), masks=Masks.from_full(masks))
    for one, mask in zip(to_json(answer, PICTURE, SPEC)["masks"], masks, strict=True):
        assert np.array_equal(pycocotools.decode(one).astype(np.bool_), mask)


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.pop("boxes"),
        lambda told: told.update(scores=[0.5]),
        lambda told: told.update(labels=["circle", "circle"]),
        lambda told: told.update(boxes=[[1, 2, 3], [1, 2, 3]]),
        lambda told: told.update(keypoints=[[[1, 2, 3]]]),
        lambda told: told.update(masks=[{"size": [7, 9]}]),
        lambda told: told.update(panoptic={"png": "", "segments": []}),
    ],
)
def test_what_is_no_answer_is_refused(change: Any) -> None:
    two = Detections(np.zeros((2, 4), np.float32), np.zeros(2, np.float32), np.zeros(2, np.int64))
    told = to_json(two, PICTURE, SPEC)
    change(told)
    with pytest.raises(MalformedDetections):
        from_json(told, SPEC)
