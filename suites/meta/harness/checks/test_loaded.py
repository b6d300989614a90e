"""Throughput under load: what is believed, what is not, in which words, and whose answer a client got. Processes are invented."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import pytest

from harness import levels
from harness.checks import CHECKS, Evidence, Judgement, judge
from harness.detections import Detections
from harness.suites.meta.harness.answers import REFERENCE, deck, detections, evidence, grid
from harness.suites.meta.harness.timings import ANSWERS, point, process
from harness.sweep import answer_name
from harness.timings import LoadPoint
from harness.types import Effective, JobError, Purpose, Status

pytestmark = pytest.mark.covers("M6")

PICTURES = deck(a=grid(3), b=grid(2), blank_too=detections([]))
IMAGE_S = 0.02


def load(clients: int, rate_per_s: float, count: int = 80, **changed: object) -> LoadPoint:
    """A closed load of which clients and answers a second times latency agree."""
    found = LoadPoint(
        kind="closed",
        offered=clients,
        of_best=0.0,
        seconds=4.0,
        warmup_s=1.0,
        latencies_s=(clients / rate_per_s,) * count,
        throughput_per_s=rate_per_s,
        refused=0,
        late=0.0,
        formed={clients: count},
    )
    return dataclasses.replace(found, **changed)  # type: ignore[arg-type]


def arrivals(of_best: float, latency_s: float, **changed: object) -> LoadPoint:
    """An open load of 30 requests."""
    return load(1, 30.0, **{"kind": "open", "of_best": of_best, "latencies_s": (latency_s,) * 30, **changed})


def usual(number: int) -> tuple[LoadPoint, ...]:
    """Twice as many answers with two clients, no more with four, in a process a little faster or slower than the others."""
    pace = 1 + 0.001 * number
    closed = (load(1, 50 * pace), load(2, 100 * pace), load(4, 101 * pace))
    return (*closed, arrivals(0.5, 0.03), arrivals(0.8, 0.09))


def known(
    loads: Callable[[int], tuple[LoadPoint, ...]] = usual,
    count: int = 6,
    under_load: Mapping[str, Detections] | None = None,
    **of: object,
) -> Evidence:
    answers = {**ANSWERS, answer_name("4 clients", "a"): grid(3), **(under_load or {})}
    sweeps = tuple(process(n, point(1, IMAGE_S, seed=n), answers=answers, loads=loads(n), **of) for n in range(count))
    found = evidence(PICTURES, PICTURES)
    return dataclasses.replace(found, observed={**found.observed, Purpose.SWEEP: sweeps[0]}, sweeps=sweeps)


def judged(check: str, of: Evidence) -> Judgement:
    return judge(CHECKS[f"throughput.{check}"], of)


def test_rates_have_intervals_and_the_fewest_clients_that_do_are_named() -> None:
    found = judged("served", known())
    told = {measure.name: measure.value for measure in found.measures}
    assert found.status is Status.PASSED
    assert found.reason.startswith("100 images/s with 2 clients at once, ")
    assert "over 6 processes; 50.1 with one; batches of 2.0 on average, 2 at most" in found.reason
    assert "at 50% of the best, arriving by chance, 95 % are answered within 30 ms" in found.reason
    assert "at 80% of the best, arriving by chance, 95 % are answered within 90 ms" in found.reason
    assert "refused" not in found.reason
    assert told["2 clients, throughput, low"] < told["2 clients, throughput"] < told["2 clients, throughput, high"]
    assert told["4 clients, p95 of the latency"] == pytest.approx(4 / 101, rel=0.01)
    assert told["4 clients, p99 of the latency: samples, 662 needed"] == 480
    assert told["2 clients, requests answered in batches of 2"] == 480
    assert found.compared == 3 * 6 * 80


def test_a_service_that_tells_nothing_of_batches_is_not_said_to_form_any() -> None:
    found = judged("served", known(lambda n: tuple(dataclasses.replace(one, formed={}) for one in usual(n))))
    assert "batches" not in found.reason


def test_refusals_are_told() -> None:
    found = judged("served", known(lambda n: (*usual(n), load(8, 101.0, refused=2))))
    assert found.reason.endswith("; 12 requests were refused")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"throughput_per_s": 60.0}, "6 loads: clients and answers a second times latency are 20% apart"),
        ({"late": 0.2}, "6 loads: the generator sent 20% of the requests too late"),
        ({"latencies_s": (0.02,) * 10}, "6 loads: 10 answers, 11 needed"),
    ],
    ids=["Little", "late", "few"],
)
def test_a_load_that_cannot_be_believed_is_not(changed: dict[str, object], words: str) -> None:
    found = judged("served", known(lambda _: (load(1, 50.0, **changed),)))
    assert found.status is Status.INCONCLUSIVE
    assert words in found.reason


def test_disturbed_and_too_few_processes_are_inconclusive() -> None:
    found = judged("served", known(disturbed=("other processes took 30% of the processors",)))
    assert found.status is Status.INCONCLUSIVE
    assert "6 of 6 processes were disturbed: other processes took 30%" in found.reason
    few = judged("served", known(count=levels.FEWEST_PROCESSES - 1))
    assert few.status is Status.INCONCLUSIVE
    assert "4 processes, 5 needed" in few.reason


def test_a_process_that_broke_is_told_with_its_number() -> None:
    of = known()
    broken = dataclasses.replace(
        of.sweeps[2], error=JobError("exception", "load with 4 clients", "under load it answered 500"), sweep=None
    )
    found = judged("served", dataclasses.replace(of, sweeps=(*of.sweeps[:2], broken, *of.sweeps[3:])))
    assert found.status is Status.ERRORED
    assert "in process 3 of 6" in found.reason
    assert "answered 500" in found.reason


def test_each_client_got_its_own_answer() -> None:
    found = judged("identity", known())
    assert (found.status, found.compared) == (Status.PASSED, 6 * 3)


def test_anothers_answer_is_told_with_whose_it_is() -> None:
    found = judged("identity", known(under_load={answer_name("8 clients", "a", 1): grid(2)}))
    assert (found.status, found.image) == (Status.FAILED, "a")
    assert found.reason == "with 8 clients, a is answered with the answer to b"


def test_an_answer_that_others_changed_is_told() -> None:
    moved = dataclasses.replace(grid(3), boxes_xyxy_px=grid(3).boxes_xyxy_px + 1)
    found = judged("identity", known(under_load={answer_name("12.5 arrivals a second", "a"): moved}))
    assert found.status is Status.FAILED
    assert found.reason.startswith("with 12.5 arrivals a second, a is answered otherwise than alone: a box differs by 1 px")


def test_without_a_load_nothing_is_said_of_answers_and_below_fp32_it_is_not_asked() -> None:
    of = known()
    bare = tuple(dataclasses.replace(seen, answers=ANSWERS) for seen in of.sweeps)
    assert judged("identity", dataclasses.replace(of, sweeps=bare)).status is Status.INCONCLUSIVE
    lower = Effective("bf16", "cpu", "invented", 1)
    observed = {purpose: dataclasses.replace(seen, effective=lower) for purpose, seen in of.observed.items()}
    assert judged("identity", dataclasses.replace(of, observed=observed)).status is Status.DECLINED


def test_answers_under_load_are_not_those_of_the_timed_loop() -> None:
    """The two checks share the observations, each is about its own."""
    wrong = {answer_name("8 clients", "a", 1): grid(2)}
    of = known(under_load=wrong)
    theirs = {**of.reference, Purpose.SWEEP: process(0, point(1, IMAGE_S), cell=REFERENCE)}
    of = dataclasses.replace(of, reference=theirs, reference_sweeps=(theirs[Purpose.SWEEP],))
    assert judged("answers", of).status is Status.PASSED
