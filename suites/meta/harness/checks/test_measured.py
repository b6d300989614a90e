"""Measured throughput: what is believed, what is not, and in which words. Processes are invented."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from harness import levels
from harness.checks import CHECKS, Evidence, Judgement, judge
from harness.detections import Detections
from harness.suites.meta.harness.answers import FP32, REFERENCE, deck, evidence, grid
from harness.suites.meta.harness.timings import ANSWERS, point, process
from harness.sweep import PADDED, answer_name, mixed_words
from harness.timings import SweepPoint, Used
from harness.types import Effective, JobError, Observation, Purpose, Status

pytestmark = pytest.mark.covers("M19")


def sides(
    count: int = 6, make: Callable[[int], Observation] | None = None, reference: Callable[[int], Observation] | None = None
) -> Evidence:
    """Evidence of so many processes a side; the candidate takes 20 ms, the reference 40."""
    pictures = deck(a=grid(3), b=grid(2))
    known = evidence(pictures, pictures)
    own = tuple((make or (lambda n: process(n, point(1, 0.02, seed=n), point(2, 0.03, seed=n))))(n) for n in range(count))
    theirs = tuple((reference or (lambda n: process(n, point(1, 0.04, seed=n + 99), cell=REFERENCE)))(n) for n in range(count))
    return dataclasses.replace(
        known,
        observed={**known.observed, Purpose.SWEEP: own[0]},
        reference={**known.reference, Purpose.SWEEP: theirs[0]},
        sweeps=own,
        reference_sweeps=theirs,
    )


def judged(check: str, known: Evidence) -> Judgement:
    return judge(CHECKS[f"throughput.{check}"], known)


def figures(found: Judgement) -> dict[str, float]:
    return {measure.name: measure.value for measure in found.measures}


def spent(repeat: int) -> Observation:
    return process(repeat, error=JobError("budget", "start", "the budget of 60 s was spent before it"), sweep=None)


def test_rates_have_intervals_over_processes_and_percentiles_where_there_are_samples_enough() -> None:
    found = judged("measured", sides())
    told = figures(found)
    assert found.status is Status.PASSED
    assert found.reason.startswith("66.")
    assert "images/s at batch 2 (a loop)" in found.reason
    assert "over 6 processes; 50 one at a time; more gains nothing" in found.reason
    assert told["batch 1, throughput"] == pytest.approx(50, rel=0.01)
    assert told["batch 1, throughput, low"] < told["batch 1, throughput"] < told["batch 1, throughput, high"]
    assert told["batch 2, throughput"] == pytest.approx(2 / 0.03, rel=0.01)
    # 6 processes of 33 calls: enough for a p95, not for a p99.
    assert told["batch 1, p95 of a call"] == pytest.approx(0.02, rel=0.02)
    assert told["batch 1, p99 of a call: samples, 662 needed"] == 198
    assert found.compared == 2 * 6 * 33


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda n: process(n, point(1, 0.02, steady=n > 2)), "in 3 of 6 processes, 5 needed (3 were not steady)"),
        (
            lambda n: process(n, point(1, 0.02), disturbed=("other processes took 30% of the processors",) if n < 2 else ()),
            "in 4 of 6 processes, 5 needed (2 were disturbed: other processes took 30% of the processors)",
        ),
        (
            lambda n: spent(n) if n > 3 else process(n, point(1, 0.02)),
            "in 4 of 4 processes, 5 needed (the budget of 60 s was spent",
        ),
        (lambda n: process(n, point(1, 0.02, count=10)), "in 0 of 6 processes, 5 needed (6 had fewer than 11 warm calls)"),
        (
            lambda n: process(n, point(1, 0.02, spent_s=4 * 0.02 + 33 * 0.02 * 1.05)),
            "in 0 of 6 processes, 5 needed (in 6 the calls are 4.",
        ),
    ],
    ids=["not steady", "disturbed", "budget", "few samples", "harness"],
)
def test_what_cannot_be_believed_is_inconclusive_and_says_why(make: Callable[[int], Observation], words: str) -> None:
    for check in ("measured", "ratio"):
        found = judged(check, sides(make=make))
        assert found.status is Status.INCONCLUSIVE
        assert words in found.reason


def test_five_good_processes_do_where_others_were_disturbed() -> None:
    known = sides(make=lambda n: process(n, point(1, 0.02), disturbed=("noise",) if n == 3 else ()))
    assert judged("measured", known).status is Status.PASSED
    found = judged("ratio", known)
    assert (found.status, found.compared) == (Status.PASSED, 5)


def test_a_larger_batch_that_had_no_time_is_said_so() -> None:
    found = judged("measured", sides(make=lambda n: process(n, point(1, 0.02), point(2, 0.03, steady=False))))
    assert found.status is Status.PASSED
    assert found.reason.endswith("batch 2 is not established: it needs more time")
    assert "batch 2, throughput" not in figures(found)


def test_where_memory_ended_the_curve_is_said() -> None:
    stopped = point(2, 0.03, seconds=(), stopped="out of memory: no more")
    found = judged("measured", sides(make=lambda n: process(n, point(1, 0.02), stopped)))
    assert found.status is Status.PASSED
    assert found.reason.endswith("batch 2: out of memory: no more")


def test_the_knee_is_the_smallest_batch_that_is_as_good_as_the_best() -> None:
    curve = [(1, 0.02), (2, 0.03), (4, 0.04), (8, 0.079)]
    found = judged("measured", sides(make=lambda n: process(n, *(point(batch, call_s, seed=n) for batch, call_s in curve))))
    assert "images/s at batch 4 (a loop)" in found.reason


def test_the_ratio_is_of_pairs_of_one_round() -> None:
    """Both sides slow down by half in the course of the rounds: the ratio does not see it."""
    found = judged(
        "ratio",
        sides(
            8,
            lambda n: process(n, point(1, 0.02 * (1 + n / 14), seed=n)),
            lambda n: process(n, point(1, 0.04 * (1 + n / 14), seed=n + 50), cell=REFERENCE),
        ),
    )
    told = figures(found)
    assert found.status is Status.PASSED
    assert told["time of one image, of the reference's"] == pytest.approx(0.5, rel=0.005)
    high, low = (told[f"time of one image, of the reference's, {end}"] for end in ("high", "low"))
    assert low < 0.5 < high
    assert high - low < 0.01
    assert "0.5 times as long as in the reference" in found.reason
    assert "8 pairs" in found.reason


def test_sides_that_share_too_few_rounds_have_no_ratio() -> None:
    def fit(*repeats: int) -> Callable[[int], SweepPoint]:
        return lambda n: point(1, 0.02, steady=n in repeats)

    mine, theirs = fit(0, 1, 2, 3, 4), fit(1, 2, 3, 4, 5)
    found = judged("ratio", sides(6, lambda n: process(n, mine(n)), lambda n: process(n, theirs(n), cell=REFERENCE)))
    assert (found.status, found.reason) == (Status.INCONCLUSIVE, "4 pairs of processes of one round, 5 needed")
    missing = judged("ratio", sides(6, None, lambda n: process(n, fit(0)(n), cell=REFERENCE)))
    assert missing.reason.startswith("of the reference, batch 1 was steady and undisturbed in 1 of 6 processes")


def test_other_work_is_no_comparison() -> None:
    other = {**ANSWERS, answer_name(1, "b"): grid(1)}
    found = judged("ratio", sides(make=lambda n: process(n, point(1, 0.02), answers=other)))
    assert (found.status, found.reason) == (Status.INCONCLUSIVE, "other work: 1 detections on b, the reference has 2")
    sometimes = {**ANSWERS, answer_name(1, "a", 1): grid(1)}
    found = judged("ratio", sides(make=lambda n: process(n, point(1, 0.02), answers=sometimes if n == 4 else ANSWERS)))
    assert found.reason == "other work: 1 or 3 detections on a, the reference has 3"
    elsewhere = {answer_name(1, "z"): grid(1)}
    found = judged("ratio", sides(make=lambda n: process(n, point(1, 0.02), answers=elsewhere)))
    assert found.reason == "other work: there is no picture that both were asked"


@pytest.mark.parametrize("check", ["measured", "ratio", "answers", "caching"])
def test_a_process_that_broke_is_told_once(check: str) -> None:
    error = JobError("memory", "time", "used more than 6.0 GiB")
    known = sides(make=lambda n: process(n, error=error, sweep=None))
    found = judged(check, known)
    told = (
        Status.ERRORED,
        "in process 1 of 6, the sweep job ran past its memory limit at the stage 'time': used more than 6.0 GiB",
    )
    assert (found.status, found.reason) == (
        told if check == "measured" else (Status.DECLINED, "did not open: see throughput.measured")
    )


def test_one_of_many_that_broke_is_an_error_too() -> None:
    error = JobError("exited", "time", "ended by itself")
    found = judged("measured", sides(make=lambda n: process(n, error=error, sweep=None) if n == 4 else process(n, point(1, 0.02))))
    assert found.status is Status.ERRORED
    assert found.reason.startswith("in process 5 of 6, ")


def test_time_at_another_precision_is_not_this_cells() -> None:
    def make(n: int, effective: Effective | None) -> Observation:
        return dataclasses.replace(process(n, point(1, 0.02)), effective=effective)

    assert judged("measured", sides(make=lambda n: make(n, dataclasses.replace(FP32, precision="bf16")))).status is Status.ERRORED
    assert judged("measured", sides(make=lambda n: make(n, None))).status is Status.ERRORED


def moved(answer: Detections, px: float) -> Detections:
    return dataclasses.replace(answer, boxes_xyxy_px=answer.boxes_xyxy_px + np.float32(px))


def test_what_is_timed_is_what_was_checked() -> None:
    found = judged("answers", sides())
    assert (found.status, found.compared) == (Status.PASSED, 6 * 5)
    assert found.reason.endswith("no answer changed from call to call")
    near = {**ANSWERS, answer_name(4, "a", 1): moved(grid(3), 1e-4)}
    found = judged("answers", sides(make=lambda n: process(n, point(1, 0.02), answers=near if n == 2 else ANSWERS)))
    assert found.status is Status.PASSED
    assert found.reason.endswith("1 answers changed from call to call, within levels")


@pytest.mark.parametrize("wrong", [moved(grid(3), 0.5), grid(2), grid(0)], ids=["moved", "one fewer", "none"])
@pytest.mark.parametrize("name", [answer_name(1, "a"), answer_name(8, "a"), answer_name(8, "a", 3)])
def test_a_fast_path_that_answers_otherwise_is_caught(name: str, wrong: Detections) -> None:
    """In one process of six, and only sometimes."""
    answers = {**ANSWERS, name: wrong}
    found = judged("answers", sides(make=lambda n: process(n, point(1, 0.02), answers=answers if n == 3 else ANSWERS)))
    assert (found.status, found.image) == (Status.FAILED, "a")
    assert found.reason.startswith(f"timed with {name.split('/', maxsplit=1)[0]} images a call, a is answered otherwise")


def audited(again: Sequence[float]) -> Callable[[int], Observation]:
    fresh = tuple(0.02 for _ in range(levels.MEDIAN_SAMPLES))
    return lambda n: process(n, point(1, 0.02), fresh_s=fresh, again_s=tuple(again[n % len(again)] for _ in fresh))


@pytest.mark.parametrize(
    ("again", "status"),
    [
        ([0.02], Status.PASSED),
        ([0.0195, 0.0205], Status.PASSED),
        ([0.0001], Status.FAILED),
        ([0.0150, 0.0155], Status.FAILED),
        ([0.017, 0.0195], Status.INCONCLUSIVE),
        ([0.03], Status.PASSED),
    ],
    ids=str,
)
def test_a_picture_once_more_is_not_faster(again: list[float], status: Status) -> None:
    assert judged("caching", sides(make=audited(again))).status is status


def test_an_audit_of_few_processes_says_nothing() -> None:
    found = judged("caching", sides(4, audited([0.02])))
    assert (found.status, found.reason) == (Status.INCONCLUSIVE, "4 processes were audited, 5 needed")


def test_what_happens_once_and_the_parts_are_told_of_the_first_process() -> None:
    once = {"cold": {"import": 1.5, "first answer": 0.3}, "parts": {"decode": (0.001,) * 11, "infer": (0.02,) * 11}}
    told = figures(judged("measured", sides(make=lambda n: process(n, point(1, 0.02), **(once if n == 0 else {})))))
    assert (told["once, import"], told["once, first answer"]) == (1.5, 0.3)
    assert (told["part of a call, decode"], told["part of a call, infer"]) == (0.001, 0.02)


def of_several(n: int, scale: float = 1.0, kind: str = "a loop", **of: object) -> Observation:
    """A process that was asked for pictures of several sizes too: 25 ms each, in fours 80 ms."""
    mixed = (point(1, scale * 0.025, seed=n), point(4, scale * 0.080, seed=n, kind=kind))
    return process(n, point(1, scale * 0.02, seed=n), mixed=mixed, **of)  # type: ignore[arg-type]


def test_pictures_of_several_sizes_are_told_apart() -> None:
    found = judged("measured", sides(make=of_several))
    assert found.status is Status.PASSED
    assert "; more gains nothing; of mixed sizes 40 one at a time, 50 at batch 4 (a loop)" in found.reason
    told = figures(found)
    assert told["mixed sizes, batch 4, throughput"] == pytest.approx(50, rel=0.01)
    assert told["batch 1, throughput"] == pytest.approx(50, rel=0.01)
    assert "batch 4, throughput" not in told


def test_pictures_of_several_sizes_that_need_more_time_are_no_reason_to_doubt_the_others() -> None:
    def unsteady(n: int) -> Observation:
        return process(n, point(1, 0.02, seed=n), mixed=(point(1, 0.025, steady=False),))

    for make in (unsteady, lambda n: process(n, point(1, 0.02, seed=n), unasked="mixed sizes")):
        found = judged("measured", sides(make=make))
        assert found.status is Status.PASSED
        assert "; mixed sizes are not established: they need more time" in found.reason


def several_answers(**answers: Detections) -> dict[str, Detections]:
    return {**ANSWERS, **{answer_name(mixed_words(4), name): answer for name, answer in answers.items()}}


def test_of_several_sizes_in_a_loop_each_is_answered_as_alone() -> None:
    right = several_answers(a=grid(3), b=grid(2))
    assert judged("answers", sides(make=lambda n: of_several(n, answers=right))).status is Status.PASSED
    wrong = several_answers(a=grid(3), b=grid(3))
    found = judged("answers", sides(make=lambda n: of_several(n, answers=wrong)))
    assert found.status is Status.FAILED
    assert found.reason.startswith("timed with pictures of mixed sizes, batch 4, b is answered otherwise than in parity's job")


def test_of_several_sizes_padded_to_one_each_is_answered_as_in_the_references_batch() -> None:
    """Which differs from what is answered alone: padding is seen."""
    padded = several_answers(a=grid(2), b=grid(1))

    def theirs(n: int) -> Observation:
        return of_several(n, 2.0, PADDED, cell=REFERENCE, answers=padded)

    right = sides(make=lambda n: of_several(n, kind=PADDED, answers=padded), reference=theirs)
    assert judged("answers", right).status is Status.PASSED
    alone = several_answers(a=grid(3), b=grid(2))
    found = judged("answers", sides(make=lambda n: of_several(n, kind=PADDED, answers=alone), reference=theirs))
    assert found.status is Status.FAILED
    assert "a is answered otherwise than in the reference's batch of these" in found.reason
    unknown = sides(make=lambda n: of_several(n, kind=PADDED, answers=padded))
    assert judged("answers", unknown).status is Status.PASSED


def test_what_the_device_held_and_spent_is_told_an_image() -> None:
    def used(n: int) -> Observation:
        return process(n, point(1, 0.02, seed=n, used=Used((n + 1) << 20, 33 * 0.5)))

    told = figures(judged("measured", sides(make=used)))
    assert told["batch 1, memory of the device in use"] == 6 << 20
    assert told["batch 1, energy of the device, an image"] == pytest.approx(0.5)
    untold = figures(judged("measured", sides()))
    assert not any("device" in name for name in untold)
