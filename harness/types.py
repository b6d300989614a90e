"""The nouns: what is asked of a detector, what it answered, and what was made of it.

Everything here is plain data; no library under test is imported. The answers themselves are in `harness.detections`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any, Literal, TypeAlias

from harness.detections import Detections
from harness.ledger import Ledger
from harness.timings import Sweep, TimingPoint

Task: TypeAlias = Literal["detection", "segmentation", "keypoints", "panoptic"]
Json: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the numbers of a model come from: ``source`` says how, ``path`` where, ``sha256`` what the file must hash to.

    Of conditioned ones path and digest are empty until `harness.conditioned` has made them.
    """

    source: Literal["shipped", "path", "conditioned"]
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A detector before it is built. ``config`` is plain JSON that the family reads; ``score_threshold`` is in 0..1.

    ``keypoints`` and ``stuff`` are names, of a detector that finds such; what is no thing and no stuff is nothing.
    """

    id: str
    family: str
    config: Mapping[str, Json]
    weights: Weights
    task: Task
    classes: tuple[str, ...]
    score_threshold: float
    detection_cap: int
    keypoints: tuple[str, ...] = ()
    stuff: tuple[str, ...] = ()

    @classmethod
    def read(cls, raw: Mapping[str, Json]) -> ModelSpec:
        """The spec of what `dataclasses.asdict` made, read back from JSON."""
        names = {name: tuple(raw[name]) for name in ("classes", "keypoints", "stuff")}
        return cls(**{**raw, **names, "weights": Weights(**raw["weights"])})

    @property
    def outputs(self) -> frozenset[str]:
        """What it answers besides boxes, scores and labels: the names of `Detections`' optional fields."""
        return _TASK_OUTPUTS[self.task]


_TASK_OUTPUTS: Mapping[Task, frozenset[str]] = {
    "detection": frozenset(),
    "segmentation": frozenset({"masks"}),
    "keypoints": frozenset({"keypoints"}),
    "panoptic": frozenset({"masks", "panoptic"}),
}


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
    documented variant that this one repairs. ``device`` is the kind of device asked for where it is not the cell's. Precision
    "default" and device "any" leave the choice to the runtime: it is judged in what was read back.
    """

    id: str
    build: Mapping[str, Json] = field(default_factory=dict)
    open: Mapping[str, Json] = field(default_factory=dict)
    precision: str = "fp32"
    base: bool = True
    mends: str | None = None
    device: str | None = None


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
    BEHAVIOUR = "behaviour"
    """Open the moved artifact; short sequences of calls: twice, after a blank picture, in batches, held; one thread."""
    PRECISION = "precision"
    """Open the moved artifact; answer the deck of a thousand objects and more that lower precision is judged on; one thread."""
    SERVING = "serving"
    """Post one picture in every kind of file, and what clients do wrong, to a service; one thread."""
    FLOOR = "floor"
    """The reference again, with other thread counts and equal-size batches: the noise of the reference itself."""
    TIMING = "timing"
    """The batch curve: alone on the machine, all threads."""
    SWEEP = "sweep"
    """Batches of growing size until that no longer pays: alone on the machine, all threads, one of several interleaved repeats."""
    STAGES = "stages"
    """Each stage of the candidate, fed the reference's own input; runs only where a level was missed."""
    OPERATORS = "operators"
    """The same, and then the operators of the first stage that differs; runs only when asked for."""


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
    that opening changed (default dtype, default device, grad mode). Not ``live``: a graph, with its tensors
    where it has any, and what was stored beside it.
    ``versions`` are those that the store says it was saved with, ``versions_wrong`` says in words which of them are not so.
    ``answers`` has the SHA-256 of each answer by image id, where what was opened was asked only for that.
    """

    tensors: tuple[TensorDigest, ...]
    training: bool
    config: str | None
    attached: Mapping[str, Json]
    defaults_changed: tuple[str, ...]
    live: bool = True
    versions: Mapping[str, str] = field(default_factory=dict)
    versions_wrong: tuple[str, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)


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
class Reply:
    """What a service said to one request: its HTTP status, its content type, and words where there is something to tell."""

    status: int
    kind: str
    words: str


@dataclass(frozen=True, slots=True)
class StageDifference:
    """One output of one stage that differs on one image: in words, with the worst difference and the level there."""

    image: str
    output: str
    words: str
    worst: float
    level: float


@dataclass(frozen=True, slots=True)
class StageReport:
    """What a candidate's stage made of the reference's own input on ``images`` pictures, ``compared`` numbers in all.

    ``error`` says why it could not be asked, where it could not.
    """

    stage: str
    images: int
    compared: int
    differences: tuple[StageDifference, ...] = ()
    error: str = ""

    @property
    def words(self) -> str:
        """The stage and how it differs, in a line: by a shape or a whole number where it does, which say most."""
        if not self.differences:
            return f"{self.stage}: {self.error}" if self.error else self.stage
        told = min(self.differences, key=lambda difference: difference.level > 0)
        return f"{self.stage}: {told.words} on image {told.image}"


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What one job left behind. Times in seconds, sizes in bytes; ``answers`` by image id, in the deck's order. Equal to itself.

    Build observations also carry ``source`` (the restoration of the live model before saving), ``source_after`` (the same after
    saving: the caller's objects must be unchanged), ``restored`` (opened again in the same process), ``rechanged`` (what was
    loaded, its weights perturbed once more, in training mode), ``rechanged_after`` (the same after saving it), ``resaved`` (that,
    saved and loaded again), ``archived`` (by an archive's ending: the artifact exported, imported and opened, or what was said
    where it could not be), ``keeps`` (what the route says that it keeps: `harness.adapters.Keeping`) and ``traced`` (the graph's
    own module, where what came back is a graph that has its tensors). One with both
    ``build_s`` and an error made the artifact, but could not open it again in the same process or save what it loaded: the
    artifact's other jobs run all the same.

    Sweep observations name answers as `harness.sweep.answer_name` says.

    The reference's parity observation has ``ledgers``, by image id: what it weighed up.

    Serving observations name answers and ``replies`` as `harness.wire.run` says.

    Behaviour observations name their answers as `harness.behaviour.told` reads them; ``declined`` says in words, by case, what
    the backend cannot be asked.
    """

    job: Job
    answers: Mapping[str, Detections] = field(default_factory=dict)
    effective: Effective | None = None
    build_s: float | None = None
    open_s: float | None = None
    predict_s: tuple[float, ...] = ()
    curve: tuple[TimingPoint, ...] = ()
    sweep: Sweep | None = None
    artifact_bytes: int | None = None
    artifact_sha256: str | None = None
    peak_rss_bytes: int | None = None
    source: Restoration | None = None
    source_after: Restoration | None = None
    restored: Restoration | None = None
    rechanged: Restoration | None = None
    rechanged_after: Restoration | None = None
    resaved: Restoration | None = None
    archived: Mapping[str, Restoration | str] = field(default_factory=dict)
    keeps: tuple[str, ...] = ()
    traced: Restoration | None = None
    isolation: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stages: tuple[StageReport, ...] = ()
    declined: Mapping[str, str] = field(default_factory=dict)
    ledgers: Mapping[str, Ledger] = field(default_factory=dict)
    replies: Mapping[str, Reply] = field(default_factory=dict)
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
    turned out to be stale (status passed). ``reproduce`` is a command line. ``stage`` is the first stage of the candidate that
    differs, in words, where it was looked for.
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
    stage: str = ""


def digest(value: Json) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()
