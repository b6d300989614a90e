"""The curves of a cell over its timed processes: of those that were fit at each batch size, and at each number of clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness import levels
from harness.checks.fit import fit_figures_s, points_of
from harness.checks.loaded import rates_per_s
from harness.document import CLIENTS, OF_MIXED_SIZES, CurvePoint
from harness.intervals import figure_interval
from harness.timings import Sizes
from harness.types import Observation


def measured_curve(sweeps: Sequence[Observation]) -> Iterator[CurvePoint]:
    """Batch sizes first, of one size and of mixed ones; so many clients stand as what so many images a call would take."""
    ends: Mapping[Sizes, str] = {"equal": "", "mixed": OF_MIXED_SIZES}
    for sizes, end in ends.items():
        points = [point for seen in sweeps for point in points_of(seen, sizes)]
        kinds = {point.batch: point.kind for point in points}
        for batch in sorted(kinds):
            warmup = sum(point.warmup * point.calls for point in points if point.batch == batch)
            yield from _point(batch, kinds[batch] + end, tuple(fit_figures_s(sweeps, batch, sizes).values()), warmup)
    for clients, rates in rates_per_s(sweeps).items():
        yield from _point(clients, CLIENTS, tuple(clients / rate for rate in rates), 0)


def _point(batch: int, kind: str, figures_s: tuple[float, ...], warmup: int) -> Iterator[CurvePoint]:
    """Nothing where no process was fit."""
    if not figures_s:
        return
    found = figure_interval(figures_s)
    yield CurvePoint(
        batch=batch,
        batching=kind,
        predict_s=figures_s,
        warmup_calls=warmup,
        unit="process",
        interval_s=(found.low, found.high) if found.count >= levels.FEWEST_PROCESSES else None,
    )
