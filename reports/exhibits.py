"""Which pictures a run keeps for its page: those on which a cell's answers differ most from the reference's.

Observations may be deleted, so what the page draws goes into the run itself, small: the picture, both answers, and how each
detection of the one pairs with one of the other.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness import levels
from harness.certificates import Limits
from harness.compare import Comparison, ImageComparison, compare, compare_image
from harness.detections import Detections, Masks, Pixels
from harness.document import Answer, CellKey, ExhibitKind, ExhibitLine, Pair
from harness.pairs import Quantity
from harness.types import Cell, Observation, Record, Status

TROUBLED = (Status.FAILED, Status.WAIVED)
MOST = 24
"""Pictures of cells that failed; each takes some 20 kB of the page."""

CLOSEST = 3
"""Pictures where nothing failed: enough to see that both answers were there."""

LONGEST_PX = 640
MOST_OUTLINES = 12
"""Differing pairs whose masks are outlined."""

NO_LIMITS = Limits(score_threshold=-1.0, detection_cap=0, score_tolerance=0.0)
"""Nothing is excused: what a tie explains is drawn as well."""


class Pictures(Protocol):
    """What is needed of a deck."""

    def pixels(self, image_id: str) -> Pixels:
        """The picture of that id."""


def exhibits(
    deck: Pictures, records: Sequence[Record], answers: Mapping[Cell, tuple[Observation, Observation]]
) -> Iterator[ExhibitLine]:
    """The exhibits of a run; ``answers`` holds the parity observations of each cell and of its reference.

    One for every cell whose parity failed or is waived, on the picture that its record names; where there is none, the few
    that differ most, however little.
    """
    named: dict[Cell, str | None] = {}
    for record in records:
        if record.check.startswith("parity.") and record.status in TROUBLED and record.cell in answers:
            named[record.cell] = named.get(record.cell) or record.image
    chosen = list(named.items())[:MOST] if named else [(cell, None) for cell in _closest(answers)]
    for cell, image in chosen:
        candidate, reference = answers[cell]
        shared = [name for name in reference.answers if name in candidate.answers]
        wanted = image if image in shared else _compared(candidate, reference).worst_image()
        if wanted in shared:
            yield exhibit(cell, wanted, deck.pixels(wanted), reference.answers[wanted], candidate.answers[wanted])


def exhibit(cell: Cell, image: str, pixels: Pixels, reference: Detections, candidate: Detections) -> ExhibitLine:
    """One picture with both answers; differences beyond the levels (at a noise floor of 0) come first."""
    compared = compare_image(image, reference, candidate, NO_LIMITS)
    pairs = sorted(_pairs(compared), key=_severity)
    outlined = [pair for pair in pairs if pair.difference != "same"][:MOST_OUTLINES]
    return ExhibitLine(
        cell=CellKey.of(cell),
        image=image,
        height_px=int(pixels.shape[0]),
        width_px=int(pixels.shape[1]),
        media_type="image/webp",
        picture=_picture(pixels),
        reference=_answer(reference, {pair.reference for pair in outlined}),
        candidate=_answer(candidate, {pair.candidate for pair in outlined}),
        pairs=tuple(pairs),
    )


def _compared(candidate: Observation, reference: Observation) -> Comparison:
    return compare(reference.answers, candidate.answers, NO_LIMITS, outputs=())


def _closest(answers: Mapping[Cell, tuple[Observation, Observation]]) -> list[Cell]:
    """The cells that differ most, of those that differ at all."""
    worst: dict[Cell, float] = {}
    for cell, (candidate, reference) in answers.items():
        found = _compared(candidate, reference)
        if found.worst_image() is not None:
            worst[cell] = found.worst("box_px") + found.missing + found.extra
    return sorted(worst, key=lambda cell: (-worst[cell], cell))[:CLOSEST]


def _pairs(compared: ImageComparison) -> Iterator[Pair]:
    for index, (reference, candidate) in enumerate(compared.matching.pairs):
        values = {name: float(column[index]) for name, column in compared.values.items()}
        yield Pair(
            reference=int(reference),
            candidate=int(candidate),
            difference=_difference(values),
            iou=values["iou"],
            box_px=values["box_px"],
            score=values["score"],
        )
    for reference in compared.matching.missing:
        yield Pair(reference=int(reference), candidate=None, difference="missing")
    for candidate in compared.matching.extra:
        yield Pair(reference=None, candidate=int(candidate), difference="extra")


def _difference(values: Mapping[Quantity, float]) -> ExhibitKind:
    """The gravest of what differs."""
    if values["class_differs"]:
        return "class"
    if values["box_px"] > float(levels.box_level_px(np.array(values["side_px"]))):
        return "moved"
    if "mask_iou" in values and values["mask_iou"] < float(levels.mask_iou_level(np.array(values["mask_area_px"]))):
        return "mask"
    return "score" if values["score"] > levels.score_level() else "same"


def _severity(pair: Pair) -> tuple[int, float, float]:
    order: tuple[ExhibitKind, ...] = ("missing", "extra", "class", "moved", "mask", "score", "same")
    return order.index(pair.difference), -(pair.box_px or 0.0), -(pair.score or 0.0)


def _answer(detections: Detections, outlined: set[int | None]) -> Answer:
    masks = detections.masks
    return Answer(
        boxes_xyxy_px=tuple(_rounded(box) for box in detections.boxes_xyxy_px),
        scores=tuple(round(float(score), 6) for score in detections.scores),
        labels=tuple(int(label) for label in detections.labels),
        polygons=() if masks is None else tuple(outlines(masks, index) if index in outlined else () for index in range(len(masks))),
    )


def _rounded(box: NDArray[np.float32]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(float(side), 3) for side in box)
    return x1, y1, x2, y2


def outlines(masks: Masks, index: int) -> tuple[tuple[float, ...], ...]:
    """The rings around and inside one mask, each ``x, y, x, y, ...`` in pixels of the original image."""
    from contourpy import contour_generator

    padded = np.pad(masks.crops[index], 1).astype(np.float64)
    if not padded.any():
        return ()
    rings = [np.asarray(ring, dtype=np.float64) for ring in contour_generator(z=padded, line_type="Separate").lines(0.5)]
    # The padding puts the crop's first pixel at 1, and a pixel's middle lies half a pixel inside it.
    corner = masks.origins_xy_px[index].astype(np.float64) - 0.5
    return tuple(tuple(round(float(v), 1) for v in (_corners(ring) + corner).ravel()) for ring in rings)


def _corners(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ring without the points on its straight stretches; the last point, which repeats the first, goes too."""
    open_ring = ring[:-1]
    before, after = open_ring - np.roll(open_ring, 1, axis=0), np.roll(open_ring, -1, axis=0) - open_ring
    turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    kept: NDArray[np.float64] = open_ring[turns] if turns.any() else open_ring
    return kept


def _picture(pixels: Pixels) -> str:
    """A small copy in WebP, as base64."""
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_PX, LONGEST_PX))
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=82)
    return base64.b64encode(stream.getvalue()).decode()
