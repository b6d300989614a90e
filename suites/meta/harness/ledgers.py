"""Invented ledgers, and ledgers replayed, for the tests of everything that is made from them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.certificates import Limits
from harness.detections import Detections
from harness.ledger import Ledger, Selection
from harness.selection import Contest, Tie
from harness.suites.meta.harness.answers import CAP, THRESHOLD, detections

SIZE_HW_PX = (120, 160)
LIMITS = Limits(THRESHOLD, CAP, 1e-4)


def selection(rows: Sequence[tuple[Sequence[float], float, int]], **figures: Any) -> Selection:
    """Rows of (box, score, group), one pool, nothing they depend on; the threshold, NMS at 0.5 and the cap of the invented spec."""
    count = len(rows)
    given: dict[str, Any] = {
        "pools": np.zeros(count, np.int32),
        "sources": np.full(count, -1, np.int32),
        "fit": np.ones(count, np.bool_),
        "shown": np.ones(count, np.bool_),
        "threshold": THRESHOLD,
        "overlap": 0.5,
        "pool_size": 0,
        "cap": CAP,
        **figures,
    }
    return Selection(
        np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([group for _, _, group in rows], np.int32),
        **given,
    )


def ledger(rows: Sequence[tuple[Sequence[float], float, int]], **figures: Any) -> Ledger:
    """A ledger of these detections in the frame of the image."""
    return Ledger(SIZE_HW_PX, SIZE_HW_PX, selection(rows, **figures))


def replayed(known: Ledger, ties: Collection[Tie] = (), of_proposals: Collection[Tie] = ()) -> NDArray[np.intp]:
    """The rows that the ledger's detector answers, best first, with these ties decided the other way."""
    live = None
    if known.proposals is not None:
        sources = known.detections.sources
        live = (sources < 0) | np.isin(sources, contest(known, "proposals").kept(None, of_proposals))
    kept = contest(known).kept(live, ties)
    return kept[known.detections.shown[kept]]


def answer(known: Ledger, rows: NDArray[np.intp] | None = None) -> Detections:
    """What the ledger's detector answers; or these rows, as it would answer them."""
    taken = replayed(known) if rows is None else rows
    height, width = known.size_hw_px
    boxes = np.clip(contest(known).boxes_xyxy_px[taken], 0, [width, height, width, height])
    return detections(boxes.tolist(), known.detections.scores[taken].tolist(), known.detections.groups[taken].tolist())


def contest(known: Ledger, stage: str = "detections") -> Contest:
    """The selection at the limits of the tests."""
    return Contest(getattr(known, stage), known.scale_xy, LIMITS.score_tolerance, LIMITS.box_floor_px)


def selections(most: int = 14) -> st.SearchStrategy[Selection]:
    """Crowded selections with equal and nearly equal scores, some on the threshold, in two groups and two pools."""
    corner = st.integers(0, 60).map(lambda quarter: quarter / 4)
    side = st.integers(40, 100).map(lambda quarter: quarter / 4)
    score = st.tuples(st.integers(0, 12), st.integers(-3, 3)).map(lambda s: THRESHOLD + s[0] / 20 + s[1] * 4e-5)
    row = st.tuples(corner, corner, side, side, score, st.integers(0, 1), st.integers(0, 1), st.booleans())

    def made(rows: list[tuple[Any, ...]], pool_size: int, cap: int) -> Selection:
        return selection(
            [((x, y, x + w, y + h), s, group) for x, y, w, h, s, group, _, _ in rows],
            pools=np.array([row[6] for row in rows], np.int32),
            fit=np.array([row[7] or row[6] == 0 for row in rows], np.bool_),
            pool_size=pool_size,
            cap=cap,
        )

    return st.builds(made, st.lists(row, min_size=1, max_size=most), st.sampled_from([0, 3, 5]), st.sampled_from([0, 2, 5]))
