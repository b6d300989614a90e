"""What the recorders of both families share: listening to a live module, and rows of the ledger made from its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness import levels
from harness.ledger import KeypointTies, Selection
from harness.selection import ALWAYS, Contest

if TYPE_CHECKING:
    import torch

MARGIN = levels.SCORE_LIMIT
"""How far below a threshold or a last rank a probability may lie and still be recorded: no tolerance is wider."""


@contextmanager
def overheard(owner: Any, name: str, listener: Callable[[tuple[Any, ...], Any], None]) -> Iterator[None]:
    """While this lasts, ``listener`` is told arguments and result of each call of that method of ``owner``, of this object alone.

    The arguments must be given by position. The listener must copy what is changed in place later.
    """
    method = getattr(owner, name)
    shadowed = vars(owner).get(name)

    def listening(*arguments: Any) -> Any:
        result = method(*arguments)
        listener(arguments, result)
        return result

    vars(owner)[name] = listening
    try:
        yield
    finally:
        if shadowed is None:
            del vars(owner)[name]
        else:
            vars(owner)[name] = shadowed


def array(tensor: torch.Tensor, dtype: Any = np.float32) -> NDArray[Any]:
    """A copy on the host."""
    return np.array(tensor.detach().cpu().numpy(), dtype=dtype)


def best_and_near(scores: torch.Tensor, count: int, margin: float) -> torch.Tensor:
    """The indices of the ``count`` best of ``scores`` ``[N]`` (0: all) and of those less than ``margin`` worse, best first."""
    if 0 < count < len(scores):
        last = scores.topk(count).values[-1]
        count = int((scores >= last - margin).sum())
        return scores.topk(count).indices
    return scores.sort(descending=True, stable=True).indices


def logit_margin(logits: torch.Tensor) -> float:
    """Twice the level of raw tensors for the largest value: what may tie two logits."""
    return 2.0 * (levels.RAW_PER_MAX + levels.RAW_PER_VALUE) * float(logits.abs().max()) if logits.numel() else 0.0


class Rules(NamedTuple):
    """The figures of a `Selection`, by which it selects."""

    threshold: float
    overlap: float
    pool_size: int
    cap: int


def region_proposals(
    boxes: Sequence[torch.Tensor],
    logits: Sequence[torch.Tensor],
    fits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    rules: Rules,
) -> Selection:
    """The selection of region proposals, from the decoded and clipped boxes ``[Ai, 4]`` and logits ``[Ai]`` of every level.

    ``fits`` says of boxes and logits which are large and finite enough.
    """
    import torch

    picked = [best_and_near(own, rules.pool_size, logit_margin(own)) for own in logits]
    taken = torch.cat([own[indices] for own, indices in zip(boxes, picked, strict=True)])
    scores = torch.cat([own[indices] for own, indices in zip(logits, picked, strict=True)])
    of_level = np.repeat(np.arange(len(picked), dtype=np.int32), [len(indices) for indices in picked])
    fit = array(fits(taken, scores), np.bool_)
    alone = np.full(len(fit), ALWAYS, np.int32)
    return Selection(array(taken), array(scores), of_level, of_level, alone, fit, np.ones_like(fit), *rules, logits=True)


def box_head(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    sources: NDArray[np.int32],
    fits: Callable[[torch.Tensor], torch.Tensor],
    rules: Rules,
) -> Selection:
    """The detections' selection of a box head: ``boxes`` ``[R, K, 4]``, clipped, and ``scores`` ``[R, K]`` of the K classes.

    ``sources`` ``[R]`` are the proposals' rows; ``fits`` says of boxes which are large and finite enough.
    """
    places, classes = (scores > rules.threshold - MARGIN).nonzero(as_tuple=True)
    taken, labels = boxes[places, classes], array(classes, np.int32)
    fit, rows = array(fits(taken), np.bool_), sources[array(places, np.intp)]
    best = array(scores[places, classes])
    return Selection(array(taken), best, labels, np.zeros_like(labels), rows, fit, np.ones_like(fit), *rules)


def dense(
    pools: Sequence[tuple[torch.Tensor, torch.Tensor]], decode: Callable[[int, torch.Tensor], torch.Tensor], rules: Rules
) -> Selection:
    """The selection of a detector without proposals: for every pool its scores ``[P]`` and the labels of them ``[P]``.

    ``decode`` gives the boxes ``[n, 4]``, clipped as the detector does, of indices into a pool.
    """
    import torch

    picked = []
    for scores, _ in pools:
        above = (scores > rules.threshold - MARGIN).nonzero()[:, 0]
        picked.append(above[best_and_near(scores[above], rules.pool_size, MARGIN)])
    boxes = array(torch.cat([decode(pool, taken) for pool, taken in enumerate(picked)]))
    best, labels = (torch.cat([own[part][taken] for own, taken in zip(pools, picked, strict=True)]) for part in (0, 1))
    of_pool = np.repeat(np.arange(len(picked), dtype=np.int32), [len(taken) for taken in picked])
    always = np.ones(len(of_pool), np.bool_)
    alone = np.full(len(of_pool), ALWAYS, np.int32)
    return Selection(boxes, array(best), array(labels, np.int32), of_pool, alone, always, always, *rules)


def rows_of(boxes: NDArray[np.float32], proposals: Selection) -> NDArray[np.int32]:
    """Which row each of these boxes is, bit for bit, each row once: `ALWAYS` where none.

    Two proposals of one box have one content, so which of them is which row is no matter.
    """
    at: dict[bytes, list[int]] = {}
    for row in reversed(range(len(proposals))):
        at.setdefault(proposals.boxes_xyxy_px[row].tobytes(), []).append(row)
    return np.array([(at.get(box.tobytes()) or [ALWAYS]).pop() for box in boxes], dtype=np.int32)


def tied_out(proposals: Selection, taken: NDArray[np.int32], scale_xy: tuple[float, float]) -> NDArray[np.int32]:
    """The rows that are not among ``taken`` and would be, were a tie decided the other way."""
    everything = np.ones(len(proposals), np.bool_)
    undecided = Contest(proposals, scale_xy, levels.SCORE, 0.0).undecided(everything, everything)
    return np.setdiff1d(np.flatnonzero(undecided), taken).astype(np.int32)


def keypoint_ties(maps: torch.Tensor, boxes: torch.Tensor, scale_xy: tuple[float, float]) -> KeypointTies:
    """Where else the maxima of heatmaps ``[N, K, S, S]`` might be, in ``boxes`` ``[N, 4]`` of the network's frame.

    A heatmap is read at the box's size rounded up to whole px, as both libraries do, so a side that is whole but for the level of
    its box is a tie as well, and both sizes are read.
    """
    found = [
        (index, point, place) for index, box in enumerate(array(boxes)) for point, place in _tied_places(maps[index], box, scale_xy)
    ]
    return KeypointTies(
        np.array([index for index, _, _ in found], np.int32),
        np.array([point for _, point, _ in found], np.int32),
        np.array([place for _, _, place in found], np.float32).reshape(-1, 2),
    )


def _tied_places(
    maps: torch.Tensor, box: NDArray[np.float32], scale_xy: tuple[float, float]
) -> Iterator[tuple[int, tuple[float, float]]]:
    from torch.nn.functional import interpolate

    sides = np.maximum(box[2:] - box[:2], 1.0).astype(np.float64)
    reach = float(levels.box_reach_px(sides.min(keepdims=True) * min(scale_xy))[0]) / min(scale_xy)
    widths, heights = (sorted({int(np.ceil(side - 2 * reach)), int(np.ceil(side + 2 * reach))}) for side in sides)
    taken = (int(np.ceil(sides[0])), int(np.ceil(sides[1])))
    for width, height in [(width, height) for width in widths for height in heights]:
        read = array(interpolate(maps[None], size=(max(height, 1), max(width, 1)), mode="bicubic", align_corners=False)[0])
        for point, heat in enumerate(read):
            level = levels.RAW_PER_MAX * np.abs(heat).max() + levels.RAW_PER_VALUE * np.abs(heat.max())
            for y, x in np.argwhere(heat >= heat.max() - level).tolist():
                if (width, height) != taken or y * heat.shape[1] + x != heat.argmax():
                    place = (np.array([x, y]) + 0.5) * sides / (heat.shape[1], heat.shape[0]) + box[:2]
                    yield point, (float(place[0] * scale_xy[0]), float(place[1] * scale_xy[1]))
