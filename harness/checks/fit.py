"""Which timed processes count: those that began, were steady and undisturbed, and whose calls make up the time that passed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from harness import levels
from harness.intervals import Interval, percentile
from harness.timings import Sizes, SweepPoint
from harness.types import Measure, Observation


def ran(sweeps: Sequence[Observation]) -> list[Observation]:
    """The processes that began: those for which no time was left are none."""
    return [seen for seen in sweeps if seen.error is None or seen.error.kind != "budget"]


def points_of(seen: Observation, sizes: Sizes = "equal") -> tuple[SweepPoint, ...]:
    """Its curve of pictures of such sizes; nothing where it did not come to one."""
    return seen.sweep.of(sizes) if seen.sweep is not None else ()


def fit_figures_s(sweeps: Sequence[Observation], batch: int, sizes: Sizes = "equal") -> dict[int, float]:
    """By repeat, the median of a call's warm samples in seconds: of processes that were steady, undisturbed and honest."""
    found: dict[int, float] = {}
    for seen in ran(sweeps):
        point = seen.sweep.at(batch, sizes) if seen.sweep is not None else None
        if point is None or disturbed(seen):
            continue
        if point.steady and len(point.warm) >= levels.MEDIAN_SAMPLES and _between(point) <= levels.HARNESS_SHARE:
            found[seen.job.repeat] = median(point.warm)
    return found


def disturbed(seen: Observation) -> str:
    """What else the machine did while a process measured, in words; empty where it did nothing."""
    return seen.sweep.disturbed[0] if seen.sweep is not None and seen.sweep.disturbed else ""


def _between(point: SweepPoint) -> float:
    """The share of a timed loop's wall-clock time that was not in its calls: what the harness took, or the clock missed.

    By so much do images by the wall clock and images by latency disagree.
    """
    wall_s = point.spent_s - point.first_s
    if not point.seconds or wall_s <= 0:
        return 0.0
    # Where several calls make a sample, the second call stands apart: it is in none.
    apart_s = sum(point.seconds) / len(point.seconds) if point.calls > 1 else 0.0
    return 1 - (point.calls * sum(point.seconds) + apart_s) / wall_s


def untimed(sweeps: Sequence[Observation], batch: int) -> int:
    """In how many processes more than the harness may take was not in the calls of a batch size."""
    points = [point for seen in sweeps if seen.sweep is not None and (point := seen.sweep.at(batch)) is not None]
    return sum(_between(point) > levels.HARNESS_SHARE for point in points)


def too_few(sweeps: Sequence[Observation], batch: int) -> str:
    """Why there are no figures of at least as many processes as are needed, in words."""
    processes = ran(sweeps)
    good = len(fit_figures_s(sweeps, batch))
    words = f"batch {batch} was steady and undisturbed in {good} of {len(processes)} processes, {levels.FEWEST_PROCESSES} needed"
    unfit = [why for seen in processes if (why := disturbed(seen))]
    reasons = [f"{len(unfit)} were disturbed: {unfit[0]}"] if unfit else []
    points = [point for seen in processes if seen.sweep is not None and (point := seen.sweep.at(batch)) is not None]
    between = [_between(point) for point in points if _between(point) > levels.HARNESS_SHARE]
    reasons += [f"in {len(between)} the calls are {max(between):.1%} short of the time that passed"] if between else []
    short = sum(len(point.warm) < levels.MEDIAN_SAMPLES for point in points)
    reasons += [f"{short} had fewer than {levels.MEDIAN_SAMPLES} warm calls"] if short else []
    moving = sum(not point.steady for point in points)
    reasons += [f"{moving} were not steady"] if moving else []
    spent = next((seen.error.message for seen in sweeps if seen.error is not None and seen.error.kind == "budget"), None)
    reasons += [spent] if spent else []
    return f"{words} ({'; '.join(reasons)})" if reasons else words


def span(found: Interval) -> str:
    """The interval in words."""
    return f"{found.low:.3g} to {found.high:.3g}"


def percentiles(what: str, of: str, seconds: Sequence[float]) -> Iterator[Measure]:
    """Each percentile that there are samples enough for; of the others how many there are."""
    for which, needed in levels.PERCENTILE_SAMPLES.items():
        value = percentile(seconds, which)
        if value is not None:
            yield Measure(f"{what}, p{which} of {of}", value, unit="s")
        else:
            yield Measure(f"{what}, p{which} of {of}: samples, {needed} needed", len(seconds))
