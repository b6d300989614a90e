"""Sampling of durations: the survey of a batch curve. Monotonic clock, device synchronised at both ends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harness.detections import Detections, Pixels
from harness.timings import TimingPoint

BATCHES = (1, 2, 4, 8)
WARMUP_CALLS = 1
FEWEST_CALLS = 11
"""What a median needs (`harness.levels.MEDIAN_SAMPLES`)."""
MOST_CALLS = 40
BUDGET_S = 0.4
"""Seconds spent on each point once `FEWEST_CALLS` are in: a survey, not a verdict."""
PATIENCE_S = 8.0
"""Seconds after which a point ends with what it has: its few calls make it inconclusive, not a pass."""


def batch_curve(
    predict: Callable[[Sequence[Pixels]], list[Detections]],
    images: Sequence[Pixels],
    kind: str,
    synchronise: Callable[[], Any],
) -> tuple[TimingPoint, ...]:
    """Seconds of each warm call with 1, 2, 4 and 8 images of one size (the deck's commonest), repeated in turn.

    Equal sizes only: batches of mixed sizes are padded and are other work.
    """
    (size, _), *_ = Counter(image.shape for image in images).most_common(1)
    pool = [image for image in images if image.shape == size]
    return tuple(_point(predict, pool, batch, kind, synchronise) for batch in BATCHES)


def _point(
    predict: Callable[[Sequence[Pixels]], list[Detections]],
    pool: Sequence[Pixels],
    batch: int,
    kind: str,
    synchronise: Callable[[], Any],
) -> TimingPoint:
    samples: list[float] = []
    calls = 0
    spent = 0.0
    while len(samples) < MOST_CALLS and spent < (BUDGET_S if len(samples) >= FEWEST_CALLS else PATIENCE_S):
        picked = [pool[int(i) % len(pool)] for i in np.arange(calls * batch, (calls + 1) * batch)]
        synchronise()
        began = time.monotonic()
        predict(picked)
        synchronise()
        took = time.monotonic() - began
        calls += 1
        if calls > WARMUP_CALLS:
            samples.append(took)
            spent += took
    return TimingPoint(batch, "one image" if batch == 1 else kind, tuple(samples), WARMUP_CALLS)
