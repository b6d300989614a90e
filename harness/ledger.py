"""What the reference weighed up before it answered: the rows of each threshold, top-k, suppression and cap, for one image.

Certificates are made from it (`harness.certificates`), by deciding a measured tie the other way (`harness.selection`). Which rows
survived is not kept: replaying the ledger says it, and a ledger whose replay is not the reference's answer explains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """One selection among C rows.

    A row survives with a score above ``threshold``, among the best ``pool_size`` of its pool, large enough (``fit``), when no
    better survivor of its group overlaps it by more than ``overlap``; and of those the best ``cap``: in that order. Rows of equal
    score are taken as they stand. ``threshold`` is -inf, ``pool_size`` and ``cap`` are 0 where there is none.

    ``boxes_xyxy_px`` is ``float32 [C, 4]`` in px of the frame the network sees; ``scores`` ``float32 [C]``, probabilities, or
    logits if ``logits``; ``groups`` ``int32 [C]``, the class or the level of the pyramid; ``pools`` ``int32 [C]``; ``sources``
    ``int32 [C]``, the row of the selection before on which this one depends, -1 where on none; ``fit`` ``bool [C]``; ``shown``
    ``bool [C]``, whether a survivor is answered (Detectron2 drops those outside the image last of all). Rows that cannot survive
    under any tolerance of `harness.levels` are left out.
    """

    boxes_xyxy_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    groups: NDArray[np.int32]
    pools: NDArray[np.int32]
    sources: NDArray[np.int32]
    fit: NDArray[np.bool_]
    shown: NDArray[np.bool_]
    threshold: float
    overlap: float
    pool_size: int
    cap: int
    logits: bool = False

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True, eq=False)
class KeypointTies:
    """Places T where a keypoint might as well have been: another maximum of its heatmap, within the level of raw tensors.

    ``detections`` and ``points`` are ``int32 [T]``, the index in the reference's answer and the keypoint's; ``places_xy_px`` is
    ``float32 [T, 2]`` in px of the original image.
    """

    detections: NDArray[np.int32]
    points: NDArray[np.int32]
    places_xy_px: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """One image of ``size_hw_px``, height and width, and the frame in which the network saw it, ``frame_hw_px``.

    ``proposals`` is the region proposals' selection, None for a detector without; a row of ``detections`` depends on a proposal by
    its ``sources``, and those of proposals that only a tie kept out are among them. ``keypoints`` is None for a detector without.
    """

    size_hw_px: tuple[int, int]
    frame_hw_px: tuple[int, int]
    detections: Selection
    proposals: Selection | None = None
    keypoints: KeypointTies | None = None

    @property
    def scale_xy(self) -> tuple[float, float]:
        """`scale_xy` of this image."""
        return scale_xy(self.size_hw_px, self.frame_hw_px)


def scale_xy(size_hw_px: tuple[int, int], frame_hw_px: tuple[int, int]) -> tuple[float, float]:
    """Px of the original image for one px of the network's frame, along x and along y."""
    return size_hw_px[1] / frame_hw_px[1], size_hw_px[0] / frame_hw_px[0]


_COLUMNS = ("boxes_xyxy_px", "scores", "groups", "pools", "sources", "fit", "shown")
_FIGURES = ("threshold", "overlap", "pool_size", "cap", "logits")
_EMPTY = (
    np.zeros((0, 4), np.float32),
    np.zeros(0, np.float32),
    *(np.zeros(0, np.int32) for _ in range(3)),
    *(np.zeros(0, np.bool_) for _ in range(2)),
)
_TIES = tuple(field.name for field in fields(KeypointTies))
_NO_TIES = KeypointTies(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 2), np.float32))
_KEY = "ledger."


def pack(ledgers: Mapping[str, Ledger]) -> Arrays:
    """The ledgers, by image id, as arrays for an npz file, image after image; nothing where there are none."""
    if not ledgers:
        return {}
    held = list(ledgers.values())
    ties = [ledger.keypoints for ledger in held]
    return {
        f"{_KEY}images": np.array(list(ledgers), dtype=np.str_),
        f"{_KEY}sizes_hwhw_px": np.array([(*ledger.size_hw_px, *ledger.frame_hw_px) for ledger in held], np.int64),
        **_pack_selections("detections", [ledger.detections for ledger in held]),
        **_pack_selections("proposals", [ledger.proposals for ledger in held]),
        f"{_KEY}keypoints.counts": np.array([-1 if tie is None else len(tie.points) for tie in ties], np.int64),
        **{f"{_KEY}keypoints.{name}": np.concatenate([getattr(tie or _NO_TIES, name) for tie in ties]) for name in _TIES},
    }


def unpack(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Ledger]:
    """What `pack` packed, among whatever else ``arrays`` hold. Raises `KeyError` or `ValueError` where it is damaged."""
    if f"{_KEY}images" not in arrays:
        return {}
    count = len(arrays[f"{_KEY}images"])
    detections, proposals = (_unpack_selections(name, arrays, count) for name in ("detections", "proposals"))
    ledgers, starts = {}, _starts(arrays[f"{_KEY}keypoints.counts"])
    for index, image in enumerate(arrays[f"{_KEY}images"]):
        height, width, *frame = (int(side) for side in arrays[f"{_KEY}sizes_hwhw_px"][index])
        own = detections[index]
        if own is None:
            raise ValueError(f"the ledger of image {image} has no detections")
        keypoints = None
        if arrays[f"{_KEY}keypoints.counts"][index] >= 0:
            rows = slice(starts[index], starts[index + 1])
            keypoints = KeypointTies(*(arrays[f"{_KEY}keypoints.{name}"][rows] for name in _TIES))
        ledgers[str(image)] = Ledger((height, width), (frame[0], frame[1]), own, proposals[index], keypoints)
    return ledgers


def _pack_selections(stage: str, selections: list[Selection | None]) -> Arrays:
    found = [selection for selection in selections if selection is not None]
    columns = {
        name: np.concatenate([none, *(getattr(selection, name) for selection in found)])
        for name, none in zip(_COLUMNS, _EMPTY, strict=True)
    }
    figures = [[0.0] * len(_FIGURES) if s is None else [float(getattr(s, name)) for name in _FIGURES] for s in selections]
    return {
        f"{_KEY}{stage}.counts": np.array([-1 if s is None else len(s) for s in selections], np.int64),
        f"{_KEY}{stage}.figures": np.array(figures, np.float64),
        **{f"{_KEY}{stage}.{name}": column for name, column in columns.items()},
    }


def _unpack_selections(stage: str, arrays: Mapping[str, NDArray[Any]], count: int) -> list[Selection | None]:
    counts = arrays[f"{_KEY}{stage}.counts"]
    starts = _starts(counts)
    columns = [arrays[f"{_KEY}{stage}.{name}"] for name in _COLUMNS]
    if len(counts) != count or {len(column) for column in columns} != {starts[-1]}:
        raise ValueError(f"the ledger's {stage} do not have the length announced")
    found: list[Selection | None] = []
    for index in range(count):
        if counts[index] < 0:
            found.append(None)
            continue
        rows = slice(starts[index], starts[index + 1])
        threshold, overlap, pool_size, cap, logits = (float(figure) for figure in arrays[f"{_KEY}{stage}.figures"][index])
        own = dict(zip(_COLUMNS, (column[rows] for column in columns), strict=True))
        rules = {"threshold": threshold, "overlap": overlap, "pool_size": int(pool_size), "cap": int(cap), "logits": bool(logits)}
        found.append(Selection(**own, **rules))  # type: ignore[arg-type] # both have their names from the class
    return found


def _starts(counts: NDArray[Any]) -> list[int]:
    return [0, *(int(end) for end in np.cumsum(np.maximum(counts, 0)))]
