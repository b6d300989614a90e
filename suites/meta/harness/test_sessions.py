"""One face for every session: what it returned is seen before the family reads it, and what it cannot do is said in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.detections import Detections, Pixels, Tensors
from harness.errors import MalformedDetections, Unavailable
from harness.families import family, whole_numbers
from harness.fixtures.models import MODELS
from harness.orders import Order
from harness.sessions import Detector
from harness.suites.meta.harness.answers import FP32, detections
from harness.types import Cell, Job, Purpose, Variant

SPEC = MODELS["tv_fasterrcnn_tiny"]
PICTURES = [np.full((20, 30, 3), value, np.uint8) for value in (10, 20)]


class Graph:
    """A graph that finds one box, in a buffer that it uses again for each call."""

    effective = FP32
    batching = "a loop over the images"

    def __init__(self) -> None:
        self.buffer = np.zeros((1, 4), np.float32)

    def run(self, tensors: Tensors) -> Tensors:
        self.buffer[:] = tensors["image"].max()
        return {"boxes": self.buffer, "labels": np.array([1]), "scores": np.array([0.5], np.float32)}

    def run_many(self, batch: Sequence[Tensors]) -> list[Tensors]:
        return [self.run(tensors) for tensors in batch]


class Owner:
    """A detector that takes any sizes in one call."""

    effective = FP32
    restored = None

    def predict(self, images: Sequence[Pixels]) -> list[Detections]:
        return [detections([(0, 0, 1, 1)])] * len(images)

    predict_mixed = predict


def detector(session: Any, tmp_path: Path) -> Detector:
    folder = str(tmp_path)
    job = Job(Cell(SPEC.id, "invented", "f32", "cpu"), Purpose.BEHAVIOUR)
    paths = (folder, folder, folder, ("a",), "a", folder, folder, folder)
    return Detector(session, Order(job, SPEC, Variant("f32"), "invented", *paths, 0), family(SPEC.family), {})


def test_what_a_graph_returned_is_its_own_memory_and_what_was_made_of_it_is_not(tmp_path: Path) -> None:
    open_session = detector(Graph(), tmp_path)
    (raw,) = open_session.raw(PICTURES[:1])
    (answer,) = open_session.finish([raw], PICTURES[:1])
    open_session.predict(PICTURES[1:])
    (after,) = open_session.finish([raw], PICTURES[:1])
    assert answer.boxes_xyxy_px.max() == np.float32(10) / 255
    assert after.boxes_xyxy_px.max() == np.float32(20) / 255


def test_a_session_that_takes_one_size_a_call_says_so_in_words(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="several images are run as a loop over the images"):
        detector(Graph(), tmp_path).predict_mixed(PICTURES)
    assert len(detector(Owner(), tmp_path).predict_mixed(PICTURES)) == 2


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_labels_are_whole_numbers_of_any_width(dtype: type) -> None:
    assert whole_numbers("labels", np.array([3, 1], dtype)).tolist() == [3, 1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.bool_])
def test_labels_of_another_kind_are_no_labels(dtype: type) -> None:
    with pytest.raises(MalformedDetections, match="labels are"):
        whole_numbers("labels", np.array([1, 0], dtype))


def test_mixed_sizes_go_into_one_call_of_a_live_module() -> None:
    import torch

    calls: list[int] = []

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            calls.append(len(images))
            nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
            return [nothing] * len(images)

    sizes = [np.zeros((8, width, 3), np.uint8) for width in (8, 9, 8)]
    kind = family("torchvision")
    assert len(kind.predict(Module(), {}, sizes)) == 3
    assert len(kind.predict(Module(), {}, sizes, mixed=True)) == 3
    assert calls == [2, 1, 3]
