"""The pictures that differ most, ready to draw: the reference dashed, the candidate solid, a letter on each difference."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.document import Answer, Box, ExhibitLine, Pair
from harness.journal import Run

LETTERS = {"moved": "B", "score": "S", "class": "C", "mask": "K", "missing": "M", "extra": "E"}
WORDS = {
    "moved": "box moved",
    "score": "score differs",
    "class": "class differs",
    "mask": "mask differs",
    "missing": "only in the reference",
    "extra": "only in the candidate",
    "same": "within the levels",
}
MOST_TAGS = 12
"""Marks on a picture: more hide it."""

MOST_ROWS = 60
"""Rows of the table under a picture that differ; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A box, and its mask as one SVG path; ``side`` is reference or candidate. Pixels of the original image."""

    side: str
    x: float
    y: float
    width: float
    height: float
    path: str
    quiet: bool


@dataclass(frozen=True, slots=True)
class Tag:
    """A letter and number on the picture; the same stand in the table."""

    text: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Row:
    """One pair in the table: the figures of both sides, None where one has none."""

    tag: str
    words: str
    reference_class: str | None
    candidate_class: str | None
    reference_score: float | None
    candidate_score: float | None
    box_px: float | None
    iou: float | None


@dataclass(frozen=True, slots=True)
class Overlay:
    """One picture with both answers drawn over it. ``font_px`` is the size of the tags in pixels of the picture."""

    line: ExhibitLine
    outlines: tuple[Outline, ...]
    tags: tuple[Tag, ...]
    rows: tuple[Row, ...]
    same: int
    hidden: int
    data: str
    font_px: float
    description: str


def overlays(run: Run) -> tuple[Overlay, ...]:
    """Every exhibit of the run, drawn."""
    classes = {model.id: model.classes for model in run.header.models}
    return tuple(_overlay(line, classes.get(line.cell.model, ())) for line in run.exhibits)


def _overlay(line: ExhibitLine, classes: Sequence[str]) -> Overlay:
    differing = [pair for pair in line.pairs if pair.difference != "same"]
    same = [pair for pair in line.pairs if pair.difference == "same"]
    font_px = max(line.width_px, line.height_px) / 24
    outlines = [outline for pair in (*same, *differing) for outline in _outlines(pair, line)]
    tags, rows = [], []
    for number, pair in enumerate(differing, start=1):
        text = f"{LETTERS[pair.difference]}{number}"
        tags += _tags(text, pair, line, font_px) if number <= MOST_TAGS else []
        rows.append(_row(text, pair, line, classes))
    told = ", ".join(f"{row.tag} {row.words}" for row in rows[:MOST_ROWS])
    return Overlay(
        line=line,
        outlines=tuple(outlines),
        tags=tuple(tags),
        rows=tuple(rows[:MOST_ROWS]),
        same=len(same),
        hidden=max(0, len(rows) - MOST_ROWS),
        data=f"data:{line.media_type};base64,{_base64(line.picture)}",
        font_px=round(font_px, 2),
        description=f"{line.image} with both answers: {told or 'no difference'}; {len(same)} within the levels.",
    )


def _base64(text: str) -> str:
    """The same bytes in canonical base64; nothing where it is none, so that a broken run breaks no page."""
    try:
        return base64.b64encode(base64.b64decode(text, validate=True)).decode()
    except ValueError:
        return ""


def _outlines(pair: Pair, line: ExhibitLine) -> list[Outline]:
    quiet = pair.difference == "same"
    found = []
    for side, answer, index in (("reference", line.reference, pair.reference), ("candidate", line.candidate, pair.candidate)):
        box = _box(answer, index)
        if box is not None and not (quiet and side == "reference"):
            x1, y1, x2, y2 = (round(v, 2) for v in box)
            width, height = round(max(x2 - x1, 0), 2), round(max(y2 - y1, 0), 2)
            found.append(Outline(side, x1, y1, width, height, "" if quiet else _path(answer, index), quiet))
    return found


def _box(answer: Answer, index: int | None) -> Box | None:
    """The box, or None where there is none that can be drawn."""
    if index is None or not 0 <= index < len(answer.boxes_xyxy_px):
        return None
    box = answer.boxes_xyxy_px[index]
    return box if all(math.isfinite(v) and abs(v) < 1e6 for v in box) else None


def _path(answer: Answer, index: int | None) -> str:
    if index is None or not 0 <= index < len(answer.polygons):
        return ""
    rings = []
    for ring in answer.polygons[index]:
        corners = [f"{x:.1f} {y:.1f}" for x, y in zip(ring[::2], ring[1::2], strict=False)]
        rings.append(f"M{'L'.join(corners)}Z")
    return "".join(rings)


def _tags(text: str, pair: Pair, line: ExhibitLine, font_px: float) -> list[Tag]:
    box = _box(line.candidate, pair.candidate) or _box(line.reference, pair.reference)
    if box is None:
        return []
    x = min(max(box[0], 1.0), line.width_px - 2.2 * font_px)
    y = box[1] - 0.35 * font_px if box[1] > 1.4 * font_px else min(box[1] + font_px, line.height_px - 2.0)
    return [Tag(text, round(x, 2), round(y, 2))]


def _row(tag: str, pair: Pair, line: ExhibitLine, classes: Sequence[str]) -> Row:
    return Row(
        tag,
        WORDS[pair.difference],
        _class(line.reference, pair.reference, classes),
        _class(line.candidate, pair.candidate, classes),
        _score(line.reference, pair.reference),
        _score(line.candidate, pair.candidate),
        pair.box_px,
        pair.iou,
    )


def _class(answer: Answer, index: int | None, classes: Sequence[str]) -> str | None:
    if index is None or not 0 <= index < len(answer.labels):
        return None
    label = answer.labels[index]
    return classes[label] if 0 <= label < len(classes) else f"class {label}"


def _score(answer: Answer, index: int | None) -> float | None:
    return answer.scores[index] if index is not None and 0 <= index < len(answer.scores) else None
