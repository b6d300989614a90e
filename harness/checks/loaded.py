"""What a service gives several clients: answers a second and what they waited, batches that formed, and whose answer each got.

As in `harness.checks.measured` the unit is a process, here of the server, and no speed is held against a level.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

from harness import levels
from harness.checks import Check, Evidence, Judgement
from harness.checks.differences import unequal
from harness.checks.fit import disturbed, percentiles, ran, span
from harness.checks.parity import precision_class
from harness.checks.reference import fault, limits, noise_floor
from harness.checks.rules import broke
from harness.compare import compare
from harness.intervals import Interval, figure_interval, little, percentile
from harness.sweep import PAYS, mixed_batch, read_name
from harness.timings import LoadPoint
from harness.types import Measure, Observation, Purpose, Status


def served(evidence: Evidence) -> Judgement:
    """Answers a second at each number of clients, with the interval over processes, and what was waited for them."""
    processes = ran(evidence.sweeps)
    broken = next((seen for seen in processes if seen.error is not None), None)
    if broken is not None:
        return Judgement(Status.ERRORED, f"in process {broken.job.repeat + 1} of {len(processes)}, {broke(broken)}")
    closed = {clients: _of_clients(processes, clients) for clients in _clients(processes)}
    rates = {
        clients: figure_interval(figures)
        for clients, figures in rates_per_s(processes).items()
        if len(figures) >= levels.FEWEST_PROCESSES
    }
    requests = sum(len(point.latencies_s) for points in closed.values() for point in points)
    measures = tuple(_measures(processes, rates))
    if not rates:
        return Judgement(Status.INCONCLUSIVE, _too_few(processes, closed), requests, measures)
    return Judgement(Status.PASSED, _words(processes, closed, rates), requests, measures)


def identity(evidence: Evidence) -> Judgement:
    """Under load each client gets the answer to its own picture."""
    precision = precision_class(evidence)
    if precision != "fp32":
        return Judgement(Status.DECLINED, f"the levels of single answers are those of fp32, this is {precision}")
    expected, floor, compared = evidence.observed[Purpose.PARITY].answers, noise_floor(evidence), 0
    for seen in ran(evidence.sweeps):
        for name, answer in seen.answers.items():
            asked, picture, _ = read_name(name)
            if isinstance(asked, int) or mixed_batch(asked) is not None:
                continue
            beside = compare({picture: expected[picture]}, {picture: answer}, limits(evidence, floor))
            compared += max(1, beside.detections)
            wrong = fault(beside)
            if wrong is None:
                continue
            whose = next((other for other, known in expected.items() if other != picture and not unequal(known, answer)), None)
            words = f"with the answer to {whose}" if whose is not None else f"otherwise than alone: {wrong.words}"
            return Judgement(Status.FAILED, f"with {asked}, {picture} is answered {words}", compared, image=picture)
    if not compared:
        return Judgement(Status.INCONCLUSIVE, "no load was measured: it needs more time")
    return Judgement(Status.PASSED, f"{compared} detections under load are those of each client's own picture", compared)


def rates_per_s(sweeps: Sequence[Observation]) -> dict[int, tuple[float, ...]]:
    """By number of clients, answers a second of each process whose load with so many can be believed."""
    processes = ran(sweeps)
    return {
        clients: tuple(point.throughput_per_s for point in _of_clients(processes, clients) if not _untrue(point))
        for clients in _clients(processes)
    }


def _clients(processes: Sequence[Observation]) -> list[int]:
    return sorted({int(point.offered) for seen in processes for point in _loads(seen) if point.kind == "closed"})


def _loads(seen: Observation) -> tuple[LoadPoint, ...]:
    return seen.sweep.loads if seen.sweep is not None else ()


def _of_clients(processes: Sequence[Observation], clients: int) -> list[LoadPoint]:
    """The load with so many clients, of each process that nothing disturbed."""
    return [
        point
        for seen in processes
        if not disturbed(seen)
        for point in _loads(seen)
        if point.kind == "closed" and point.offered == clients
    ]


def _untrue(point: LoadPoint) -> str:
    """Why a load cannot be believed, in words; empty where it can."""
    if len(point.latencies_s) < levels.MEDIAN_SAMPLES:
        return f"{len(point.latencies_s)} answers, {levels.MEDIAN_SAMPLES} needed"
    if point.late > levels.LATE:
        return f"the generator sent {point.late:.0%} of the requests too late"
    missed = little(point.offered, point.throughput_per_s, mean(point.latencies_s)) if point.kind == "closed" else 0.0
    return f"clients and answers a second times latency are {missed:.0%} apart" if missed > levels.LITTLE else ""


def _too_few(processes: Sequence[Observation], closed: Mapping[int, Sequence[LoadPoint]]) -> str:
    unfit = [why for seen in processes if (why := disturbed(seen))]
    words = [f"{len(unfit)} of {len(processes)} processes were disturbed: {unfit[0]}"] if unfit else []
    untrue = Counter(why for points in closed.values() for point in points if (why := _untrue(point)))
    words += [f"{count} loads: {why}" for why, count in untrue.most_common(2)]
    if not words:
        words = [f"{len(processes)} processes, {levels.FEWEST_PROCESSES} needed"]
    return f"no number of clients is established ({'; '.join(words)})"


def _words(processes: Sequence[Observation], closed: Mapping[int, Sequence[LoadPoint]], rates: Mapping[int, Interval]) -> str:
    best = max(rates, key=lambda clients: rates[clients].estimate)
    knee = min(clients for clients in rates if rates[clients].estimate * (1 + PAYS) >= rates[best].estimate)
    at = rates[knee]
    words = f"{at.estimate:.3g} images/s with {knee} clients at once, {span(at)} over {at.count} processes"
    words += f"; {rates[1].estimate:.3g} with one" if knee != 1 and 1 in rates else ""
    formed = _together(closed[knee])
    if formed:
        total = sum(formed.values())
        batches = sum(count / size for size, count in formed.items())
        words += f"; batches of {total / batches:.1f} on average, {max(formed)} at most"
    for of_best in sorted({point.of_best for seen in processes for point in _loads(seen) if point.kind == "open"}):
        waited = percentile(_waited_s(processes, of_best), 95)
        if waited:
            words += f"; at {of_best:.0%} of the best, arriving by chance, 95 % are answered within {1e3 * waited:.0f} ms"
    refused = sum(point.refused for seen in processes for point in _loads(seen))
    return f"{words}; {refused} requests were refused" if refused else words


def _together(points: Sequence[LoadPoint]) -> Counter[int]:
    formed: Counter[int] = Counter()
    for point in points:
        formed.update(point.formed)
    return formed


def _waited_s(processes: Sequence[Observation], of_best: float) -> list[float]:
    return [
        second
        for seen in processes
        if not disturbed(seen)
        for point in _loads(seen)
        if point.kind == "open" and point.of_best == of_best and not point.late > levels.LATE
        for second in point.latencies_s
    ]


def _measures(processes: Sequence[Observation], rates: Mapping[int, Interval]) -> Iterator[Measure]:
    for clients, rate in rates.items():
        points = [point for point in _of_clients(processes, clients) if not _untrue(point)]
        yield Measure(f"{clients} clients, throughput", rate.estimate, unit="images/s")
        yield Measure(f"{clients} clients, throughput, low", rate.low, unit="images/s")
        yield Measure(f"{clients} clients, throughput, high", rate.high, unit="images/s")
        yield from percentiles(f"{clients} clients", "the latency", [second for point in points for second in point.latencies_s])
        for size, count in sorted(_together(points).items()):
            yield Measure(f"{clients} clients, requests answered in batches of {size}", count)
    for of_best in sorted({point.of_best for seen in processes for point in _loads(seen) if point.kind == "open"}):
        yield from percentiles(f"arrivals at {of_best:.0%} of the best", "the latency", _waited_s(processes, of_best))


CHECKS = (
    Check(
        "throughput.served",
        "Throughput and latency under load",
        "Answers a second with 1, 2, 4, ... clients that ask again as soon as they are answered, until more of them gain under 5 % "
        "twice; then what is waited where pictures arrive by chance (Poisson) at a half and at four fifths of the best rate, "
        "counted from when each was due. Beside them the sizes of the batches that the service formed, where it tells, and how "
        "many it refused. The unit is a process of the server, at least five of them; a load counts where clients at once and "
        "answers a second times latency agree within 5 % (Little) and the generator was late for at most 1 %. No level: a change "
        "is for a gate. What usually makes it inconclusive: a busy machine, too small a budget. What to do: --budget with more "
        "seconds, on a quiet machine.",
        frozenset({Purpose.PARITY, Purpose.SWEEP}),
        served,
        handles=frozenset({Purpose.SWEEP}),
        at="loaded",
    ),
    Check(
        "throughput.identity",
        "Every client gets its own answer",
        "Every different answer that came under any load is what this backend answered to that picture alone, at the levels of "
        "parity: nobody got another's answer, and none was changed by who else asked. Of less than fp32 it is not asked. What "
        "usually breaks it: batches taken apart in another order, buffers shared between requests, pictures padded to one "
        "another's size. What to do: compare with contract.batch, contract.permuted and contract.held.",
        frozenset({Purpose.PARITY, Purpose.SWEEP}),
        identity,
        reference=frozenset({Purpose.PARITY, Purpose.FLOOR}),
        at="loaded",
    ),
)
