"""Average precision as COCO defines it, by faster-coco-eval: of answers against the truth, and of one answer against another.

AP is the mean over IoU (of keypoints: OKS) 0.50 to 0.95 and over the classes that the truth has, for objects of all sizes. Three
things are fixed so that two answers can be compared to a hundredth of a point: every detection counts, even above the 100 an
image (20 with keypoints) at which COCO cuts off; detections are put in an order that depends on their values only, because COCO
settles equal scores by position; and what a model leaves out below its own score threshold stays out, on both sides alike.

*Agreement* AP takes a reference's answers as the truth. There, what has no area is left out of both sides: its IoU with itself is
0/0, so that equal answers would disagree. A class that the reference never finds does not count, as in COCO; who invents one is
caught where detections are matched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.detections import Detections, Masks
from harness.match import canonical
from harness.types import Image, Json

Kind: TypeAlias = Literal["box", "mask", "keypoint"]
Coco: TypeAlias = Mapping[str, Json]
"""Truth in COCO form: ``images`` with ids from 1, ``annotations``, ``categories`` with ids from 1 in the order of the labels."""

KEYPOINT_SIGMA = 0.107
"""Of every keypoint: COCO's for a hip, its least certain one, since where a round outline reaches farthest is never certain."""

BOX_TO_OBJECT = 0.53
"""The share of a box that its object fills, where no mask tells: what COCO's own tools take for OKS."""

_COCO_KINDS: Mapping[Kind, str] = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}
_MOST_AT_COCO = 100
_ANY_AREA_PX2 = (-math.inf, math.inf)
"""Not from 0, as in COCO, which ignores a detection whose box is inside out: here it is one too many."""


class Precision(NamedTuple):
    """AP over IoU 0.50 to 0.95, and at 0.50: in 0..1, NaN where the truth has no object."""

    average: float
    at_half: float


def kinds(outputs: frozenset[str]) -> tuple[Kind, ...]:
    """The kinds of AP that a model with these outputs (`harness.types.ModelSpec.outputs`) is judged by."""
    given: tuple[tuple[Kind, str], ...] = (("mask", "masks"), ("keypoint", "keypoints"))
    return ("box", *(kind for kind, output in given if output in outputs))


def average_precision(truth: Coco, answers: Sequence[Detections], kind: Kind) -> Precision:
    """AP of the answers to the truth's images, in the order of their ids; who gives no masks (keypoints) has a mask AP of 0."""
    from faster_coco_eval import COCO
    from faster_coco_eval import COCOeval_faster as Evaluation

    # The evaluation writes into the annotations, and the caller's truth serves others too.
    whole = COCO({**truth, "annotations": [dict(annotation) for annotation in truth["annotations"]]})
    found = whole.loadRes([one for number, answer in enumerate(answers, 1) for one in _results(number, answer, kind)])
    sigmas = [KEYPOINT_SIGMA] * _keypoints_of(truth) if kind == "keypoint" else None
    judged = Evaluation(whole, found, _COCO_KINDS[kind], print_function=_silent, kpt_oks_sigmas=sigmas)
    judged.params.maxDets = [max(_MOST_AT_COCO, *(len(answer) for answer in answers), 0)]
    judged.params.areaRng, judged.params.areaRngLbl = [list(_ANY_AREA_PX2)], ["all"]
    judged.evaluate()
    judged.accumulate()
    by_threshold = judged.eval["precision"]
    return Precision(_mean(by_threshold), _mean(by_threshold[:1]))


def agreement(
    images: Sequence[Image], reference: Sequence[Detections], candidate: Sequence[Detections], kind: Kind, classes: int
) -> Precision:
    """AP of the candidate's answers with the reference's as the truth, image by image; 1 where they are equal."""
    mine, theirs = ([_with_area(answer, kind) for answer in answers] for answers in (reference, candidate))
    return average_precision(_as_truth(images, mine, kind, classes), theirs, kind)


def _as_truth(images: Sequence[Image], answers: Sequence[Detections], kind: Kind, classes: int) -> Coco:
    annotations: list[dict[str, Any]] = []
    for number, answer in enumerate(answers, 1):
        for one in _results(number, answer, kind):
            area = BOX_TO_OBJECT * one["bbox"][2] * one["bbox"][3]
            one |= {"id": len(annotations) + 1, "iscrowd": 0, "area": area}
            if kind == "keypoint":
                # COCO's third figure of a keypoint is a score in a result; in the truth it is 2 where the point is seen.
                places = np.reshape(one["keypoints"], (-1, 3)) * (1, 1, 0) + (0, 0, 2)
                one |= {"keypoints": places.ravel().tolist(), "num_keypoints": len(places)}
            annotations.append(one)
    return {
        "images": [{"id": n, "height": image.height_px, "width": image.width_px} for n, image in enumerate(images, 1)],
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": str(label)} for label in range(classes)],
    }


def _results(image_number: int, answer: Detections, kind: Kind) -> list[dict[str, Any]]:
    """One answer in COCO's form for results; empty where it lacks what the kind is about."""
    if (kind == "mask" and answer.masks is None) or (kind == "keypoint" and answer.keypoints is None):
        return []
    results = []
    for index in canonical(answer, np.arange(len(answer))):
        x1, y1, x2, y2 = answer.boxes_xyxy_px[index].tolist()
        result: dict[str, Any] = {
            "image_id": image_number,
            "category_id": int(answer.labels[index]) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(answer.scores[index]),
        }
        if kind == "mask" and answer.masks is not None:
            result["segmentation"] = _run_lengths(answer.masks, int(index))
        if kind == "keypoint" and answer.keypoints is not None:
            result["keypoints"] = answer.keypoints[index].ravel().tolist()
        results.append(result)
    return results


def _run_lengths(masks: Masks, index: int) -> Json:
    from faster_coco_eval.core import mask as rle

    return rle.encode(np.asfortranarray(masks.full(index).astype(np.uint8)))


def _with_area(answer: Detections, kind: Kind) -> Detections:
    if kind == "mask":
        crops = () if answer.masks is None else answer.masks.crops
        return answer.take([index for index, crop in enumerate(crops) if crop.any()])
    sides = answer.boxes_xyxy_px[:, 2:] - answer.boxes_xyxy_px[:, :2]
    return answer.take(np.flatnonzero((sides > 0).all(axis=1)))


def _keypoints_of(truth: Coco) -> int:
    return max((len(annotation["keypoints"]) // 3 for annotation in truth["annotations"]), default=0)


def _mean(precision: NDArray[np.float64]) -> float:
    """Over thresholds, recalls and classes; COCO writes -1 for a class that the truth has not."""
    told = precision[precision > -1]
    return float(told.mean()) if told.size else float("nan")


def _silent(*_: object) -> None:
    """Instead of faster-coco-eval's printing."""
