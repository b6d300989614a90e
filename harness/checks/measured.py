"""How fast, measured: processes as the unit, intervals of paired ratios, answers of the timed loop compared.

Nothing here is held against a level of speed: what is judged is whether the figures may be believed. A change between two runs is
for the gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from harness import levels
from harness.checks import Check, Evidence, Judgement
from harness.checks.contract import other_than_asked
from harness.checks.fit import fit_figures_s, percentiles, points_of, ran, span, too_few, untimed
from harness.checks.rules import broke
from harness.intervals import Interval, figure_interval, ratio_interval
from harness.sweep import PAYS, mixed_words, read_name
from harness.timings import Sizes
from harness.types import Measure, Observation, Purpose, Status

if TYPE_CHECKING:
    from harness.detections import Detections

_JOBS = frozenset({Purpose.SWEEP})


def measured(evidence: Evidence) -> Judgement:
    """Images a second at each batch size, with the interval over processes; inconclusive where there are too few of one image."""
    processes = ran(evidence.sweeps)
    broken = next((seen for seen in processes if seen.error is not None), None)
    if broken is not None:
        return Judgement(Status.ERRORED, f"in process {broken.job.repeat + 1} of {len(processes)}, {broke(broken)}")
    differs = next((words for seen in processes if (words := other_than_asked(evidence, seen.effective))), None)
    if differs:
        return Judgement(Status.ERRORED, f"{differs}: see contract.effective")
    samples = sum(len(point.seconds) for seen in processes for sizes in _SIZES for point in points_of(seen, sizes))
    rates, mixed = ({batch: _rate(processes, batch, sizes) for batch in _batches(processes, sizes)} for sizes in _SIZES)
    measures = tuple(_all_measures(processes))
    if rates.get(1) is None:
        return Judgement(Status.INCONCLUSIVE, too_few(evidence.sweeps, 1), samples, measures)
    untrue = next((b for b, rate in rates.items() if rate is None and untimed(processes, b) >= levels.FEWEST_PROCESSES), None)
    if untrue is not None:
        return Judgement(Status.INCONCLUSIVE, too_few(evidence.sweeps, untrue), samples, measures)
    words = f"{_curve_words(processes, _known(rates))}{_mixed_words(processes, _known(mixed))}"
    return Judgement(Status.PASSED, words, samples, measures)


def ratio(evidence: Evidence) -> Judgement:
    """The time that one image takes, beside the reference's, over pairs of interleaved processes that did the same work."""
    own, reference = fit_figures_s(evidence.sweeps, 1), fit_figures_s(evidence.reference_sweeps, 1)
    pairs = sorted(own.keys() & reference.keys())
    if len(pairs) < levels.FEWEST_PROCESSES:
        short = evidence.sweeps if len(own) <= len(reference) else evidence.reference_sweeps
        whose = "" if len(own) <= len(reference) else "of the reference, "
        return Judgement(
            Status.INCONCLUSIVE,
            f"{whose}{too_few(short, 1)}"
            if min(len(own), len(reference)) < levels.FEWEST_PROCESSES
            else f"{len(pairs)} pairs of processes of one round, {levels.FEWEST_PROCESSES} needed",
            len(pairs),
        )
    other = _other_work(evidence)
    found = ratio_interval([reference[number] for number in pairs], [own[number] for number in pairs])
    measures = tuple(
        Measure(f"time of one image, of the reference's{end}", value)
        for end, value in (("", found.estimate), (", low", found.low), (", high", found.high))
    )
    if other:
        return Judgement(Status.INCONCLUSIVE, f"other work: {other}", len(pairs), measures)
    words = (
        f"one image takes {found.estimate:.3g} times as long as in the reference ({span(found)}, {len(pairs)} pairs of processes)"
    )
    return Judgement(Status.PASSED, words, len(pairs), measures)


_SIZES: tuple[Sizes, ...] = ("equal", "mixed")


def _batches(sweeps: Sequence[Observation], sizes: Sizes) -> list[int]:
    return sorted({point.batch for seen in sweeps for point in points_of(seen, sizes)})


def _known(rates: Mapping[int, Interval | None]) -> dict[int, Interval]:
    return {batch: rate for batch, rate in rates.items() if rate is not None}


def _rate(sweeps: Sequence[Observation], batch: int, sizes: Sizes) -> Interval | None:
    """Images a second over processes, with its interval; None where too few were fit."""
    figures = list(fit_figures_s(sweeps, batch, sizes).values())
    if len(figures) < levels.FEWEST_PROCESSES:
        return None
    return figure_interval([batch / seconds for seconds in figures])


def _all_measures(sweeps: Sequence[Observation]) -> Iterator[Measure]:
    for sizes in _SIZES:
        for batch in _batches(sweeps, sizes):
            yield from _measures(sweeps, batch, sizes)
    yield from _once(sweeps)


def _measures(sweeps: Sequence[Observation], batch: int, sizes: Sizes) -> Iterator[Measure]:
    rate = _rate(sweeps, batch, sizes)
    if rate is None:
        return
    name = f"batch {batch}" if sizes == "equal" else mixed_words(batch)
    yield Measure(f"{name}, throughput", rate.estimate, unit="images/s")
    yield Measure(f"{name}, throughput, low", rate.low, unit="images/s")
    yield Measure(f"{name}, throughput, high", rate.high, unit="images/s")
    yield Measure(f"{name}, processes", rate.count)
    fit = fit_figures_s(sweeps, batch, sizes)
    points = [
        point
        for seen in sweeps
        if seen.job.repeat in fit and seen.sweep is not None and (point := seen.sweep.at(batch, sizes)) is not None
    ]
    yield from percentiles(name, "a call", [second for point in points for second in point.warm])
    used = [point.used for point in points if point.used is not None]
    held = [one.memory_bytes for one in used if one.memory_bytes is not None]
    if held:
        yield Measure(f"{name}, memory of the device in use", max(held), unit="bytes")
    spent = [point.used.energy_j / point.images for point in points if point.used is not None and point.used.energy_j is not None]
    if spent:
        yield Measure(f"{name}, energy of the device, an image", median(spent), unit="J")


def _once(sweeps: Sequence[Observation]) -> Iterator[Measure]:
    """What happens once, and what a call is made of: of the first process."""
    first = next((seen.sweep for seen in sweeps if seen.job.repeat == 0 and seen.sweep is not None), None)
    for name, seconds in first.cold.items() if first is not None else ():
        yield Measure(f"once, {name}", seconds, unit="s")
    for name, samples in first.parts.items() if first is not None else ():
        yield Measure(f"part of a call, {name}", median(samples), unit="s")


def _curve_words(sweeps: Sequence[Observation], rates: Mapping[int, Interval]) -> str:
    best = max(rates, key=lambda batch: rates[batch].estimate)
    knee = min(batch for batch in rates if rates[batch].estimate * (1 + PAYS) >= rates[best].estimate)
    at = rates[knee]
    kind = next(point.kind for seen in sweeps for point in points_of(seen) if point.batch == knee)
    words = f"{at.estimate:.3g} images/s at batch {knee} ({kind}), {span(at)} over {at.count} processes"
    words += "" if knee == 1 else f"; {rates[1].estimate:.3g} one at a time"
    stopped = next((point for seen in sweeps for point in points_of(seen) if point.stopped), None)
    if stopped is not None:
        return f"{words}; batch {stopped.batch}: {stopped.stopped}"
    larger = sorted({point.batch for seen in sweeps for point in points_of(seen)} - rates.keys())
    return f"{words}; batch {larger[0]} is not established: it needs more time" if larger else f"{words}; more gains nothing"


def _mixed_words(sweeps: Sequence[Observation], rates: Mapping[int, Interval]) -> str:
    """What is known of pictures of several sizes, in words; that nothing is, where there are such."""
    if 1 not in rates:
        there = _batches(sweeps, "mixed") or any(seen.sweep is not None and seen.sweep.unasked for seen in sweeps)
        return "; mixed sizes are not established: they need more time" if there else ""
    words = f"; of mixed sizes {rates[1].estimate:.3g} one at a time"
    best = max(rates, key=lambda batch: rates[batch].estimate if batch > 1 else 0.0)
    if best == 1:
        return words
    kind = next(point.kind for seen in sweeps for point in points_of(seen, "mixed") if point.batch == best)
    return f"{words}, {rates[best].estimate:.3g} at batch {best} ({kind})"


def _other_work(evidence: Evidence) -> str:
    """In which way the two sides did other work on a picture, in words; empty where they did the same."""
    own, reference = _counts(evidence.sweeps), _counts(evidence.reference_sweeps)
    for picture in own.keys() & reference.keys():
        if own[picture] != reference[picture]:
            return f"{_told(own[picture])} detections on {picture}, the reference has {_told(reference[picture])}"
    return "" if own.keys() & reference.keys() else "there is no picture that both were asked"


def _counts(sweeps: Sequence[Observation]) -> dict[str, set[int]]:
    """How many detections each picture had, alone in a call."""
    found: dict[str, set[int]] = {}
    for seen in ran(sweeps):
        singles: dict[str, Detections] = {name: answer for name, answer in seen.answers.items() if read_name(name)[0] == 1}
        for name, answer in singles.items():
            found.setdefault(read_name(name)[1], set()).add(len(answer))
    return found


def _told(counts: set[int]) -> str:
    return " or ".join(map(str, sorted(counts)))


CHECKS = (
    Check(
        "throughput.measured",
        "Throughput by batch size, measured",
        "Images a second with 1, 2, 4, ... images of one size in a call, doubled until a batch gains under 5 % twice or memory is "
        "out, all threads, alone on the machine. The unit is a process: 5 to 20 a cell, those of all cells interleaved there and "
        "back; its figure is the median of its warm calls, warm-up found from the data (MSER-5), counted only where the last three "
        "windows lie within 5 % (on a GPU 3 %), the harness took under 1 % and nothing disturbed the machine. The interval is a t "
        "interval on logs over processes. Apart from these, as many pictures of several sizes: alone, then together, padded to "
        "the largest where the library takes them in one call. On a GPU that tells, memory in use and energy. Percentiles are of "
        "all warm calls, where there are enough. No level: a change is for a gate. What usually makes it inconclusive: a busy "
        "machine, too small a budget. What to do: --budget with more seconds, on a quiet machine.",
        frozenset({Purpose.PARITY, Purpose.SWEEP}),
        measured,
        handles=_JOBS,
        at="swept",
    ),
    Check(
        "throughput.ratio",
        "Time of one image, beside the reference's",
        "The ratio of the medians of two processes of one round, this backend's and the reference's, one image a call; its t "
        "interval on logs over at least five such pairs. What drifts slower than a round meets both sides. Both must have done the "
        "same work: as many detections on each picture, else it is inconclusive. No level. What usually makes it inconclusive: few "
        "steady processes, or other detections. What to do: see throughput.measured for the one, parity.detections for the other.",
        frozenset({Purpose.PARITY, Purpose.SWEEP}),
        ratio,
        reference=frozenset({Purpose.SWEEP}),
        at="beside",
    ),
)
