"""Detections as JSON and back: every score and coordinate comes back bit for bit.

One object an image: ``height_px`` and ``width_px``; ``boxes`` (XYXY in pixels of the image), ``scores`` (0..1), ``labels`` (from 0)
and ``classes`` (their names), one entry a detection. Where the detector has them: ``masks`` as COCO's compressed run lengths
(``size``, ``counts``), ``keypoints`` as ``[x, y, score]`` triples, ``panoptic`` as a PNG picture in base64 whose pixels are ids
(``R + 256 G + 65536 B``, as COCO has them) and its ``segments``. float32 becomes the shortest decimal number that is nearest to it
and to nothing else.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.detections import Detections, Masks, Panoptic, Segment
from harness.errors import MalformedDetections
from harness.serving.pictures import BadPicture, decoded, encoded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.detections import Pixels
    from harness.types import Json, ModelSpec


def to_json(answer: Detections, picture: Pixels, spec: ModelSpec) -> dict[str, Json]:
    """The answer to a picture, ``uint8 [H, W, 3]``, as plain JSON values."""
    told: dict[str, Json] = {
        "height_px": int(picture.shape[0]),
        "width_px": int(picture.shape[1]),
        "boxes": answer.boxes_xyxy_px.tolist(),
        "scores": answer.scores.tolist(),
        "labels": answer.labels.tolist(),
        "classes": [spec.classes[label] for label in answer.labels],
    }
    if answer.masks is not None:
        told["masks"] = _run_lengths(answer.masks)
    if answer.keypoints is not None:
        told["keypoints"] = answer.keypoints.tolist()
    if answer.panoptic is not None:
        told["panoptic"] = _panoptic_json(answer.panoptic, spec)
    return told


def from_json(told: Mapping[str, Json], spec: ModelSpec) -> Detections:
    """What `to_json` told. Raises `MalformedDetections` for anything else."""
    try:
        return _read(told, spec)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, BadPicture) as error:
        raise MalformedDetections(f"this is no answer: {type(error).__name__}: {error}") from error


def _read(told: Mapping[str, Json], spec: ModelSpec) -> Detections:
    size = (int(told["height_px"]), int(told["width_px"]))
    count = len(told["scores"])
    keypoints = told.get("keypoints")
    return Detections(
        np.array(told["boxes"], np.float32).reshape(count, 4),
        np.array(told["scores"], np.float32),
        np.array(told["labels"], np.int64),
        masks=_masks(told["masks"], size) if "masks" in told else None,
        keypoints=None if keypoints is None else np.array(keypoints, np.float32).reshape(count, len(spec.keypoints), 3),
        panoptic=_panoptic(told["panoptic"]) if "panoptic" in told else None,
    )


def _run_lengths(masks: Masks) -> list[dict[str, Json]]:
    from faster_coco_eval.core import mask

    found = []
    for index in range(len(masks)):
        encoded_mask = mask.encode(np.asfortranarray(masks.full(index).astype(np.uint8)))
        found.append({"size": list(masks.size_hw_px), "counts": bytes(encoded_mask["counts"]).decode("ascii")})
    return found


def _masks(told: Any, size_hw_px: tuple[int, int]) -> Masks:
    from faster_coco_eval.core import mask

    full = [mask.decode({"size": list(one["size"]), "counts": one["counts"].encode("ascii")}).astype(np.bool_) for one in told]
    return Masks.from_full(np.stack(full) if full else np.zeros((0, *size_hw_px), np.bool_))


def _panoptic_json(panoptic: Panoptic, spec: ModelSpec) -> dict[str, Json]:
    ids = panoptic.ids
    if ids.min() < 0 or ids.max() >= 2**24:
        raise MalformedDetections("a panoptic id does not fit into three bytes")
    colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=2).astype(np.uint8)
    segments = [
        {
            "id": segment.id,
            "label": segment.label,
            "class": (spec.classes if segment.is_thing else spec.stuff)[segment.label],
            "is_thing": segment.is_thing,
            "score": segment.score,
        }
        for segment in panoptic.segments
    ]
    return {"png": base64.b64encode(encoded(colours)).decode("ascii"), "segments": segments}


def _panoptic(told: Any) -> Panoptic:
    colours: NDArray[np.int32] = decoded(base64.b64decode(told["png"])).astype(np.int32)
    ids = colours[:, :, 0] + 256 * colours[:, :, 1] + 65536 * colours[:, :, 2]
    segments = tuple(Segment(one["id"], one["label"], one["is_thing"], one["score"]) for one in told["segments"])
    return Panoptic(ids.astype(np.int32), segments)
