"""What holds for every check, so that each judge can be small: jobs that broke, jobs that are missing, and empty comparisons."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from harness.checks import Check, Evidence, Judgement
from harness.types import Observation, Purpose, Status

_TOLD_BY = {
    Purpose.FIDELITY: "fidelity.only_carrier",
    Purpose.BEHAVIOUR: "contract.same_twice",
    Purpose.PRECISION: "parity.kept",
    Purpose.SERVING: "serving.wire",
    Purpose.TIMING: "throughput.batch_curve",
    Purpose.SWEEP: "throughput.measured",
}
"""Where the error of a job is told; all others in ``contract.opens``."""

_KINDS = {
    "raised": "raised an exception",
    "broken": "found an installed library that does not work",
    "exited": "ended its process without an answer",
    "timeout": "ran past its time limit",
    "memory": "ran past its memory limit",
    "killed": "was ended from outside",
    "unavailable": "cannot be had here",
}


def judge(check: Check, evidence: Evidence) -> Judgement:
    """The verdict of one check, before waivers.

    A job of the cell that broke makes one check errored or failed, the one that handles it; all others are declined and say where
    to look. A job that left nothing is missing. A reference that broke or is missing leaves the check errored: not established.
    What was judged by comparing nothing is errored, whatever the judge made of it.
    """
    settled = _own_jobs(check, evidence) or _reference_jobs(check, evidence)
    if settled is not None:
        return settled
    found = check.judge(evidence)
    if found.compared == 0 and found.status in (Status.PASSED, Status.FAILED):
        reason = found.reason if found.status is Status.FAILED else f"compared nothing: {found.reason}"
        return dataclasses.replace(found, status=Status.ERRORED, reason=reason)
    broken = [p for p in check.spares & check.needs if (seen := evidence.observed.get(p)) is not None and seen.error is not None]
    if broken and found.status is Status.PASSED:
        reason = f"judged in part, its {broken[0]} job broke (see {_TOLD_BY.get(broken[0], 'contract.opens')}): {found.reason}"
        return dataclasses.replace(found, status=Status.DECLINED, reason=reason)
    return found


def broke(observation: Observation) -> str:
    """What happened to a job that left an error, in words: ``the parity job raised an exception at the stage 'open': message``."""
    error = observation.error
    if error is None:
        raise ValueError(f"{observation.job} left no error")
    kind = _KINDS.get(error.kind, error.kind)
    return f"the {observation.job.purpose} job {kind} at the stage {error.stage!r}: {error.message}"


def _own_jobs(check: Check, evidence: Evidence) -> Judgement | None:
    for observation in _errors(check, evidence):
        error = observation.error
        if error is not None and error.kind == "unavailable":
            return Judgement(Status.DECLINED, error.message or "not available here")
        if error is not None and error.kind == "unbuilt":
            return Judgement(Status.DECLINED, "there is no artifact: see contract.opens")
        if observation.job.purpose in check.handles:
            return check.judge(evidence)
        told_by = _TOLD_BY.get(observation.job.purpose, "contract.opens")
        return Judgement(Status.DECLINED, f"did not open: see {told_by}")
    absent = [purpose for purpose in Purpose if purpose in check.needs and purpose not in evidence.observed]
    if absent:
        return Judgement(Status.MISSING, f"planned, but there is no observation of its {' and '.join(absent)} job")
    return None


def _errors(check: Check, evidence: Evidence) -> Iterator[Observation]:
    """The cell's jobs that broke and concern this check, in the order in which they ran.

    A build job that made its artifact and broke afterwards concerns only who handles it.
    """
    for purpose in Purpose:
        observation = evidence.observed.get(purpose)
        if observation is None or observation.error is None or purpose not in check.needs | {Purpose.BUILD}:
            continue
        made_and_broke = purpose is Purpose.BUILD and observation.build_s is not None
        never_ran = observation.error.kind in ("unavailable", "unbuilt")
        if never_ran or purpose in check.handles or not (made_and_broke or purpose in check.spares):
            yield observation


def _reference_jobs(check: Check, evidence: Evidence) -> Judgement | None:
    for purpose in Purpose:
        if purpose not in check.reference - {Purpose.FLOOR}:
            continue
        observation = evidence.reference.get(purpose)
        if observation is None:
            return Judgement(Status.ERRORED, f"not established: the reference left no observation of its {purpose} job")
        if observation.error is not None and observation.error.kind == "unavailable":
            return Judgement(Status.DECLINED, f"the reference is not available here: {observation.error.message}")
        if observation.error is not None:
            return Judgement(Status.ERRORED, f"not established: in the reference, {broke(observation)}")
    return None
