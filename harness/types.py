"""The nouns: what is asked of a detector, what it answered, and what was made of it.

Everything here is plain data on numpy; no library under test is imported. Arrays are owned, in host memory and checked on
construction. Boxes are always ``[x1, y1, x2, y2]`` in pixels of the original image, x to the right, y down, the corner of the
image at (0, 0).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.errors import MalformedDetections

Pixels: TypeAlias = NDArray[np.uint8]
"""One picture: ``uint8 [H, W, 3]``, RGB, as decoded, at its original size."""

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
"""Named tensors in or out of a graph, in the graph's order."""

Task: TypeAlias = Literal["detection", "segmentation"]
Json: TypeAlias = Any


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """Instance masks of one image, each kept cropped to a rectangle that holds all its set pixels.

    ``size_hw_px`` is the height and width of the original image; ``origins_xy_px`` is ``int32 [N, 2]``, the left and top of each
    crop; ``crops`` holds N ``bool [h, w]`` arrays. ``near_crops``, where a backend can tell, has the same shapes and marks the
    pixels whose probability lies within 0.01 of the 0.5 threshold: only those may flip between two honest answers.
    """

    size_hw_px: tuple[int, int]
    origins_xy_px: NDArray[np.int32]
    crops: tuple[NDArray[np.bool_], ...]
    near_crops: tuple[NDArray[np.bool_], ...] | None = None

    def __post_init__(self) -> None:
        origins = np.ascontiguousarray(self.origins_xy_px, dtype=np.int32).reshape(-1, 2)
        object.__setattr__(self, "origins_xy_px", origins)
        if len(origins) != len(self.crops):
            raise MalformedDetections(f"{len(self.crops)} mask crops but {len(origins)} origins")
        height, width = self.size_hw_px
        for index, (crop, (x, y)) in enumerate(zip(self.crops, origins, strict=True)):
            if crop.dtype != np.bool_ or crop.ndim != 2:
                raise MalformedDetections(f"mask crop {index} is {crop.dtype} {crop.shape}, not bool [h, w]")
            if x < 0 or y < 0 or x + crop.shape[1] > width or y + crop.shape[0] > height:
                raise MalformedDetections(f"mask crop {index} at ({x}, {y}) {crop.shape} leaves the {height}x{width} image")
        if self.near_crops is not None and [c.shape for c in self.near_crops] != [c.shape for c in self.crops]:
            raise MalformedDetections("near_crops and crops have different shapes")

    def __len__(self) -> int:
        return len(self.crops)

    def full(self, index: int) -> NDArray[np.bool_]:
        """The mask of instance ``index`` as ``bool [H, W]`` of the original image."""
        return self._paste(self.crops[index], index)

    def near(self, index: int) -> NDArray[np.bool_] | None:
        """The pixels of instance ``index`` that sit on the threshold, as ``bool [H, W]``; None where unknown."""
        return None if self.near_crops is None else self._paste(self.near_crops[index], index)

    def take(self, order: Sequence[int] | NDArray[np.intp]) -> Masks:
        """The masks at the given indices, in that order."""
        picked = [int(i) for i in order]
        near = None if self.near_crops is None else tuple(self.near_crops[i] for i in picked)
        return Masks(self.size_hw_px, self.origins_xy_px[picked], tuple(self.crops[i] for i in picked), near)

    @classmethod
    def from_full(cls, masks: NDArray[np.bool_], near: NDArray[np.bool_] | None = None) -> Masks:
        """Crop ``bool [N, H, W]`` masks; ``near`` has the same shape or is None."""
        if masks.ndim != 3:
            raise MalformedDetections(f"masks are {masks.shape}, not [N, H, W]")
        origins, crops, near_crops = [], [], []
        for index, mask in enumerate(masks):
            x1, y1, x2, y2 = _extent(mask if near is None else mask | near[index])
            origins.append((x1, y1))
            crops.append(np.ascontiguousarray(mask[y1:y2, x1:x2], dtype=np.bool_))
            if near is not None:
                near_crops.append(np.ascontiguousarray(near[index][y1:y2, x1:x2], dtype=np.bool_))
        return cls(
            (int(masks.shape[1]), int(masks.shape[2])),
            np.array(origins, dtype=np.int32).reshape(-1, 2),
            tuple(crops),
            None if near is None else tuple(near_crops),
        )

    def _paste(self, crop: NDArray[np.bool_], index: int) -> NDArray[np.bool_]:
        full = np.zeros(self.size_hw_px, dtype=np.bool_)
        x, y = (int(v) for v in self.origins_xy_px[index])
        full[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        return full


def _extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What a detector answered for one image.

    ``boxes_xyxy_px`` is ``float32 [N, 4]`` in pixels of the original image; ``scores`` is ``float32 [N]`` in 0..1; ``labels`` is
    ``int64 [N]``, the index into the model's classes, from 0, no background. ``masks`` is None where the task has none. Order is
    the backend's own and carries no meaning. Construction checks dtypes and lengths, never values: a NaN score or a box outside
    the image is kept, so that the checks can see it. Raises `MalformedDetections`.
    """

    boxes_xyxy_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: Masks | None = None

    def __post_init__(self) -> None:
        for name, dtype, ndim in (("boxes_xyxy_px", np.float32, 2), ("scores", np.float32, 1), ("labels", np.int64, 1)):
            value = getattr(self, name)
            if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != ndim:
                got = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
                raise MalformedDetections(f"{name} is {got}, not {np.dtype(dtype).name} with {ndim} dimension(s)")
            object.__setattr__(self, name, np.array(value, order="C", copy=True))
        lengths = {len(self.scores), len(self.labels), len(self.boxes_xyxy_px)}
        if self.masks is not None:
            lengths.add(len(self.masks))
        if len(lengths) != 1 or self.boxes_xyxy_px.shape[1] != 4:
            masks = "none" if self.masks is None else str(len(self.masks))
            raise MalformedDetections(
                f"boxes {list(self.boxes_xyxy_px.shape)}, scores {len(self.scores)}, labels {len(self.labels)}, masks {masks}"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, order: Sequence[int] | NDArray[np.intp]) -> Detections:
        """The detections at the given indices, in that order."""
        picked = np.asarray(order, dtype=np.intp)
        masks = None if self.masks is None else self.masks.take(picked)
        return Detections(self.boxes_xyxy_px[picked], self.scores[picked], self.labels[picked], masks)


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the numbers of a model come from: ``source`` says how, ``path`` where, ``sha256`` what the file must hash to."""

    source: Literal["shipped", "path"]
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A detector before it is built. ``config`` is plain JSON that the family reads; ``score_threshold`` is in 0..1."""

    id: str
    family: str
    config: Mapping[str, Json]
    weights: Weights
    task: Task
    classes: tuple[str, ...]
    score_threshold: float
    detection_cap: int


@dataclass(frozen=True, slots=True)
class Image:
    """One picture of a deck: its pixels are made or read on demand by the deck; ``sha256`` is of the raw RGB bytes."""

    id: str
    height_px: int
    width_px: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to use a backend. ``build`` options are part of the artifact; ``open`` options are not.

    ``precision`` is the class asked for (`Effective.precision` is what the runtime says it did). ``base`` variants make up the
    default run, the others ``--full``; a backend may have none, then whoever names it gets its first. ``mends`` names the
    documented variant that this one repairs.
    """

    id: str
    build: Mapping[str, Json] = field(default_factory=dict)
    open: Mapping[str, Json] = field(default_factory=dict)
    precision: str = "fp32"
    base: bool = True
    mends: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One model on one backend, variant and device; prints as ``tv_maskrcnn_tiny/openvino_ir[f32]@cpu``."""

    model: str
    backend: str
    variant: str
    device: str

    def __str__(self) -> str:
        return f"{self.model}/{self.backend}[{self.variant}]@{self.device}"


class Purpose(StrEnum):
    """Why a job runs. Each leaves one observation."""

    BUILD = "build"
    """Make the artifact from the perturbed model, open it again in the same process, save it once more."""
    PARITY = "parity"
    """Open the moved artifact, source weights still there; answer the whole deck; one thread."""
    FIDELITY = "fidelity"
    """Open the moved artifact in a fresh process, source weights gone, network cut, another HOME; one thread."""
    FLOOR = "floor"
    """The reference again, with other thread counts and equal-size batches: the noise of the reference itself."""
    TIMING = "timing"
    """The batch curve: alone on the machine, all threads."""


@dataclass(frozen=True, slots=True)
class Load:
    """How hard a job drives its backend: CPU threads (0: the runtime's default) and images a call."""

    threads: int = 1
    batch: int = 1


@dataclass(frozen=True, slots=True)
class Job:
    """A cell with a purpose, a load and a repeat number; runs once, in a process of its own."""

    cell: Cell
    purpose: Purpose
    load: Load = Load()
    repeat: int = 0

    def __str__(self) -> str:
        return f"{self.cell}:{self.purpose}:t{self.load.threads}b{self.load.batch}r{self.repeat}"

    @property
    def slug(self) -> str:
        """A file name that no other job has."""
        plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in str(self))
        return f"{plain[:120]}-{sha256(str(self).encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Effective:
    """What the runtime says it did. ``precision`` is the lower of stored weights and compute: fp32, fp16, bf16 or int8."""

    precision: str
    device: str
    provider: str
    threads: int | None
    streams: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TensorDigest:
    """One parameter or buffer: ``kind`` is parameter or buffer, ``sha256`` is of its bytes in C order."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    device: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Restoration:
    """What came back with the live object of a store: hashed by the harness, not by the adapter.

    ``config`` is the family's text of the configuration, None where the route keeps none; ``attached`` is what the caller stored
    beside the model (labels, metadata, custom objects, signatures), as JSON; ``defaults_changed`` names process-wide settings
    that opening changed (default dtype, default device, grad mode).
    """

    tensors: tuple[TensorDigest, ...]
    training: bool
    config: str | None
    attached: Mapping[str, Json]
    defaults_changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job left no answers.

    ``kind``: raised, exited, timeout, memory, killed, unavailable (a library is not installed, the backend declines), broken (a
    library is installed but does not work), unbuilt (the build job left no artifact; its own observation says why).
    """

    kind: str
    stage: str
    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TimingPoint:
    """One point of a batch curve: raw seconds of each warm call with ``batch`` images, and how the images were batched."""

    batch: int
    kind: str
    predict_s: tuple[float, ...]
    warmup_calls: int


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What one job left behind. Times in seconds, sizes in bytes; ``answers`` by image id, in the deck's order. Equal to itself.

    Build observations also carry ``source`` (the restoration of the live model before saving), ``source_after`` (the same after
    saving: the caller's objects must be unchanged), ``restored`` (opened again in the same process) and ``resaved`` (saved from
    what was loaded, and loaded again). One with both ``build_s`` and an error made the artifact, but could not open it again in
    the same process or save what it loaded: the artifact's other jobs run all the same.
    """

    job: Job
    answers: Mapping[str, Detections] = field(default_factory=dict)
    effective: Effective | None = None
    build_s: float | None = None
    open_s: float | None = None
    predict_s: tuple[float, ...] = ()
    curve: tuple[TimingPoint, ...] = ()
    artifact_bytes: int | None = None
    artifact_sha256: str | None = None
    peak_rss_bytes: int | None = None
    source: Restoration | None = None
    source_after: Restoration | None = None
    restored: Restoration | None = None
    resaved: Restoration | None = None
    isolation: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: JobError | None = None


class Status(StrEnum):
    """The verdict of one check on one cell; `design.md` has the table of what each means to pytest, the CLI and the gate."""

    PASSED = "passed"
    FAILED = "failed"
    ERRORED = "errored"
    DECLINED = "declined"
    WAIVED = "waived"
    INCONCLUSIVE = "inconclusive"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a record: ``value`` against ``level`` (None: reported, not judged), in ``unit``."""

    name: str
    value: float
    level: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One verdict: the key is (check, cell). ``compared`` counts what was looked at; zero is never a pass.

    ``image`` names the worst image, where there is one. ``waiver`` is the id of the waiver that applied (status waived) or that
    turned out to be stale (status passed). ``reproduce`` is a command line.
    """

    check: str
    cell: Cell
    status: Status
    reason: str
    compared: int = 0
    measures: tuple[Measure, ...] = ()
    image: str | None = None
    waiver: str | None = None
    reproduce: str = ""


def digest(value: Json) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()
