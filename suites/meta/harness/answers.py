"""Invented answers and observations for the tests of everything that judges."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from harness.checks import Evidence
from harness.detections import Detections, Masks, Panoptic, Segment
from harness.precision import Coco
from harness.types import (
    Cell,
    Effective,
    Image,
    Job,
    Load,
    ModelSpec,
    Observation,
    Purpose,
    Restoration,
    TensorDigest,
    Variant,
    Weights,
)

HEIGHT_PX, WIDTH_PX = 120, 160
THRESHOLD = 0.05
CAP = 20
SPEC = ModelSpec("tiny", "torchvision", {}, Weights("shipped", "", ""), "detection", ("circle", "square"), THRESHOLD, CAP)
SEGMENTS = dataclasses.replace(SPEC, task="segmentation")
POINTS = dataclasses.replace(SPEC, task="keypoints", keypoints=("head", "tail"))
EVERYWHERE = dataclasses.replace(SPEC, task="panoptic", stuff=("ground", "sky"))


class Versatile(ModelSpec):
    """A model that gives every output there is, so that one answer can be asked everything."""

    __slots__ = ()

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset({"masks", "keypoints", "panoptic"})


EVERYTHING = Versatile(
    **{name: getattr(SPEC, name) for name in ModelSpec.__slots__} | {"keypoints": POINTS.keypoints, "stuff": EVERYWHERE.stuff}
)
CELL = Cell("tiny", "candidate", "f32", "cpu")
REFERENCE = Cell("tiny", "torch_eager", "fp32", "cpu")
FP32 = Effective("fp32", "cpu", "invented", 1)


def detections(
    boxes: Sequence[Sequence[float]], scores: Sequence[float] | None = None, labels: Sequence[int] | None = None
) -> Detections:
    """Detections without masks; scores of 0.9 and labels of 0 unless given."""
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([0.9] * count if scores is None else scores, np.float32),
        np.array([0] * count if labels is None else labels, np.int64),
    )


def grid(count: int, side_px: float = 30.0, step_px: float = 40.0) -> Detections:
    """Boxes that touch no other, classes in turn, scores falling from 0.95 by hundredths."""
    corners = [(5 + step_px * (i % 3), 5 + step_px * (i // 3)) for i in range(count)]
    return detections(
        [(x, y, x + side_px, y + side_px) for x, y in corners],
        [0.95 - 0.01 * i for i in range(count)],
        [i % 2 for i in range(count)],
    )


def crowd(count: int) -> Detections:
    """So many boxes that touch no other, of falling score."""
    corners = [(5.0 * (i % 32), 5.0 * (i // 32)) for i in range(count)]
    scores = np.linspace(0.99, 0.2, count).tolist()
    return detections([(x, y, x + 4, y + 4) for x, y in corners], scores, [i % 2 for i in range(count)])


def with_masks(answer: Detections, *, near_px: int = 0) -> Detections:
    """Each box filled; the outermost ``near_px`` pixels of each lie near the threshold."""
    full = np.zeros((len(answer), HEIGHT_PX, WIDTH_PX), bool)
    near = np.zeros_like(full)
    for index, (x1, y1, x2, y2) in enumerate(answer.boxes_xyxy_px.round().astype(int)):
        full[index, y1:y2, x1:x2] = True
        near[index, y1:y2, x1:x2] = True
        near[index, y1 + near_px : y2 - near_px, x1 + near_px : x2 - near_px] = False
    return dataclasses.replace(answer, masks=Masks.from_full(full, near))


def with_raw_masks(answer: Detections) -> Detections:
    """A probability of its own at each of 4 x 4 places of each detection."""
    steps = np.linspace(0.01, 0.99, 16 * max(len(answer), 1), dtype=np.float32)
    return dataclasses.replace(answer, raw_masks=steps[: 16 * len(answer)].reshape(-1, 4, 4))


def with_keypoints(answer: Detections) -> Detections:
    """One near the upper left corner of each box, one in its middle."""
    corner, far = answer.boxes_xyxy_px[:, :2], answer.boxes_xyxy_px[:, 2:]
    places = np.stack([corner + np.float32(1.0), (corner + far) / 2], axis=1)
    scores = np.full((len(answer), 2, 1), 0.5, np.float32)
    return dataclasses.replace(answer, keypoints=np.concatenate([places, scores], axis=2))


def with_panoptic(answer: Detections) -> Detections:
    """Each box a thing, later ones over earlier ones, the rest one kind of stuff."""
    ids = np.full((HEIGHT_PX, WIDTH_PX), 100, np.int32)
    for index, (x1, y1, x2, y2) in enumerate(answer.boxes_xyxy_px.round().astype(int)):
        ids[y1:y2, x1:x2] = index + 1
    shown = [index - 1 for index in np.unique(ids).tolist() if index != 100]
    things = [Segment(i + 1, int(answer.labels[i]), is_thing=True, score=float(answer.scores[i])) for i in shown]
    return dataclasses.replace(answer, panoptic=Panoptic(ids, (*things, Segment(100, 0, is_thing=False))))


def with_everything(answer: Detections) -> Detections:
    """All that `Versatile` gives."""
    return with_panoptic(with_keypoints(with_raw_masks(with_masks(answer))))


def changed(answer: Detections, *, box_px: float = 0.0, score: float = 0.0, label: int = 0, index: int = 0) -> Detections:
    """One detection moved in all coordinates, with another score and label."""
    boxes, scores, labels = answer.boxes_xyxy_px.copy(), answer.scores.copy(), answer.labels.copy()
    boxes[index] += np.float32(box_px)
    scores[index] += np.float32(score)
    labels[index] += label
    return dataclasses.replace(answer, boxes_xyxy_px=boxes, scores=scores, labels=labels)


def without(answer: Detections, index: int) -> Detections:
    """One detection dropped."""
    return answer.take([i for i in range(len(answer)) if i != index])


def truth_of(answers: Mapping[str, Detections]) -> Coco:
    """COCO-format truth: of each image just what was answered."""
    annotations: list[dict[str, object]] = []
    for number, answer in enumerate(answers.values(), 1):
        for index, (x1, y1, x2, y2) in enumerate(answer.boxes_xyxy_px.tolist()):
            one: dict[str, object] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": int(answer.labels[index]) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            if answer.masks is not None:
                from harness.fixtures.scenes import run_lengths

                one["segmentation"] = run_lengths(answer.masks.full(index))
            if answer.keypoints is not None:
                points = [(float(x), float(y), 2.0) for x, y, _ in answer.keypoints[index]]
                one |= {"keypoints": [v for point in points for v in point], "num_keypoints": len(points)}
            annotations.append(one)
    pictures = [{"id": n, "height": HEIGHT_PX, "width": WIDTH_PX} for n in range(1, len(answers) + 1)]
    return {"images": pictures, "annotations": annotations, "categories": [{"id": n, "name": str(n)} for n in (1, 2)]}


def deck(**answers: Detections) -> dict[str, Detections]:
    """Answers by image id, one to a blank picture first."""
    return {"blank": detections([]), **answers}


def images(answers: Mapping[str, Detections]) -> tuple[Image, ...]:
    """A deck with those ids, all of one size."""
    return tuple(Image(name, HEIGHT_PX, WIDTH_PX, "") for name in answers)


def observed(answers: Mapping[str, Detections], cell: Cell = CELL, purpose: Purpose = Purpose.PARITY) -> Observation:
    """An observation at fp32 on the cell's device."""
    return Observation(Job(cell, purpose), answers=answers, effective=dataclasses.replace(FP32, device=cell.device))


def evidence(
    candidate: Mapping[str, Detections],
    reference: Mapping[str, Detections],
    floors: Sequence[Mapping[str, Detections]] = (),
    spec: ModelSpec = SPEC,
) -> Evidence:
    """Parity observations of a candidate and of the reference, and the reference's repeats; the truth is the reference's."""
    repeats = [dataclasses.replace(observed(floor, REFERENCE, Purpose.FLOOR)) for floor in floors]
    return Evidence(
        cell=CELL,
        spec=spec,
        variant=Variant(CELL.variant),
        observed={Purpose.PARITY: observed(candidate)},
        reference={Purpose.PARITY: observed(reference, REFERENCE)},
        floors=tuple(dataclasses.replace(r, job=Job(REFERENCE, Purpose.FLOOR, Load(2, 1))) for r in repeats),
        images=images(reference),
        truth=lambda: truth_of(reference),
    )


def restoration(value: str = "aa", **changes: object) -> Restoration:
    """A model of one parameter and one buffer, with a config and two attachments."""
    tensors = (
        TensorDigest("head.weight", "parameter", "float32", (2, 3), "cpu", value),
        TensorDigest("norm.mean", "buffer", "float32", (2,), "cpu", "bb"),
    )
    whole = Restoration(tensors, False, "A: 1\nB: 2\n", {"labels": {"owner": "us"}, "metadata": [1, 2]}, ())
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


def answers_strategy(most: int = 6, classes: int = 2) -> st.SearchStrategy[Detections]:
    """Answers of few, often overlapping and sometimes equal boxes; finite, corners the right way round."""
    corner = st.integers(0, 40).map(lambda quarter: quarter / 4)
    side = st.integers(0, 80).map(lambda quarter: quarter / 4)
    row = st.tuples(corner, corner, side, side, st.integers(1, 20).map(lambda s: s / 20), st.integers(0, classes - 1))
    return st.lists(row, max_size=most).map(
        lambda rows: detections([(x, y, x + w, y + h) for x, y, w, h, _, _ in rows], [r[4] for r in rows], [r[5] for r in rows])
    )
