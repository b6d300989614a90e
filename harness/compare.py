"""What differs between two answers to the same deck, and by how much. No level is applied here; `harness.checks` judges.

Every image is matched as sets (`harness.match`); what is measured (`harness.pairs`) is kept one number a pair, so that a judge can
name the worst pair and the level that holds for its size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.certificates import Certificate, Certificates, Limits, certificates, excused_keypoints
from harness.detections import Detections
from harness.ledger import Ledger
from harness.match import Matching, match
from harness.pairs import Quantity, box_values, keypoint_values, mask_values, raw_mask_values
from harness.panoptic import SegmentMatching, match_segments, panoptic_quality

Output: TypeAlias = Literal["masks", "raw_masks", "keypoints", "panoptic"]
OUTPUTS: tuple[Output, ...] = ("masks", "raw_masks", "keypoints", "panoptic")
"""What can be compared besides boxes, scores and classes."""

_LEAST: frozenset[Quantity] = frozenset({"iou", "mask_iou", "raw_mask_cosine"})
"""Where less is worse; equal values have 1."""


class Pair(NamedTuple):
    """One matched pair: the image, and the index of the detection in either answer."""

    image: str
    reference: int
    candidate: int


@dataclass(frozen=True, slots=True, eq=False)
class ImageComparison:
    """Two answers to one image. M is the number of matched pairs.

    ``certificates`` say what a tie explains; ``tied_keypoints`` counts the keypoints that lie at another maximum of their heatmap.
    ``values`` has ``float64 [M]`` for every quantity: absolute difference in ``score``; largest coordinate difference
    ``box_px``; ``iou`` of the boxes; shorter side of the reference's box ``side_px``; ``class_differs``, 0 or 1; and, where both
    answers have the output (else those keys are absent), of masks ``mask_iou``, ``mask_area_px`` (of the reference's),
    ``mask_flipped_px`` (pixels that differ) and ``mask_unexplained_px`` (those of them that the reference does not place within
    0.01 of the threshold); of raw masks ``raw_mask_share``, the largest difference as a share of its level, and
    ``raw_mask_cosine``; of keypoints ``keypoint_px``, the distance of the farthest, and ``keypoint_score``. A difference from a
    value that is not finite is infinite. ``mask_pixels`` counts the pixels set in either mask of a pair. ``segments`` are the
    matched panoptic segments, None unless both answers have some for a picture of one size. ``lost`` names the outputs that were
    to be compared and that the reference's answer has and the candidate's has not, or for a picture of another size.
    """

    image: str
    matching: Matching
    certificates: Certificates
    values: Mapping[Quantity, NDArray[np.float64]]
    mask_pixels: int
    segments: SegmentMatching | None = None
    tied_keypoints: int = 0
    lost: tuple[Output, ...] = ()

    @property
    def certified_missing(self) -> NDArray[np.intp]:
        """Those of ``matching.missing`` that a tie explains."""
        return np.array(sorted(self.certificates.missing), np.intp)

    @property
    def certified_extra(self) -> NDArray[np.intp]:
        """Those of ``matching.extra`` that a tie explains."""
        return np.array(sorted(self.certificates.extra), np.intp)

    @property
    def unmatched(self) -> int:
        """Detections without a partner, on either side."""
        return len(self.matching.missing) + len(self.matching.extra)

    @property
    def detections(self) -> int:
        """All detections of both sides."""
        return 2 * len(self.matching.pairs) + self.unmatched

    @property
    def judged(self) -> NDArray[np.intp] | slice:
        """The pairs that are held to a level: all but those whose difference a tie explains."""
        tied = list(self.certificates.pairs)
        return np.delete(np.arange(len(self.matching.pairs)), tied) if tied else slice(None)


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two answers to a deck, image by image. ``unanswered`` names the images for which the candidate left no answer at all."""

    images: tuple[ImageComparison, ...]
    unanswered: tuple[str, ...] = ()

    @property
    def matched(self) -> int:
        """Matched pairs."""
        return sum(len(image.matching.pairs) for image in self.images)

    @property
    def missing(self) -> int:
        """The reference's detections without a partner."""
        return sum(len(image.matching.missing) for image in self.images)

    @property
    def extra(self) -> int:
        """The candidate's detections without a partner."""
        return sum(len(image.matching.extra) for image in self.images)

    @property
    def certified(self) -> int:
        """Detections that a tie explains: without a partner (one missing for one extra of an image is one), or astray in a pair."""
        return sum(image.certificates.count for image in self.images)

    @property
    def certified_by(self) -> dict[Certificate, int]:
        """How many each kind of tie explains; kinds that explain none are left out."""
        counts = Counter[Certificate]()
        for image in self.images:
            counts.update(image.certificates.counts)
        return {kind: counts[kind] for kind in Certificate if counts[kind]}

    @property
    def tied_keypoints(self) -> int:
        """Keypoints that lie at another maximum of the reference's heatmap, tied with the one that it took."""
        return sum(image.tied_keypoints for image in self.images)

    @property
    def unexplained(self) -> int:
        """Detections without a partner, on either side, that no tie explains."""
        tied = sum(len(image.certificates.missing) + len(image.certificates.extra) for image in self.images)
        return self.missing + self.extra - tied

    @property
    def judged(self) -> int:
        """Matched pairs that are held to a level: those in every `column`."""
        return self.matched - sum(len(image.certificates.pairs) for image in self.images)

    @property
    def detections(self) -> int:
        """Everything looked at: pairs and what had no partner."""
        return self.matched + self.missing + self.extra

    @property
    def mask_pixels(self) -> int:
        """Pixels set in either mask of a pair, over all pairs."""
        return sum(image.mask_pixels for image in self.images)

    @property
    def panoptic_quality(self) -> float:
        """PQ of the deck, in 0..1; NaN where no segments were compared."""
        return panoptic_quality(image.segments for image in self.images if image.segments is not None)

    def column(self, quantity: Quantity) -> NDArray[np.float64]:
        """That quantity of every pair that is judged, ``float64 [P]``; pairs without it (such as of masks) are left out."""
        held = [image.values[quantity][image.judged] for image in self.images if quantity in image.values]
        return np.concatenate(held) if held else np.zeros(0)

    def pair(self, quantity: Quantity, index: int) -> Pair:
        """Which pair stands at ``index`` of ``column(quantity)``. Raises `IndexError`."""
        for image in self.images:
            pairs = image.matching.pairs[image.judged] if quantity in image.values else ()
            if index < len(pairs):
                return Pair(image.image, int(pairs[index][0]), int(pairs[index][1]))
            index -= len(pairs)
        raise IndexError(f"the comparison has no such pair of {quantity}")

    def worst(self, quantity: Quantity) -> float:
        """The largest value of the deck (the smallest of an IoU or a cosine); the value of no difference where empty."""
        column = self.column(quantity)
        if quantity in _LEAST:
            return float(column.min(initial=1.0))
        return float(column.max(initial=0.0))

    def percentile(self, quantity: Quantity, percent: float) -> float:
        """That percentile, 0..100, of the quantity over the deck's pairs; NaN where nothing was compared."""
        column = self.column(quantity)
        return float(np.percentile(column, percent, method="higher")) if len(column) else float("nan")

    def worst_image(self) -> str | None:
        """The image whose answers differ most: by unmatched detections, then class, then box, then score. None if none.

        The image of one quantity's worst pair is `pair`'s.
        """

        def severity(image: ImageComparison) -> tuple[float, ...]:
            certified = len(image.certificates.missing) + len(image.certificates.extra)
            worst = (float(image.values[name][image.judged].max(initial=0.0)) for name in ("class_differs", "box_px", "score"))
            return (image.unmatched - certified, *worst, image.unmatched + len(image.certificates.pairs))

        found = max(self.images, key=severity, default=None)
        return found.image if found is not None and any(severity(found)) else None


def compare(
    reference: Mapping[str, Detections],
    candidate: Mapping[str, Detections],
    limits: Limits,
    images: Sequence[str] | None = None,
    outputs: Collection[Output] = OUTPUTS,
    ledgers: Mapping[str, Ledger] | None = None,
) -> Comparison:
    """Compare two decks of answers by image id.

    ``images`` chooses which (all of the reference's, by default). An image without an answer from the candidate counts as one
    without detections and is named in `Comparison.unanswered`; one without an answer from the reference raises `KeyError`.
    ``outputs`` chooses what is compared besides boxes, scores and classes: nothing is fastest. ``ledgers`` are the reference's, by
    image id, from which certificates are made.
    """
    wanted = list(reference) if images is None else list(images)
    unanswered = tuple(image for image in wanted if image not in candidate)
    known = ledgers or {}
    compared = (
        compare_image(image, reference[image], candidate.get(image, NOTHING), limits, outputs, known.get(image)) for image in wanted
    )
    return Comparison(tuple(compared), unanswered)


def compare_image(
    image: str,
    reference: Detections,
    candidate: Detections,
    limits: Limits,
    outputs: Collection[Output] = OUTPUTS,
    ledger: Ledger | None = None,
) -> ImageComparison:
    """Match two answers to one image, look for certificates, and measure every pair."""
    matching = match(reference, candidate)
    values = box_values(reference, candidate, matching.pairs)
    rows, columns = matching.pairs.T
    pixels = tied_keypoints = 0
    if "masks" in outputs and reference.masks is not None and candidate.masks is not None:
        of_masks, pixels = mask_values(reference.masks.take(rows), candidate.masks.take(columns))
        values |= of_masks
    if "raw_masks" in outputs and reference.raw_masks is not None and candidate.raw_masks is not None:
        values |= raw_mask_values(reference.raw_masks[rows], candidate.raw_masks[columns])
    if "keypoints" in outputs and reference.keypoints is not None and candidate.keypoints is not None:
        mine, theirs = reference.keypoints[rows], candidate.keypoints[columns]
        excused = excused_keypoints(ledger, rows, mine, theirs)
        tied_keypoints = int(excused.sum())
        values |= keypoint_values(mine, theirs, excused)
    segments = _segments(reference, candidate) if "panoptic" in outputs else None
    given: dict[Output, bool] = {
        "masks": candidate.masks is not None,
        "raw_masks": candidate.raw_masks is not None,
        "keypoints": candidate.keypoints is not None,
        "panoptic": segments is not None,
    }
    lost = tuple(name for name in OUTPUTS if name in outputs and getattr(reference, name) is not None and not given[name])
    ties = certificates(reference, candidate, matching, limits, ledger)
    return ImageComparison(image, matching, ties, values, pixels, segments, tied_keypoints, lost)


NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
"""The answer of a detector that found nothing."""


def _segments(reference: Detections, candidate: Detections) -> SegmentMatching | None:
    mine, theirs = reference.panoptic, candidate.panoptic
    if mine is None or theirs is None or mine.ids.shape != theirs.ids.shape:
        return None
    return match_segments(mine, theirs)
