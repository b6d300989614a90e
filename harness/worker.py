"""Runs one job in this process and leaves its observation on disk.

`python -m harness.worker ORDER.json` is a fresh process; `harness.zygote` forks one from a parent that has imported the heavy
libraries. Either way nothing of the job outlives it but the observation folder.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import isolation
from harness.building import build
from harness.errors import HarnessError, told
from harness.observations import write_observation
from harness.orders import (
    Order,
    Stage,
    adapter_of,
    answer_all,
    described,
    opened,
    perturbed_model,
    picture_of,
    pixels_of,
    prepare_runtime,
)
from harness.redaction import redacted
from harness.types import Observation, Purpose

if TYPE_CHECKING:
    from harness.ledger import Ledger
    from harness.sessions import Detector
    from harness.stages.bisect import Candidate
    from harness.types import StageReport

EXIT_NO_OBSERVATION = 70


def run_order(order: Order) -> None:
    """Run the job and write its observation, or the error in its place; never raises for what a backend does."""
    faulthandler.enable()
    stage = Stage(Path(order.observation))
    threads = order.job.load.threads
    stage.enter("isolate")
    isolated = isolation.enter(Path(order.scratch), threads, Path(order.shared))
    sys.path[:0] = order.import_paths
    try:
        observation = _JOBS[order.job.purpose](order, stage)
    except Exception as error:  # noqa: BLE001 - a backend's crash becomes a status, never this program's own
        observation = Observation(order.job, error=described(error, stage.name, order))
    observation = dataclasses.replace(observation, isolation=isolated, peak_rss_bytes=_own_peak_bytes())
    stage.enter("record")
    write_observation(Path(order.observation), observation)


def _own_peak_bytes() -> int:
    """The largest resident set of this process so far; its children are polled from outside."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _answers(order: Order, stage: Stage) -> Observation:
    """Open the artifact and answer the images: parity, fidelity, precision and floor jobs differ only in what surrounds them."""
    stage.enter("import")
    prepare_runtime(order)
    stage.enter("open")
    began = time.monotonic()
    with opened(order, Path(order.artifact)) as detector:
        open_s = time.monotonic() - began
        restored = detector.restoration()
        predict_s: list[float] = []
        answers = answer_all(detector, order, stage, predict_s)
        return Observation(
            order.job,
            answers=answers,
            ledgers=_ledgers(detector, order, stage),
            effective=detector.effective,
            open_s=open_s,
            predict_s=tuple(predict_s),
            restored=restored,
        )


def _ledgers(detector: Detector, order: Order, stage: Stage) -> dict[str, Ledger]:
    """What the reference weighed up, by image id, for which it answers once more; nothing of any other job."""
    from harness.families import family
    from harness.plan import REFERENCE

    cell, back = order.job.cell, detector.restored
    if order.job.purpose is not Purpose.PARITY or (cell.backend, cell.variant) != REFERENCE or back is None:
        return {}
    kind, found = family(order.spec.family), {}
    for name, pixels in pixels_of(order):
        stage.enter(f"record what is weighed up on {name}")
        ledger = kind.ledger(back.module, back.config, pixels)
        if ledger is not None:
            found[name] = ledger
    return found


def _behaviour(order: Order, stage: Stage) -> Observation:
    from harness import behaviour

    stage.enter("import")
    prepare_runtime(order)
    stage.enter("open")
    began = time.monotonic()
    with opened(order, Path(order.artifact)) as detector:
        open_s = time.monotonic() - began
        answers, declined = behaviour.run(detector, dict(pixels_of(order)), order.sample, stage.enter)
        return Observation(order.job, answers=answers, declined=declined, effective=detector.effective, open_s=open_s)


def _serving(order: Order, stage: Stage) -> Observation:
    from harness import wire
    from harness.adapters import ServedSession

    stage.enter("import")
    prepare_runtime(order)
    stage.enter("open")
    with opened(order, Path(order.artifact)) as detector:
        session = detector.session
        if not isinstance(session, ServedSession):
            raise HarnessError(f"a {type(session).__name__} takes no requests", "See harness.adapters.ServedSession.")
        answers, replies = wire.run(session, order.spec, picture_of(order, order.sample), stage.enter)
        return Observation(order.job, answers=answers, replies=replies, effective=detector.effective)


def _timing(order: Order, stage: Stage) -> Observation:
    from harness.clock import batch_curve

    stage.enter("import")
    prepare_runtime(order)
    stage.enter("open")
    began = time.monotonic()
    with opened(order, Path(order.artifact)) as detector:
        open_s = time.monotonic() - began
        stage.enter("time")
        images = [pixels for _, pixels in pixels_of(order)]
        curve = batch_curve(detector.predict, images, detector.batching, detector.synchronise)
        return Observation(order.job, effective=detector.effective, open_s=open_s, curve=curve)


def _sweep(order: Order, stage: Stage) -> Observation:
    """Cold figures of the first process, of all of them the curve; the audit of as many as a verdict needs."""
    from harness import timed
    from harness.device_meter import device_meter

    stage.enter("import")
    cold = {"import": timed.imported_s(adapter_of(order))} if order.job.repeat == 0 else {}
    prepare_runtime(order)
    stage.enter("open")
    began = time.monotonic()
    with device_meter(order.job.cell.device) as meter, opened(order, Path(order.artifact)) as detector:
        open_s = time.monotonic() - began
        swept, answers = timed.measured(detector, dict(pixels_of(order)), order, stage.enter, meter)
        swept = dataclasses.replace(swept, cold={**cold, **swept.cold})
        return Observation(order.job, answers=answers, effective=detector.effective, open_s=open_s, sweep=swept)


def _stages(order: Order, stage: Stage) -> Observation:
    from harness.stages.bisect import Candidate, stage_reports

    stage.enter("import")
    prepare_runtime(order)
    adapter = adapter_of(order)
    stage.enter("build model")
    model = perturbed_model(order)
    stage.enter("take apart")
    candidate = Candidate(adapter, order.variant, model, order.job.cell.device)
    found = []
    for report in stage_reports(candidate, dict(pixels_of(order)), Path(order.artifact), Path(order.scratch) / "stages"):
        found.append(report)
        stage.enter(f"after {report.stage}")
    notes = _operators(order, stage, candidate, found) if order.job.purpose is Purpose.OPERATORS else ()
    return Observation(order.job, stages=tuple(found), notes=notes)


def _operators(order: Order, stage: Stage, candidate: Candidate, reports: Sequence[StageReport]) -> tuple[str, ...]:
    """What the operators of the first stage that differs say, in words; the smallest failing graph goes beside the observation."""
    from harness.locate import REPRODUCER
    from harness.stages.bisect import first_difference
    from harness.stages.operators import dig

    first = first_difference(reports)
    if first is None or not first.differences:
        return ()
    stage.enter(f"operators of {first.stage}")
    pixels, out = picture_of(order, first.differences[0].image), Path(order.observation) / REPRODUCER
    try:
        verdict = dig(candidate, first.stage, pixels, Path(order.scratch) / "operators", out)
    except Exception as error:  # noqa: BLE001 - the stages are known, whatever becomes of the operators
        return (f"those of {first.stage} could not be looked at: {redacted(told(error), order.folders)[:600]}",)
    unlike = "what this backend exports is neither ONNX nor IR: there are no operators to look at"
    return (unlike,) if verdict is None else (verdict.words,)


_JOBS = {
    Purpose.BUILD: build,
    Purpose.PARITY: _answers,
    Purpose.FIDELITY: _answers,
    Purpose.BEHAVIOUR: _behaviour,
    Purpose.PRECISION: _answers,
    Purpose.SERVING: _serving,
    Purpose.FLOOR: _answers,
    Purpose.TIMING: _timing,
    Purpose.SWEEP: _sweep,
    Purpose.STAGES: _stages,
    Purpose.OPERATORS: _stages,
}


def main() -> None:
    """Entry point of a fresh process: one argument, the order's file."""
    # Importing torch makes a million objects that live for ever: looking through them for garbage is a fifth of the time.
    gc.disable()
    run_order(Order.read(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
