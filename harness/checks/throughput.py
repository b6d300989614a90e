"""How fast, in a survey: measured and shown, not judged against a level."""

from __future__ import annotations

from statistics import median

from harness import levels
from harness.checks import Check, Evidence, Judgement
from harness.checks.contract import other_than_asked
from harness.checks.rules import broke
from harness.timings import TimingPoint
from harness.types import Measure, Purpose, Status


def batch_curve(evidence: Evidence) -> Judgement:
    """Median seconds a call and images a second at each batch size, where there are calls enough for a median."""
    timed = evidence.observed[Purpose.TIMING]
    if timed.error is not None:
        return Judgement(Status.ERRORED, broke(timed))
    differs = other_than_asked(evidence, timed.effective)
    if differs:
        return Judgement(Status.ERRORED, f"{differs}: see contract.effective")
    samples = sum(len(point.predict_s) for point in timed.curve)
    if not samples:
        return Judgement(Status.ERRORED, "compared nothing: the timing job kept no sample")
    measures = tuple(measure for point in timed.curve for measure in _measures(point))
    few = [point for point in timed.curve if len(point.predict_s) < levels.MEDIAN_SAMPLES]
    if few:
        words = f"batch {few[0].batch} has {len(few[0].predict_s)} calls, a median needs {levels.MEDIAN_SAMPLES}"
        return Judgement(Status.INCONCLUSIVE, words, samples, measures)
    best = max(timed.curve, key=_images_per_s)
    words = f"survey, not gated: at most {_images_per_s(best):.3g} images/s, at batch {best.batch} ({best.kind})"
    return Judgement(Status.PASSED, words, samples, measures)


def _measures(point: TimingPoint) -> tuple[Measure, ...]:
    calls = Measure(f"batch {point.batch}, calls", len(point.predict_s))
    if len(point.predict_s) < levels.MEDIAN_SAMPLES:
        return (calls,)
    return (
        Measure(f"batch {point.batch}, median of a call", median(point.predict_s), unit="s"),
        Measure(f"batch {point.batch}, throughput", _images_per_s(point), unit="images/s"),
        calls,
    )


def _images_per_s(point: TimingPoint) -> float:
    seconds = median(point.predict_s)
    return point.batch / seconds if seconds > 0 else float("inf")


CHECKS = (
    Check(
        "throughput.batch_curve",
        "Throughput by batch size (survey, not gated)",
        "The median of warm calls with 1, 2, 4 and 8 images of one size, all threads, alone on the machine; the kind of "
        "batch (one tensor, a loop, requests in flight) is named. A median needs 11 calls. It is a survey: one process, no "
        "level, and no comparison between runs or machines may rest on it. What usually makes it inconclusive: a machine too "
        "slow or too busy for the calls that it needs. What to do: run it alone, or with more time.",
        frozenset({Purpose.PARITY, Purpose.TIMING}),
        batch_curve,
        handles=frozenset({Purpose.TIMING}),
    ),
)
