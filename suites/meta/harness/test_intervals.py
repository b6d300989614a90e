"""What timings establish, on clocks whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import levels
from harness.intervals import (
    discoveries,
    figure_interval,
    is_steady,
    little,
    percentile,
    ratio_interval,
    slower_than_allowed,
    smallest_detectable,
    warm_up,
)

pytestmark = [pytest.mark.covers("M19", "M21")]
TIMES = st.floats(1e-6, 1e3)
SIDES = st.lists(st.tuples(TIMES, TIMES), min_size=2, max_size=12).map(lambda pairs: tuple(map(list, zip(*pairs, strict=True))))
TRIALS = 4000


def sides(seed: int, pairs: int, spread: float, slower: float = 0.0, drift: float = 0.0) -> tuple[list[float], list[float]]:
    """Process medians of two interleaved sides on a machine whose speed drifts, each with a spread of its own."""
    noise = np.random.default_rng(seed)
    machine = np.exp(np.cumsum(noise.normal(0, drift, pairs)))
    base = 0.05 * machine * np.exp(noise.normal(0, spread, pairs))
    candidate = 0.05 * (1 + slower) * machine * np.exp(noise.normal(0, spread, pairs))
    return base.tolist(), candidate.tolist()


@pytest.mark.parametrize("which", levels.PERCENTILE_SAMPLES)
def test_a_percentile_is_told_from_enough_samples_only(which: int) -> None:
    needed = levels.PERCENTILE_SAMPLES[which]
    samples = [float(value) for value in range(1, needed + 1)]
    assert percentile(samples[:-1], which) is None
    found = percentile(samples, which)
    assert found in samples
    assert sum(value <= found for value in samples) >= needed * which / 100
    assert sum(value < found for value in samples) < needed * which / 100


@given(st.lists(TIMES, min_size=levels.MEDIAN_SAMPLES, max_size=80))
def test_a_percentile_was_measured(samples: list[float]) -> None:
    assert percentile(samples, 50) in samples


@given(SIDES)
def test_the_ratio_the_other_way_round_is_its_inverse(both: tuple[list[float], list[float]]) -> None:
    base, candidate = both
    one, other = ratio_interval(base, candidate), ratio_interval(candidate, base)
    assert one.estimate == pytest.approx(1 / other.estimate)
    assert one.low == pytest.approx(1 / other.high) or other.high == math.inf
    assert one.low <= one.estimate <= one.high


@given(SIDES, st.floats(1e-3, 1e3))
def test_the_unit_of_time_does_not_matter(both: tuple[list[float], list[float]], unit: float) -> None:
    base, candidate = both
    one = ratio_interval(base, candidate)
    other = ratio_interval([value * unit for value in base], [value * unit for value in candidate])
    assert (one.estimate, one.low) == (pytest.approx(other.estimate), pytest.approx(other.low, rel=1e-6, abs=1e-300))


@given(SIDES, st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(both: tuple[list[float], list[float]], random: object) -> None:
    pairs = list(zip(*both, strict=True))
    random.shuffle(pairs)  # type: ignore[attr-defined]
    shuffled = ratio_interval([a for a, _ in pairs], [b for _, b in pairs])
    assert shuffled.estimate == pytest.approx(ratio_interval(*both).estimate)


@given(st.lists(TIMES, min_size=2, max_size=20))
def test_a_side_against_itself_is_one_and_no_alarm(side: list[float]) -> None:
    found = ratio_interval(side, side)
    assert (found.estimate, found.low, found.high) == (1, 1, 1)
    assert slower_than_allowed(side, side) == 1


@given(SIDES, st.floats(1.0, 3.0))
def test_the_slower_the_likelier_an_alarm(both: tuple[list[float], list[float]], factor: float) -> None:
    base, candidate = both
    slowed = [value * factor for value in candidate]
    assert slower_than_allowed(base, slowed) <= slower_than_allowed(base, candidate) + 1e-9


@pytest.mark.parametrize("pairs", [5, 10])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("drift", [0.0, 0.05])
def test_intervals_cover_what_they_claim(pairs: int, confidence: float, drift: float) -> None:
    """Within 1.5 points, whatever the machine's drift from pair to pair."""
    truth = 1.03
    covered = 0
    for trial in range(TRIALS):
        found = ratio_interval(*sides(trial, pairs, 0.01, truth - 1, drift), confidence)
        covered += found.low <= truth <= found.high
    assert covered / TRIALS == pytest.approx(confidence, abs=0.015)


@pytest.mark.parametrize(("pairs", "spread"), [(5, 0.01), (10, 0.015)])
def test_an_interval_of_one_side_covers_too(pairs: int, spread: float) -> None:
    covered = sum(
        found.low <= 0.05 <= found.high for trial in range(TRIALS) if (found := figure_interval(sides(trial, pairs, spread)[0]))
    )
    assert covered / TRIALS == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("spread", "slower"), [(0.01, 0.05), (0.02, 0.1), (0.005, 0.04)])
def test_the_smallest_that_can_be_told_is_told_with_the_power_that_was_asked_for(spread: float, slower: float) -> None:
    """Planned with the noise that is known, the test tells such a slow-down as often as it says."""
    pairs = 10
    planned = np.median([smallest_detectable(*sides(trial, pairs, spread)) for trial in range(400)])
    told = sum(slower_than_allowed(*sides(trial, pairs, spread, float(planned))) <= 0.01 for trial in range(TRIALS)) / TRIALS
    assert told == pytest.approx(0.95, abs=0.03)
    assert planned < slower


def test_no_more_alarms_are_false_than_was_put_up_with() -> None:
    """Families of twenty tests without any effect: an alarm in at most one of a hundred."""
    alarms = 0
    for family in range(500):
        p_values = [slower_than_allowed(*sides(family * 20 + test, 5, 0.01, levels.TIMED_MARGIN)) for test in range(20)]
        alarms += any(discoveries(p_values))
    assert alarms / 500 <= 0.02
    assert discoveries([]) == []
    assert discoveries([1e-6, 0.5, 0.9]) == [True, False, False]


def test_warm_up_is_found_and_cut_off() -> None:
    noise = np.random.default_rng(1)
    slow = 0.05 * (1 + np.exp(-np.arange(100) / 6)) * np.exp(noise.normal(0, 0.01, 100))
    cut = warm_up(slow.tolist())
    assert 15 <= cut <= 50
    assert np.median(slow[cut:]) == pytest.approx(0.05, rel=0.01)
    level = (0.05 * np.exp(noise.normal(0, 0.01, 100))).tolist()
    assert warm_up(level) <= 25
    assert warm_up([0.05] * 19) == 0


@given(st.lists(TIMES, max_size=120))
def test_warm_up_leaves_half(samples: list[float]) -> None:
    assert warm_up(samples) % 5 == 0
    assert warm_up(samples) <= (len(samples) + 5) / 2


def test_what_still_moves_is_not_steady() -> None:
    assert is_steady([0.05] * 30, 10)
    assert not is_steady([0.05] * 29, 10)
    assert not is_steady([*[0.05] * 20, *[0.0526] * 10], 10)
    assert is_steady([*[0.05] * 20, *[0.0524] * 10], 10)
    assert not is_steady([*[0.05] * 20, *[0.0524] * 10], 10, "cuda")
    assert not is_steady([0.0] * 30, 10)
    # One outlier in a window moves no median.
    assert is_steady([*[0.05] * 25, 9.0, *[0.05] * 4], 10)


@settings(max_examples=50)
@given(st.floats(0.5, 64), st.floats(1e-4, 10))
def test_littles_law_holds_where_it_holds(concurrency: float, latency_s: float) -> None:
    assert little(concurrency, concurrency / latency_s, latency_s) == pytest.approx(0, abs=1e-9)
    assert little(concurrency, 1.1 * concurrency / latency_s, latency_s) == pytest.approx(0.1)
    assert little(0, 1, 1) == math.inf


def test_what_is_no_timing_is_refused() -> None:
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="a timing is a positive number"):
            ratio_interval([1.0, 1.0], [1.0, wrong])
    with pytest.raises(ValueError, match="2 figures on one side, 1 on the other"):
        ratio_interval([1.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="2 figures on one side, 1 on the other"):
        slower_than_allowed([1.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="no figure"):
        figure_interval([])
    assert figure_interval([2.0]).high == math.inf
    assert smallest_detectable([1.0, 1.0], [1.0, 1.1]) == math.inf
    assert smallest_detectable([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]) == levels.TIMED_MARGIN
    assert slower_than_allowed([1.0], [2.0]) == 1
    assert slower_than_allowed([1.0, 1.0], [2.0, 2.0]) == 0
