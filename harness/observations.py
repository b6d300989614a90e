"""Observations on disk: one folder a job, ``observation.json`` beside ``answers.npz``.

The arrays are written first and the JSON, which holds their SHA-256, last and by rename: a folder without ``observation.json``
has no observation, and one that was cut off or changed is told from one that is whole. Nothing here unpickles.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness import ledger
from harness.detections import Detections, Masks, Panoptic, Segment
from harness.document import printable
from harness.errors import HarnessError, InvalidRun, RunFolderError
from harness.integrity import write_whole
from harness.timings import Sweep, TimingPoint
from harness.types import Effective, Job, JobError, Observation, Reply, Restoration, StageReport

OBSERVATION_FILE = "observation.json"
ANSWERS_FILE = "answers.npz"
FORMAT = 1

Arrays = dict[str, NDArray[Any]]
Seconds = Annotated[float, Field(allow_inf_nan=True)]


class _Answer(BaseModel):
    """Where one image's answer lies in the arrays: ``count`` rows, and its masks if ``size_hw_px`` is given.

    Raw masks, keypoints and panoptic ids, where an answer has them, are arrays of their own, named for the field and the number of
    the image from 0; ``segments`` are those of the ids.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    id: str
    count: int
    size_hw_px: tuple[int, int] | None = None
    near: bool = False
    segments: tuple[Segment, ...] | None = None


class _Document(BaseModel):
    """The JSON half: every field of `Observation` but the answers' arrays."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    format: int = FORMAT
    arrays_sha256: str
    images: tuple[_Answer, ...]
    job: Job
    effective: Effective | None
    build_s: Seconds | None
    open_s: Seconds | None
    predict_s: tuple[Seconds, ...]
    curve: tuple[TimingPoint, ...]
    sweep: Sweep | None = None
    artifact_bytes: int | None
    artifact_sha256: str | None
    peak_rss_bytes: int | None
    source: Restoration | None
    source_after: Restoration | None
    restored: Restoration | None
    rechanged: Restoration | None = None
    rechanged_after: Restoration | None = None
    resaved: Restoration | None
    archived: Mapping[str, Restoration | str] = Field(default_factory=dict)
    keeps: tuple[str, ...] = ()
    traced: Restoration | None = None
    isolation: Mapping[str, str]
    notes: tuple[str, ...]
    stages: tuple[StageReport, ...] = ()
    declined: Mapping[str, str]
    replies: Mapping[str, Reply] = Field(default_factory=dict)
    error: JobError | None


_PLAIN = tuple(name for name in _Document.model_fields if name not in ("format", "arrays_sha256", "images"))


def write_observation(folder: Path, observation: Observation) -> None:
    """Write the observation into ``folder`` (made if absent); an older one there is replaced.

    A reader sees either the whole observation or none. Raises `RunFolderError` when the folder cannot be written or the disk is
    full.
    """
    images, arrays = _pack(observation.answers)
    arrays |= ledger.pack(observation.ledgers)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    packed = buffer.getvalue()
    fields = {name: getattr(observation, name) for name in _PLAIN}
    fields["notes"] = tuple(printable(note) for note in observation.notes)
    if observation.error is not None:
        cleaned = {name: printable(getattr(observation.error, name)) for name in ("message", "detail")}
        fields["error"] = replace(observation.error, **cleaned)
    document = _Document(arrays_sha256=sha256(packed).hexdigest(), images=images, **fields)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OBSERVATION_FILE).unlink(missing_ok=True)
        write_whole(folder / ANSWERS_FILE, packed)
        write_whole(folder / OBSERVATION_FILE, document.model_dump_json(indent=1).encode())
    except OSError as error:
        raise RunFolderError(
            f"cannot write the observation of {observation.job} to {folder}: {error.strerror or error}",
            "Free space on that disk, or choose another folder with --out.",
        ) from error


def read_observation(folder: Path) -> Observation:
    """The observation in ``folder``. Raises `InvalidRun` when there is none, or when it was cut off or changed."""
    try:
        text = (folder / OBSERVATION_FILE).read_bytes()
        packed = (folder / ANSWERS_FILE).read_bytes()
    except OSError as error:
        raise InvalidRun(f"no observation in {folder}: {error.strerror or error}", "Run its job again.") from error
    try:
        # Through json: pydantic's own parser refuses the NaN and Infinity that a broken clock or backend may leave.
        document = _Document.model_validate(json.loads(text))
        if document.format != FORMAT:
            raise InvalidRun(f"{folder} has observation format {document.format}, this version reads {FORMAT}", "Run again.")
        if sha256(packed).hexdigest() != document.arrays_sha256:
            raise InvalidRun(f"{folder / ANSWERS_FILE} is not the file that was written", "Run its job again.")
        with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        answers, ledgers = _unpack(document.images, arrays), ledger.unpack(arrays)
    except InvalidRun:
        raise
    except (ValidationError, ValueError, KeyError, BadZipFile, HarnessError) as error:
        raise InvalidRun(f"the observation in {folder} is damaged: {error}", "Run its job again.") from error
    return Observation(answers=answers, ledgers=ledgers, **{name: getattr(document, name) for name in _PLAIN})


def _pack(answers: Mapping[str, Detections]) -> tuple[tuple[_Answer, ...], Arrays]:
    """All answers end to end; masks and near masks as packed bits, crop after crop."""
    images, masks = [], []
    own: Arrays = {}
    for number, (image, answer) in enumerate(answers.items()):
        here = answer.masks
        size = None if here is None else here.size_hw_px
        near = here is not None and here.near_crops is not None
        segments = None if answer.panoptic is None else answer.panoptic.segments
        images.append(_Answer(id=image, count=len(answer), size_hw_px=size, near=near, segments=segments))
        ids = None if answer.panoptic is None else answer.panoptic.ids
        held = {"raw_masks": answer.raw_masks, "keypoints": answer.keypoints, "panoptic": ids}
        own |= {f"{name}_{number}": value for name, value in held.items() if value is not None}
        if here is not None:
            masks.append(here)
    found = list(answers.values())
    crops = [crop for m in masks for crop in m.crops]
    near_crops = [crop for m in masks for crop in (m.near_crops or ())]
    return tuple(images), {
        "boxes_xyxy_px": np.concatenate([np.zeros((0, 4), np.float32), *(a.boxes_xyxy_px for a in found)]),
        "scores": np.concatenate([np.zeros(0, np.float32), *(a.scores for a in found)]),
        "labels": np.concatenate([np.zeros(0, np.int64), *(a.labels for a in found)]),
        "mask_origins_xy_px": np.concatenate([np.zeros((0, 2), np.int32), *(m.origins_xy_px for m in masks)]),
        "mask_shapes_hw_px": np.array([crop.shape for crop in crops], dtype=np.int32).reshape(-1, 2),
        "mask_bits": _bits(crops),
        "near_bits": _bits(near_crops),
        **own,
    }


def _bits(crops: list[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    return np.packbits(np.concatenate([np.zeros(0, np.bool_), *(crop.ravel() for crop in crops)]))


def _unpack(images: tuple[_Answer, ...], arrays: Arrays) -> dict[str, Detections]:
    """The inverse of `_pack`. Raises ValueError when arrays and index do not fit each other."""
    boxes, scores, labels = arrays["boxes_xyxy_px"], arrays["scores"], arrays["labels"]
    total = sum(image.count for image in images)
    if not len(boxes) == len(scores) == len(labels) == total:
        raise ValueError(f"{total} detections announced, {len(boxes)} boxes, {len(scores)} scores, {len(labels)} labels stored")
    masks, bits, near_bits = _Crops(arrays), _Bits(arrays["mask_bits"]), _Bits(arrays["near_bits"])
    answers, start = {}, 0
    for number, image in enumerate(images):
        rows = slice(start, start + image.count)
        start += image.count
        found = None
        if image.size_hw_px is not None:
            origins, shapes = masks.next(image.count)
            crops = tuple(bits.next(shape) for shape in shapes)
            near = tuple(near_bits.next(shape) for shape in shapes) if image.near else None
            found = Masks(image.size_hw_px, origins, crops, near)
        panoptic = None if image.segments is None else Panoptic(arrays[f"panoptic_{number}"], image.segments)
        raw_masks, keypoints = (arrays.get(f"{name}_{number}") for name in ("raw_masks", "keypoints"))
        answers[image.id] = Detections(boxes[rows], scores[rows], labels[rows], found, raw_masks, keypoints, panoptic)
    return answers


class _Crops:
    """Reads the crops' origins and shapes in the order they were written."""

    def __init__(self, arrays: Arrays) -> None:
        self._origins, self._shapes, self._at = arrays["mask_origins_xy_px"], arrays["mask_shapes_hw_px"], 0

    def next(self, count: int) -> tuple[NDArray[np.int32], list[tuple[int, int]]]:
        rows = slice(self._at, self._at + count)
        self._at += count
        return self._origins[rows], [(int(h), int(w)) for h, w in self._shapes[rows]]


class _Bits:
    """Reads boolean crops off a packed stream."""

    def __init__(self, packed: NDArray[np.uint8]) -> None:
        self._flat, self._at = np.unpackbits(packed).astype(np.bool_), 0

    def next(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        rows = slice(self._at, self._at + shape[0] * shape[1])
        self._at += shape[0] * shape[1]
        return self._flat[rows].reshape(shape)
