"""A run as a document: the kinds of line that ``run.jsonl`` holds, published as ``docs/run.schema.json``.

One JSON object a line: a header, then cells, records and exhibits in any order, then a footer. Figures that are no numbers are
written as the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, so that every line is plain JSON. ``python -m
harness.document docs/run.schema.json`` writes the schema.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, WithJsonSchema

from harness.types import Cell, Measure, Record, Status

SCHEMA_VERSION = 1

Figure: TypeAlias = Annotated[
    float, WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}]})
]
"""A number that a broken backend may have made NaN or infinite."""


def printable(text: Any) -> Any:
    """What a crashing library printed may hold bytes that are no UTF-8 (lone surrogates in Python); JSON cannot carry them."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


Text: TypeAlias = Annotated[str, BeforeValidator(printable)]
"""A sentence that may quote what a library said."""

ExhibitKind: TypeAlias = Literal["same", "moved", "score", "class", "mask", "missing", "extra"]
Box: TypeAlias = tuple[Figure, Figure, Figure, Figure]


class Part(BaseModel):
    """Everything written to a run: unknown fields are refused, nothing changes after construction."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class CellKey(Part):
    """One model on one backend, variant and device."""

    model: str
    backend: str
    variant: str
    device: str

    @classmethod
    def of(cls, cell: Cell) -> CellKey:
        """The key of a cell."""
        return cls(model=cell.model, backend=cell.backend, variant=cell.variant, device=cell.device)

    def cell(self) -> Cell:
        """The cell of this key."""
        return Cell(self.model, self.backend, self.variant, self.device)


class Machine(Part):
    """Where the run was made. ``fingerprint`` is equal for runs that may be compared in time; memory in bytes."""

    cpu_model: str
    cores: int
    memory_bytes: int
    os: str
    fingerprint: str
    accelerators: tuple[str, ...] = ()


class ModelEntry(Part):
    """A detector of this run. ``average_precision`` holds the figures recorded beside its weights, in 0..1, by name."""

    id: str
    family: str
    task: str
    classes: tuple[str, ...]
    score_threshold: Figure
    weights_sha256: str
    average_precision: Mapping[str, Figure] = Field(default_factory=dict)


class ImageEntry(Part):
    """A picture of the deck; ``sha256`` is of its raw RGB bytes."""

    id: str
    height_px: int
    width_px: int
    sha256: str


class DeckEntry(Part):
    """The pictures that every cell was asked about."""

    id: str
    sha256: str
    images: tuple[ImageEntry, ...]


class CheckEntry(Part):
    """A check as it was demanded in this run: its title and the paragraph that says what it asks."""

    id: str
    title: str
    asks: str


class Planned(Part):
    """A verdict that this run set out to give; one without a record is missing."""

    check: str
    cell: CellKey


class Notice(Part):
    """Something that is true of a whole run: a library that is not installed, a model that nobody trained."""

    subject: str
    state: Literal["not checked", "broken", "not trained"]
    reason: Text
    cure: Text = ""


class Level(Part):
    """A row of the table of levels, in words."""

    quantity: str
    level: str


class WaiverEntry(Part):
    """A known divergence that this run's records name. ``kind`` says whose it is to mend: ours, upstream or never."""

    id: str
    kind: str
    reason: Text
    stage: str = ""
    finding: str = ""
    expires: str = ""


class TestedVersions(Part):
    """Whether the installed versions are the tested ones; ``differing`` names those that are not, as ``name found (tested)``."""

    inside: bool
    differing: tuple[str, ...] = ()


class Header(Part):
    """The first line: what was asked, of what, where. ``created`` is UTC in ISO 8601; ``method`` says how, by topic."""

    kind: Literal["header"] = "header"
    schema_version: int = SCHEMA_VERSION
    run: str
    created: str
    command: Text
    reproduce: Text
    harness_version: str
    commit: str | None
    machine: Machine
    python: str
    versions: Mapping[str, str]
    tested_versions: TestedVersions
    options: Mapping[str, Any]
    models: tuple[ModelEntry, ...]
    deck: DeckEntry
    checks: tuple[CheckEntry, ...]
    planned: tuple[Planned, ...]
    levels: tuple[Level, ...] = ()
    method: Mapping[str, str] = Field(default_factory=dict)
    notices: tuple[Notice, ...] = ()
    waivers: tuple[WaiverEntry, ...] = ()


class EffectiveEntry(Part):
    """What the runtime said it did."""

    precision: str
    device: str
    provider: str
    threads: int | None
    streams: int | None = None
    versions: Mapping[str, str] = Field(default_factory=dict)


CLIENTS = "clients at once"
"""The kind of a curve whose sizes are numbers of clients."""

OF_MIXED_SIZES = ", mixed sizes"
"""What the kind of a curve ends in whose calls have pictures of several sizes."""


class CurvePoint(Part):
    """One batch size: raw seconds of each warm call with ``batch`` images, batched as ``batching`` says.

    Where ``unit`` is process, ``predict_s`` are the medians of processes that were fit (of `CLIENTS` their number over answers a
    second), and ``interval_s`` is the 95 % interval of their geometric mean, null where they are too few for a verdict.
    """

    batch: int
    batching: str
    predict_s: tuple[Figure, ...]
    warmup_calls: int
    unit: Literal["call", "process"] = "call"
    interval_s: tuple[Figure, Figure] | None = None


class ErrorEntry(Part):
    """Why a job of this cell left no answers."""

    kind: str
    stage: str
    message: Text
    detail: Text = ""


class CellLine(Part):
    """What is known of one cell beside its verdicts. Seconds and bytes.

    ``predict_s`` are those of the first point of ``curve``: warm calls with one image each, or processes. ``declined`` is the
    sentence with which the backend declined the whole cell.
    """

    kind: Literal["cell"] = "cell"
    cell: CellKey
    effective: EffectiveEntry | None = None
    build_s: Figure | None = None
    open_s: Figure | None = None
    artifact_bytes: int | None = None
    artifact_sha256: str | None = None
    peak_rss_bytes: int | None = None
    predict_s: tuple[Figure, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    isolation: Mapping[str, str] = Field(default_factory=dict)
    notes: tuple[Text, ...] = ()
    declined: Text | None = None
    error: ErrorEntry | None = None

    @property
    def median_predict_s(self) -> float | None:
        """Median seconds of a call with one image; None where none was timed."""
        return median(self.predict_s) if self.predict_s else None


class MeasureEntry(Part):
    """One figure against its level; a level of null is reported, not judged."""

    name: str
    value: Figure
    level: Figure | None = None
    unit: str = ""


class RecordLine(Part):
    """One verdict: check and cell are its key."""

    kind: Literal["record"] = "record"
    check: str
    cell: CellKey
    status: Status
    reason: Text
    compared: int = 0
    measures: tuple[MeasureEntry, ...] = ()
    image: str | None = None
    waiver: str | None = None
    reproduce: Text = ""
    stage: Text = ""

    @classmethod
    def of(cls, record: Record) -> RecordLine:
        """The line of a record."""
        measures = tuple(MeasureEntry(name=m.name, value=m.value, level=m.level, unit=m.unit) for m in record.measures)
        return cls(
            check=record.check,
            cell=CellKey.of(record.cell),
            status=record.status,
            reason=record.reason,
            compared=record.compared,
            measures=measures,
            image=record.image,
            waiver=record.waiver,
            reproduce=record.reproduce,
            stage=record.stage,
        )

    def record(self) -> Record:
        """The record of this line."""
        measures = tuple(Measure(m.name, m.value, m.level, m.unit) for m in self.measures)
        return Record(
            self.check,
            self.cell.cell(),
            self.status,
            self.reason,
            self.compared,
            measures,
            self.image,
            self.waiver,
            self.reproduce,
            self.stage,
        )


class Answer(Part):
    """Detections of one picture as they are drawn. Boxes and polygons in pixels of the original image; labels from 0.

    ``polygons`` holds the outlines of each mask, one list of rings a detection, each ring a flat ``x, y, x, y, ...``; empty where
    the task has none.
    """

    boxes_xyxy_px: tuple[Box, ...]
    scores: tuple[Figure, ...]
    labels: tuple[int, ...]
    polygons: tuple[tuple[tuple[float, ...], ...], ...] = ()


class Pair(Part):
    """A detection of the reference beside the candidate's (an index into each answer; null: it has none there)."""

    reference: int | None
    candidate: int | None
    difference: ExhibitKind
    iou: Figure | None = None
    box_px: Figure | None = None
    score: Figure | None = None


class ExhibitLine(Part):
    """The picture on which a cell differs most from its reference, with both answers. ``picture`` is base64."""

    kind: Literal["exhibit"] = "exhibit"
    cell: CellKey
    image: str
    height_px: int
    width_px: int
    media_type: Literal["image/png", "image/webp", "image/jpeg"]
    picture: str
    reference: Answer
    candidate: Answer
    pairs: tuple[Pair, ...]
    caption: Text = ""


class Footer(Part):
    """The last line. ``sha256`` is of every byte before it; ``cut_off`` says why the run ended early (null: it finished)."""

    kind: Literal["footer"] = "footer"
    cut_off: str | None
    seconds: float
    counts: Mapping[Status, int]
    sha256: str


Line: TypeAlias = Annotated[Header | CellLine | RecordLine | ExhibitLine | Footer, Field(discriminator="kind")]
LINE: TypeAdapter[Line] = TypeAdapter(Line)


def schema() -> str:
    """The JSON Schema of one line, as published: sorted, indented, newline at the end."""
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of run.jsonl",
        "description": f"detection-harness run, schema version {SCHEMA_VERSION}: one of these objects a line.",
        **LINE.json_schema(),
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(schema(), encoding="utf-8")
