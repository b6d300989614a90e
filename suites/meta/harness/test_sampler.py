"""One process's calls: on a clock that only the calls move."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import levels
from harness.sampler import MOST_SAMPLES, WINDOW_S, Samples, clock_cost_s, sample, window

pytestmark = pytest.mark.covers("M19")


class Machine:
    """A clock, and calls that take what ``seconds`` says of each; reading the clock takes ``reading_s``."""

    def __init__(self, seconds: Callable[[int], float], reading_s: float = 0.0) -> None:
        self.now, self.asked, self._seconds, self._reading_s = 100.0, [], seconds, reading_s  # type: ignore[var-annotated]

    def clock(self) -> float:
        self.now += self._reading_s
        return self.now

    def call(self, index: int) -> None:
        self.asked.append(index)
        self.now += self._seconds(index)


def sampled(machine: Machine, budget_s: float = 60.0, device: str = "cpu") -> Samples:
    return sample(machine.call, budget_s, device, clock=machine.clock)


def test_a_steady_process_ends_early_and_its_figure_is_its_median() -> None:
    noise = np.random.default_rng(3)
    machine = Machine(lambda index: 0.5 if index == 0 else 0.05 * float(np.exp(noise.normal(0, 0.01))))
    found = sampled(machine)
    assert found.first_s == pytest.approx(0.5)
    assert found.steady
    # Warm-up that is none costs a window at most, or two.
    assert levels.STEADY_WINDOWS * window(0.05) <= len(found.seconds) <= (levels.STEADY_WINDOWS + 2) * window(0.05)
    assert found.figure_s == pytest.approx(0.05, rel=0.01)
    assert machine.asked == list(range(1 + len(found.seconds)))
    assert found.spent_s == pytest.approx(found.first_s + sum(found.seconds))


def test_warm_up_is_found_from_the_data_and_left_out() -> None:
    noise = np.random.default_rng(4)
    machine = Machine(lambda index: 0.05 * (1 + 2 * float(np.exp(-index / 8))) * float(np.exp(noise.normal(0, 0.005))))
    found = sampled(machine)
    assert found.steady
    assert found.warmup >= 15
    assert found.figure_s == pytest.approx(0.05, rel=0.02)


def test_what_goes_on_moving_spends_its_budget_and_is_not_steady() -> None:
    machine = Machine(lambda index: 0.05 * 1.01**index)
    found = sampled(machine, budget_s=20.0)
    assert not found.steady
    assert 20.0 <= found.spent_s < 25.0


@pytest.mark.parametrize(("device", "steady"), [("cpu", True), ("cuda", False)])
def test_a_gpu_must_be_steadier(device: str, steady: bool) -> None:
    # A wave of four percent over three windows.
    machine = Machine(lambda index: 0.05 * (1.04 if (index // window(0.05)) % 3 == 0 else 1.0))
    assert sampled(machine, 10.0, device).steady is steady


def test_a_call_too_slow_for_the_budget_leaves_no_figure() -> None:
    found = sampled(Machine(lambda _: 30.0), budget_s=60.0)
    assert found.seconds == (30.0,)
    assert (found.steady, found.figure_s) == (False, None)


def test_calls_too_short_for_the_clock_are_taken_together() -> None:
    machine = Machine(lambda _: 2e-6, reading_s=5e-8)
    found = sampled(machine)
    assert found.calls > 1
    assert found.figure_s == pytest.approx(2e-6, rel=2e-3)
    assert len(machine.asked) == 2 + found.calls * len(found.seconds)


def test_calls_that_take_no_time_end() -> None:
    found = sampled(Machine(lambda _: 0.0, reading_s=1e-7), budget_s=0.05)
    assert len(found.seconds) <= MOST_SAMPLES


def test_a_window_lasts_a_while_and_holds_enough() -> None:
    assert window(0.001) == pytest.approx(WINDOW_S / 0.001, abs=1)
    assert (window(10.0), window(1e-6), window(0.0)) == (levels.MEDIAN_SAMPLES, 500, 500)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.001, 0.2), st.floats(0, 0.003), st.integers(0, 2**16))
def test_a_constant_process_is_measured_as_it_is(seconds: float, spread: float, seed: int) -> None:
    noise = np.random.default_rng(seed)
    found = sampled(Machine(lambda _: seconds * float(np.exp(noise.normal(0, spread)))))
    assert found.steady
    assert found.figure_s == pytest.approx(seconds, rel=4 * spread + 1e-9)


def test_the_device_is_synchronised_at_both_ends_of_every_sample() -> None:
    events: list[str] = []
    found = sample(lambda _: events.append("call"), 0.5, synchronise=lambda: events.append("synchronise"))
    assert events[:3] == ["synchronise", "call", "synchronise"]
    assert events.count("synchronise") == 2 * (1 + len(found.seconds) + (found.calls > 1))


@pytest.mark.alone
def test_between_calls_the_harness_spends_under_a_percent_of_five_milliseconds() -> None:
    """On the real clock: what is neither the first call nor a sample, the best of five; whatever disturbs a run makes it longer."""
    between_s = []
    for _ in range(5):
        found = sample(lambda _: sum(range(50_000)), 0.5)
        between_s.append((found.spent_s - found.first_s - found.calls * sum(found.seconds)) / len(found.seconds))
    assert min(between_s) < 5e-5
    assert min(clock_cost_s() for _ in range(5)) < 1e-5
