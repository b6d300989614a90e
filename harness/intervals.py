"""What timings establish: percentiles, warm-up, steadiness, intervals of ratios, and which of many changes are none.

Iterations within a process are not independent: the unit is a fresh process, its figure the median over its warm iterations. Two
sides are measured interleaved, so that their figures come in pairs, and a pair's ratio is free of what drifts slower than a pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness import levels

CONFIDENCE = 0.95
DISCOVERY_RATE = 0.01
"""The share of false alarms among all alarms that is put up with (Benjamini and Hochberg)."""

_BATCH = 5
"""Iterations that `warm_up` takes together, as MSER-5 does."""


Sides: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Figures of a base and of a candidate, in pairs."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its two-sided confidence interval, and how many independent figures it rests on."""

    estimate: float
    low: float
    high: float
    count: int


def percentile(samples_s: Sequence[float], which: int) -> float | None:
    """The percentile of durations in seconds, or None where there are fewer than `levels.PERCENTILE_SAMPLES` asks for.

    A measured value, never one in between: the smallest that no less than ``which`` percent are below or equal to.
    """
    if len(samples_s) < levels.PERCENTILE_SAMPLES[which]:
        return None
    return float(np.percentile(np.asarray(samples_s), which, method="inverted_cdf"))


def warm_up(samples_s: Sequence[float]) -> int:
    """How many of the first iterations are warm-up, by MSER-5 (White 1997): what is left has the least standard error.

    A multiple of five, at most half of the iterations: where the rule would take more, the process never became steady.
    """
    count = len(samples_s) // _BATCH
    if count < 4:
        return 0
    means = np.asarray(samples_s[: count * _BATCH], dtype=np.float64).reshape(count, _BATCH).mean(axis=1)
    errors = [float(means[first:].var()) / (count - first) for first in range(count // 2 + 1)]
    return int(np.argmin(errors)) * _BATCH


def is_steady(samples_s: Sequence[float], window: int, device: str = "cpu") -> bool:
    """Whether the medians of the last three windows of so many iterations lie within the level's ratio of each other."""
    needed = levels.STEADY_WINDOWS * window
    if window < 1 or len(samples_s) < needed:
        return False
    last = samples_s[len(samples_s) - needed :]
    medians = [median(last[start : start + window]) for start in range(0, needed, window)]
    limit = levels.STEADY_SPREAD.get(device, levels.STEADY_SPREAD["cpu"])
    return min(medians) > 0 and max(medians) / min(medians) <= limit


def figure_interval(figures: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The geometric mean of one side's process medians and its t interval, on logs. It carries no verdict."""
    return _exponential(_logs(figures), confidence)


def ratio_interval(base: Sequence[float], candidate: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The geometric mean of ``candidate / base`` over pairs of interleaved processes and its t interval, on log ratios.

    Raises ValueError for sides of unequal length, and for a figure that is not a positive number.
    """
    if len(base) != len(candidate):
        raise ValueError(f"{len(base)} figures on one side, {len(candidate)} on the other: they are paired")
    return _exponential(_logs(candidate) - _logs(base), confidence)


def slower_than_allowed(base: Sequence[float], candidate: Sequence[float], margin: float = levels.TIMED_MARGIN) -> float:
    """The p-value of a one-sided t test that ``candidate / base`` is at most ``1 + margin``: small where it is slower."""
    from scipy.stats import t

    if len(base) != len(candidate):
        raise ValueError(f"{len(base)} figures on one side, {len(candidate)} on the other: they are paired")
    beyond = _logs(candidate) - _logs(base) - math.log1p(margin)
    if len(beyond) < 2:
        return 1.0
    error = _standard_error(beyond)
    if error == 0:
        return 0.0 if beyond.mean() > 0 else 1.0
    return float(t.sf(beyond.mean() / error, len(beyond) - 1))


def agreed_p(first: float, second: float) -> float:
    """The p-value of two independent tests that must both say so: the larger, squared (their maximum under the hypothesis)."""
    return max(first, second) ** 2


def regressed(first: Sides, second: Sides, margin: float = levels.TIMED_MARGIN) -> bool:
    """Whether two measurements in fresh processes, each a base's and a candidate's paired figures, both say that it is slower."""
    return agreed_p(slower_than_allowed(*first, margin), slower_than_allowed(*second, margin)) <= DISCOVERY_RATE


def discoveries(p_values: Sequence[float], rate: float = DISCOVERY_RATE) -> list[bool]:
    """Which of a family of tests are alarms, by Benjamini and Hochberg (1995): of all alarms, ``rate`` are expected to be false."""
    from scipy.stats import false_discovery_control

    if not p_values:
        return []
    return [bool(adjusted <= rate) for adjusted in false_discovery_control(p_values, method="bh")]


def smallest_detectable(
    base: Sequence[float],
    candidate: Sequence[float],
    margin: float = levels.TIMED_MARGIN,
    power: float = 0.95,
    rate: float = DISCOVERY_RATE,
) -> float:
    """The least slow-down, as a share, that `slower_than_allowed` would tell with this power at these sides' own noise.

    Infinite where fewer than three pairs say nothing of the noise. By the noncentral t distribution.
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    pairs = _logs(candidate) - _logs(base)
    if len(pairs) < 3:
        return math.inf
    error, freedom = _standard_error(pairs), len(pairs) - 1
    if error == 0:
        return margin
    threshold = t.isf(rate, freedom)
    shift = brentq(lambda mean: nct.sf(threshold, freedom, mean) - power, 0.0, 100.0)
    return math.expm1(math.log1p(margin) + float(shift) * error)


def little(concurrency: float, throughput_per_s: float, latency_s: float) -> float:
    """By what share Little's law is missed: requests in the system against rate times time there. 0 where it holds."""
    expected = throughput_per_s * latency_s
    return abs(expected / concurrency - 1) if concurrency > 0 else math.inf


def _logs(figures: Sequence[float]) -> NDArray[np.float64]:
    wrong = next((figure for figure in figures if not (figure > 0 and math.isfinite(figure))), None)
    if wrong is not None:
        raise ValueError(f"a timing is a positive number, this is not: {wrong}")
    return np.log(np.asarray(figures, dtype=np.float64))


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def _exponential(values: NDArray[np.float64], confidence: float) -> Interval:
    from scipy.stats import t

    if len(values) == 0:
        raise ValueError("there is no figure to make an interval of")
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(math.exp(mean), 0.0, math.inf, 1)
    reach = float(t.isf((1 - confidence) / 2, len(values) - 1)) * _standard_error(values)
    return Interval(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), len(values))
