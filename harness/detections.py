"""What a detector answers: boxes, scores and labels, and what a task adds to them.

Arrays are owned, in host memory and checked on construction. Boxes are always ``[x1, y1, x2, y2]`` in pixels of the original image,
x to the right, y down, the corner of the image at (0, 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.errors import MalformedDetections

Pixels: TypeAlias = NDArray[np.uint8]
"""One picture: ``uint8 [H, W, 3]``, RGB, as decoded, at its original size."""

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
"""Named tensors in or out of a graph, in the graph's order."""


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


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic answer: its ``id`` in `Panoptic.ids`, and its label.

    ``label`` is an index into the model's classes where ``is_thing``, else into its stuff. ``score`` is that of the detection it
    came from, None for stuff.
    """

    id: int
    label: int
    is_thing: bool
    score: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Panoptic:
    """What every pixel belongs to: ``ids`` is ``int32 [H, W]`` of the original image, 0 where it is nothing's.

    Raises `MalformedDetections` when a pixel's id is of no segment, or two segments share one.
    """

    ids: NDArray[np.int32]
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if self.ids.dtype != np.int32 or self.ids.ndim != 2:
            raise MalformedDetections(f"the panoptic ids are {self.ids.dtype} {list(self.ids.shape)}, not int32 [H, W]")
        object.__setattr__(self, "ids", np.array(self.ids, order="C", copy=True))
        known = [segment.id for segment in self.segments]
        if len(set(known)) != len(known) or 0 in known:
            raise MalformedDetections(f"the panoptic segments have the ids {known}: they must differ and not be 0")
        strange = set(np.unique(self.ids).tolist()) - {0, *known}
        if strange:
            raise MalformedDetections(f"panoptic ids {sorted(strange)[:5]} are of no segment")


def _extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What a detector answered for one image.

    ``boxes_xyxy_px`` is ``float32 [N, 4]`` in pixels of the original image; ``scores`` is ``float32 [N]`` in 0..1; ``labels`` is
    ``int64 [N]``, the index into the model's classes, from 0, no background. What the task has not is None: ``masks``, in the
    frame of the image; ``raw_masks`` ``float32 [N, M, M]``, the mask head's probabilities in 0..1 before they are pasted into the
    boxes; ``keypoints`` ``float32 [N, K, 3]``, x and y in pixels of the original image, and a score; ``panoptic``, of the image.
    Order is the backend's own and carries no meaning. Construction checks dtypes and lengths, never values: a NaN score or a box
    outside the image is kept, so that the checks can see it. Raises `MalformedDetections`.
    """

    boxes_xyxy_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: Masks | None = None
    raw_masks: NDArray[np.float32] | None = None
    keypoints: NDArray[np.float32] | None = None
    panoptic: Panoptic | None = None

    def __post_init__(self) -> None:
        for name, dtype, ndim in _ARRAYS:
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != ndim:
                got = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
                raise MalformedDetections(f"{name} is {got}, not {np.dtype(dtype).name} with {ndim} dimension(s)")
            object.__setattr__(self, name, np.array(value, order="C", copy=True))
        lengths = {len(self.scores), len(self.labels), len(self.boxes_xyxy_px)}
        lengths |= {len(value) for value in (self.masks, self.raw_masks, self.keypoints) if value is not None}
        if len(lengths) != 1 or self.boxes_xyxy_px.shape[1] != 4:
            held = {name: getattr(self, name) for name in ("scores", "labels", "masks", *_OPTIONAL)}
            told = ", ".join(f"{name} {len(value)}" for name, value in held.items() if value is not None)
            raise MalformedDetections(f"boxes {list(self.boxes_xyxy_px.shape)}, {told}")

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, order: Sequence[int] | NDArray[np.intp]) -> Detections:
        """The detections at the given indices, in that order; the panoptic answer stays whole."""
        picked = np.asarray(order, dtype=np.intp)
        masks = None if self.masks is None else self.masks.take(picked)
        raw_masks, keypoints = (None if value is None else value[picked] for value in (self.raw_masks, self.keypoints))
        boxes, scores, labels = self.boxes_xyxy_px[picked], self.scores[picked], self.labels[picked]
        return Detections(boxes, scores, labels, masks, raw_masks, keypoints, self.panoptic)


_OPTIONAL = ("raw_masks", "keypoints")
_ARRAYS = (
    ("boxes_xyxy_px", np.float32, 2),
    ("scores", np.float32, 1),
    ("labels", np.int64, 1),
    ("raw_masks", np.float32, 3),
    ("keypoints", np.float32, 3),
)
