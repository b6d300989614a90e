"""The table of verdicts, row by row, for every check at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from harness.checks import CHECKS, Check, Evidence, Judgement, judge
from harness.checks.rules import _TOLD_BY, broke
from harness.detections import Detections, Panoptic
from harness.levels import FEWEST_PROCESSES, KEPT_OBJECTS
from harness.suites.meta.harness.answers import (
    CAP,
    CELL,
    EVERYTHING,
    HEIGHT_PX,
    REFERENCE,
    SPEC,
    WIDTH_PX,
    changed,
    crowd,
    deck,
    evidence,
    grid,
    observed,
    restoration,
    truth_of,
    with_everything,
)
from harness.suites.meta.harness.behaviours import behaved
from harness.suites.meta.harness.timings import point, process
from harness.sweep import answer_name
from harness.timings import LoadPoint, TimingPoint
from harness.types import JobError, Observation, Purpose, Reply, Status, Variant

PICTURES = deck(one=grid(4), two=changed(grid(5), box_px=1.0), single=grid(1), crowded=grid(CAP, 10.0, 14.0))
TALLER_PX = 8


def taller(answer: Detections) -> Detections:
    """The same answer to a picture that has a few rows more."""
    assert answer.masks is not None
    assert answer.panoptic is not None
    masks = dataclasses.replace(answer.masks, size_hw_px=(HEIGHT_PX + TALLER_PX, WIDTH_PX))
    ids = np.pad(answer.panoptic.ids, ((0, TALLER_PX), (0, 0)), mode="edge")
    return dataclasses.replace(answer, masks=masks, panoptic=Panoptic(ids, answer.panoptic.segments))


ANSWERS = {name: with_everything(answer) for name, answer in PICTURES.items()}
ANSWERS["two"] = taller(ANSWERS["two"])
BEHAVED = behaved({name: ANSWERS[name] for name in ("one", "two")}, ANSWERS["blank"])
SERVED = dict.fromkeys(("file png", "plain png"), ANSWERS["one"])
REPLIES = {
    **{name: Reply(200, "application/json", "") for name in ("file png", "plain png", "after empty")},
    "bad empty": Reply(400, "application/json", '{"error": "the picture is empty"}'),
    "token none, detect": Reply(401, "application/json", '{"error": "a token is needed"}'),
    "drawn": Reply(200, "image/png", "[4, 6, 3] a digest"),
    "drawn here": Reply(200, "", "[4, 6, 3] a digest"),
}
TIMED = {answer_name(asked, name): ANSWERS[name] for asked in (1, "2 clients") for name in ("one", "two")}
LOAD = LoadPoint("closed", 2, 0.0, 4.0, 1.0, (0.04,) * 30, 50.0, 0, 0.0)
SWEEPS = tuple(process(n, point(1, 0.02), answers=TIMED, loads=(LOAD,)) for n in range(FEWEST_PROCESSES))
CURVE = tuple(TimingPoint(batch, "a loop", (0.01,) * 11, 2) for batch in (1, 2))


def whole() -> Evidence:
    """A cell that passes every check."""
    known = evidence(ANSWERS, ANSWERS, [ANSWERS], EVERYTHING)
    back = {"restored": restoration()}
    build = {**back, "source": restoration(), "source_after": restoration(), "resaved": restoration(), "effective": None}
    build["archived"] = {".tar": restoration(), ".zip": restoration()}
    seen = {
        Purpose.BUILD: dataclasses.replace(observed(ANSWERS, purpose=Purpose.BUILD), **build),
        Purpose.FIDELITY: dataclasses.replace(observed(ANSWERS, purpose=Purpose.FIDELITY), **back),
        Purpose.PARITY: dataclasses.replace(observed(ANSWERS), **back),
        Purpose.BEHAVIOUR: observed(BEHAVED, purpose=Purpose.BEHAVIOUR),
        Purpose.SERVING: dataclasses.replace(observed(SERVED, purpose=Purpose.SERVING), replies=REPLIES),
        Purpose.TIMING: dataclasses.replace(observed({}, purpose=Purpose.TIMING), curve=CURVE),
        Purpose.SWEEP: SWEEPS[0],
    }
    theirs = tuple(dataclasses.replace(one, job=dataclasses.replace(one.job, cell=REFERENCE)) for one in SWEEPS)
    reference = {
        **known.reference,
        Purpose.BEHAVIOUR: observed(BEHAVED, REFERENCE, Purpose.BEHAVIOUR),
        Purpose.SWEEP: theirs[0],
    }
    known = dataclasses.replace(known, sweeps=SWEEPS, reference_sweeps=theirs)
    images = tuple(dataclasses.replace(i, height_px=i.height_px + TALLER_PX * (i.id == "two")) for i in known.images)
    shown = truth_of({**ANSWERS, "crowded": with_everything(grid(CAP + 1, 10.0, 14.0))})
    return dataclasses.replace(known, observed=seen, reference=reference, images=images, truth=lambda: shown, sample="one")


def sound(check: Check) -> Evidence:
    """`whole`, of a cell that asks for less than fp32 where the check is one of these."""
    if check.at != "lower":
        return whole()
    many = {image: crowd(KEPT_OBJECTS) for image in ANSWERS}
    seen = observed(many, purpose=Purpose.PRECISION)
    assert seen.effective is not None
    seen = dataclasses.replace(seen, effective=dataclasses.replace(seen.effective, precision="int8"))
    return dataclasses.replace(
        whole(),
        spec=SPEC,
        variant=Variant("int8", precision="int8"),
        observed={**whole().observed, Purpose.PRECISION: seen},
        reference={Purpose.PRECISION: observed(many, REFERENCE, Purpose.PRECISION)},
        truth=lambda: truth_of(many),
    )


def replaced(known: Evidence, purpose: Purpose, **changes: object) -> Evidence:
    changed = dataclasses.replace(known.observed[purpose], **changes)  # type: ignore[arg-type]
    if purpose is Purpose.SWEEP:
        known = dataclasses.replace(known, sweeps=(changed, *known.sweeps[1:]))
    return dataclasses.replace(known, observed={**known.observed, purpose: changed})


def failing(purpose: Purpose, kind: str = "raised", check: Check | None = None) -> Evidence:
    return replaced(
        sound(check) if check else whole(), purpose, error=JobError(kind, "predict one", "ValueError: no such thing"), answers={}
    )


def needing(purpose: Purpose) -> list[Check]:
    return [check for check in CHECKS.values() if purpose in check.needs]


def ids(checks: Iterable[Check]) -> list[str]:
    return [check.id for check in checks]


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_sound_cell_passes_and_says_how_much_was_compared(check: Check) -> None:
    found = judge(check, sound(check))
    assert found.status is Status.PASSED, found
    assert found.compared > 0
    assert found.reason


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_planned_job_without_an_observation_is_missing(check: Check) -> None:
    for purpose in check.needs:
        known = sound(check)
        found = judge(check, dataclasses.replace(known, observed={p: o for p, o in known.observed.items() if p is not purpose}))
        assert found.status is Status.MISSING
        assert purpose in found.reason


BREAKING = [
    (purpose, check)
    for purpose in (Purpose.BUILD, Purpose.PARITY, *_TOLD_BY)
    for check in CHECKS.values()
    # Cells of fp32, of which all other checks are tried here, have no such job.
    if purpose is not Purpose.PRECISION or purpose in check.needs
]


@pytest.mark.parametrize(("purpose", "check"), BREAKING, ids=[f"{purpose}-{check.id}" for purpose, check in BREAKING])
def test_a_job_that_broke_is_told_by_one_check_and_declined_by_the_others(purpose: Purpose, check: Check) -> None:
    found = judge(check, failing(purpose, check=check))
    if purpose not in check.needs | {Purpose.BUILD}:
        assert found.status is Status.PASSED
    elif purpose in check.handles:
        assert found.status in (Status.ERRORED, Status.FAILED)
        assert "ValueError: no such thing" in found.reason
        assert "predict one" in found.reason
    else:
        assert found.status is Status.DECLINED
        assert found.reason.startswith("judged in part" if purpose in check.spares else "did not open: see ")
        told_by = next(told for told in CHECKS.values() if f"see {told.id}" in found.reason)
        assert judge(told_by, failing(purpose, check=told_by)).status in (Status.ERRORED, Status.FAILED)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_build_that_broke_after_making_its_artifact_is_told_by_one_check_and_the_rest_is_judged(check: Check) -> None:
    known = failing(Purpose.BUILD, check=check)
    whole_build = whole().observed[Purpose.BUILD]
    error = known.observed[Purpose.BUILD].error
    made = dataclasses.replace(whole_build, build_s=1.0, error=error, answers={}, restored=None, resaved=None, archived={})
    found = judge(check, dataclasses.replace(known, observed={**known.observed, Purpose.BUILD: made}))
    expected = {"fidelity.resaved": Status.ERRORED, "fidelity.archived": Status.DECLINED}
    assert found.status is expected.get(check.id, Status.PASSED), found


def test_weights_read_from_outside_are_failed_although_the_job_without_the_source_broke() -> None:
    known = failing(Purpose.FIDELITY)
    parity = known.observed[Purpose.PARITY]
    assert parity.restored is not None
    other = dataclasses.replace(parity.restored.tensors[0], sha256="0" * 64)
    restored = dataclasses.replace(parity.restored, tensors=(other, *parity.restored.tensors[1:]))
    observed = {**known.observed, Purpose.PARITY: dataclasses.replace(parity, restored=restored)}
    found = judge(CHECKS["fidelity.weights"], dataclasses.replace(known, observed=observed))
    assert found.status is Status.FAILED
    assert other.name in found.reason


@pytest.mark.parametrize("purpose", [Purpose.BUILD, Purpose.PARITY, Purpose.FIDELITY, Purpose.BEHAVIOUR, Purpose.TIMING])
def test_no_broken_job_goes_untold(purpose: Purpose) -> None:
    verdicts = {judge(check, failing(purpose)).status for check in CHECKS.values()}
    assert verdicts & {Status.ERRORED, Status.FAILED}


@pytest.mark.parametrize("kind", ["raised", "broken", "exited", "timeout", "memory", "killed"])
def test_opens_is_errored_in_words_whatever_broke_the_job(kind: str) -> None:
    found = judge(CHECKS["contract.opens"], failing(Purpose.PARITY, kind))
    assert found.status is Status.ERRORED
    assert "ValueError: no such thing" in found.reason


def test_a_build_that_broke_is_told_although_nothing_else_ran() -> None:
    known = failing(Purpose.BUILD)
    alone = dataclasses.replace(known, observed={Purpose.BUILD: known.observed[Purpose.BUILD]})
    assert judge(CHECKS["contract.opens"], alone).status is Status.ERRORED
    assert judge(CHECKS["parity.scores"], alone).status is Status.DECLINED


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_what_is_not_installed_declines_every_check_with_its_sentence(check: Check) -> None:
    known = whole()
    error = JobError("unavailable", "plan", "onnx is not installed. To check it too: pip install onnx")
    gone = {purpose: Observation(observation.job, error=error) for purpose, observation in known.observed.items()}
    found = judge(check, dataclasses.replace(known, observed=gone))
    assert (found.status, found.reason) == (Status.DECLINED, error.message)


REFERRING = [check for check in CHECKS.values() if Purpose.PARITY in check.reference]


@pytest.mark.parametrize("check", REFERRING, ids=ids(REFERRING))
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (JobError("timeout", "predict", "still running"), Status.ERRORED),
        (JobError("unavailable", "plan", "torch is not installed"), Status.DECLINED),
        (None, Status.ERRORED),
    ],
)
def test_without_its_reference_nothing_is_established(check: Check, error: JobError | None, status: Status) -> None:
    broken = {} if error is None else {Purpose.PARITY: dataclasses.replace(observed({}, REFERENCE), error=error)}
    found = judge(check, dataclasses.replace(whole(), reference=broken))
    assert found.status is status
    assert "not established" in found.reason or status is Status.DECLINED


@pytest.mark.parametrize("check", REFERRING, ids=ids(REFERRING))
def test_empty_answers_on_both_sides_are_no_agreement(check: Check) -> None:
    no_segments = Panoptic(np.zeros((HEIGHT_PX, WIDTH_PX), np.int32), ())
    nothing = {image: dataclasses.replace(answer.take([]), panoptic=no_segments) for image, answer in ANSWERS.items()}
    known = evidence(nothing, nothing, [nothing], EVERYTHING)
    known = dataclasses.replace(known, observed={**whole().observed, **known.observed})
    if check.suite == "parity":
        found = judge(check, known)
        assert found.status is Status.ERRORED
        assert "compared nothing" in found.reason


@pytest.mark.parametrize("status", [Status.PASSED, Status.FAILED])
def test_a_judge_that_compared_nothing_is_errored_whatever_it_says(status: Status) -> None:
    def lax(_: Evidence) -> Judgement:
        return Judgement(status, "all is well")

    check = Check("meta.lax", "", "", frozenset(), lax)
    assert judge(check, whole()).status is Status.ERRORED


@pytest.mark.parametrize("status", [Status.DECLINED, Status.INCONCLUSIVE, Status.MISSING])
def test_a_judge_that_does_not_conclude_need_not_compare(status: Status) -> None:
    def modest(_: Evidence) -> Judgement:
        return Judgement(status, "why")

    assert judge(Check("meta.modest", "", "", frozenset(), modest), whole()).status is status


def test_an_observation_without_an_error_cannot_be_told_as_broken() -> None:
    with pytest.raises(ValueError, match="left no error"):
        broke(observed(ANSWERS))


@pytest.mark.parametrize(
    "said", [lambda c: c.title, lambda c: c.asks, lambda c: c.judge.__doc__ or "wrapped"], ids=["title", "asks", "doc"]
)
def test_every_check_explains_itself(said: Callable[[Check], str]) -> None:
    assert all(said(check).strip() for check in CHECKS.values())
    assert all(
        "What usually" in check.asks and "What to do" in check.asks for check in CHECKS.values() if check.id != "fidelity.resaved"
    )
    assert all(key == check.id and check.needs for key, check in CHECKS.items())


def test_evidence_is_of_the_cell_it_names() -> None:
    assert whole().observed[Purpose.PARITY].job.cell == CELL
