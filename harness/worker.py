"""Runs one job in this process and leaves its observation on disk.

`python -m harness.worker ORDER.json` is a fresh process; `harness.zygote` forks one from a parent that has imported the heavy
libraries. Either way nothing of the job outlives it but the observation folder.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import json
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import isolation
from harness.environment import usable_cores
from harness.errors import Broken, HarnessError, Unavailable, told
from harness.observations import write_observation
from harness.redaction import redacted
from harness.types import Cell, Job, JobError, Load, ModelSpec, Observation, Purpose, Variant

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels
    from harness.families import Model
    from harness.ledger import Ledger
    from harness.sessions import Detector
    from harness.stages.bisect import Candidate
    from harness.types import Restoration, StageReport

EXIT_NO_OBSERVATION = 70


@dataclass(frozen=True, slots=True)
class Order:
    """Everything a worker needs to run one job; plain JSON on disk.

    ``adapter`` is a name of the registry or ``file.py:NAME``. ``artifact`` is the folder to build into, or the moved copy to
    open. ``source`` is the folder of the source checkpoint (`Family.materialise`), which a fidelity job finds empty.
    ``pictures`` is the file of the deck's `Pixels` by id (npz), ``images`` the ids to answer, in order, ``sample`` the id to trace
    with. ``import_paths`` are put before `sys.path`.
    """

    job: Job
    spec: ModelSpec
    variant: Variant
    adapter: str
    artifact: str
    source: str
    pictures: str
    images: tuple[str, ...]
    sample: str
    observation: str
    scratch: str
    shared: str
    seed: int
    import_paths: tuple[str, ...] = field(default_factory=tuple)

    @property
    def folders(self) -> dict[str, str]:
        """What the folders of this job are called where its errors are told."""
        return {
            self.scratch: "scratch",
            self.source: "source",
            str(Path(self.source).parent / "artifact"): "artifact, where it was built",
        }

    def write(self, path: Path) -> None:
        """Write the order as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), default=dict))

    @classmethod
    def read(cls, path: Path) -> Order:
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        job = raw.pop("job")
        spec = raw.pop("spec")
        return cls(
            job=Job(Cell(**job["cell"]), Purpose(job["purpose"]), Load(**job["load"]), job["repeat"]),
            spec=ModelSpec.read(spec),
            variant=Variant(**raw.pop("variant")),
            images=tuple(raw.pop("images")),
            import_paths=tuple(raw.pop("import_paths")),
            **raw,
        )


def run_order(order: Order) -> None:
    """Run the job and write its observation, or the error in its place; never raises for what a backend does."""
    faulthandler.enable()
    stage = _Stage(Path(order.observation))
    threads = order.job.load.threads
    stage.enter("isolate")
    isolated = isolation.enter(Path(order.scratch), threads, Path(order.shared))
    sys.path[:0] = order.import_paths
    try:
        observation = _JOBS[order.job.purpose](order, stage)
    except Exception as error:  # noqa: BLE001 - a backend's crash becomes a status, never this program's own
        observation = Observation(order.job, error=_describe(error, stage.name, order))
    observation = dataclasses.replace(observation, isolation=isolated, peak_rss_bytes=_own_peak_bytes())
    stage.enter("record")
    write_observation(Path(order.observation), observation)


def _own_peak_bytes() -> int:
    """The largest resident set of this process so far; its children are polled from outside."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _Stage:
    """Says on disk how far the job came, so that a process that dies can still be explained."""

    def __init__(self, folder: Path) -> None:
        self.name = "start"
        self._file = folder.with_name(folder.name + ".stage")
        self._file.parent.mkdir(parents=True, exist_ok=True)

    def enter(self, name: str) -> None:
        self.name = name
        self._file.write_text(name)


def _describe(error: Exception, stage: str, order: Order) -> JobError:
    kind = "unavailable" if isinstance(error, Unavailable) else "broken" if isinstance(error, Broken) else "raised"
    detail = "".join(traceback.format_exception(error))[-6000:]
    return JobError(kind, stage, redacted(told(error), order.folders)[:2000], redacted(detail, order.folders))


def _prepare_runtime(order: Order) -> None:
    """The thread count of a torch that is already imported (a forked job); one imported later reads the environment."""
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(order.job.load.threads or usable_cores())


def _build(order: Order, stage: _Stage) -> Observation:
    from harness.digests import restoration, tree_bytes, tree_sha256
    from harness.families import family

    stage.enter("import")
    _prepare_runtime(order)
    adapter = _adapter(order)
    kind = family(order.spec.family)
    stage.enter("build model")
    model = _perturbed_model(order)

    def state() -> Restoration:
        return restoration(model.module, kind.config_text(model.config), model.attached)

    before = state()
    stage.enter("build")
    artifact = _empty(Path(order.artifact))
    began = time.monotonic()
    adapter.build(model, order.variant, artifact)
    build_s = time.monotonic() - began
    observation = Observation(
        order.job,
        build_s=build_s,
        source=before,
        source_after=state(),
        artifact_bytes=tree_bytes(artifact),
        artifact_sha256=tree_sha256(artifact),
    )
    try:
        return dataclasses.replace(observation, **_reopened(order, stage, adapter, model, artifact))
    except Exception as error:  # noqa: BLE001 - the artifact is there: what follows may still open it in a fresh process
        return dataclasses.replace(observation, error=_describe(error, stage.name, order))


def _perturbed_model(order: Order) -> Model:
    """The live model from a checkpoint in ``order.source``, its weights perturbed after everything that reads the file."""
    from harness.families import family
    from harness.fixtures import calibration
    from harness.perturb import perturb

    kind = family(order.spec.family)
    source = Path(order.source)
    source.mkdir(parents=True, exist_ok=True)
    model = kind.build(order.spec, kind.materialise(order.spec, source), _picture(order, order.sample))
    perturb(model.module, order.seed)
    return dataclasses.replace(model, calibration=calibration.pictures)


def _reopened(order: Order, stage: _Stage, adapter: Any, model: Model, artifact: Path) -> dict[str, Any]:
    """Open the artifact in the process that made it, save what came back, and open that; nothing for backends without an object."""
    from harness.perturb import perturb

    stage.enter("open again in the same process")
    with _opened(order, artifact) as detector:
        back = detector.restored
        if back is None:
            return {"restored": detector.restoration(), "archived": _archived(order, stage, adapter, artifact)}
        answers = _answer(detector, order, stage)
        restored = detector.restoration()
        stage.enter("save what was loaded")
        config = model.config if back.config is None else back.config
        again = dataclasses.replace(model, module=back.module, config=config, native={**model.native, **back.native})
        second = _empty(Path(order.scratch) / "resaved")
        # Other weights than the first time, and these again afterwards: whatever keeps the first object gives itself away.
        held = {name: tensor.detach().clone() for name, tensor in _tensors(back.module)}
        perturb(back.module, order.seed + 1)
        rechanged = detector.restoration()
        adapter.build(again, order.variant, second)
        for name, tensor in _tensors(back.module):
            tensor.data.copy_(held[name])
    stage.enter("open what was saved again")
    with _opened(order, second) as detector:
        resaved = detector.restoration()
    archived = _archived(order, stage, adapter, artifact)
    return {"answers": answers, "restored": restored, "rechanged": rechanged, "resaved": resaved, "archived": archived}


def _tensors(module: Any) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _archived(order: Order, stage: _Stage, adapter: Any, artifact: Path) -> dict[str, Restoration | str]:
    """By ending: the artifact exported, imported and opened, or what was said. Equal files are opened once."""
    from harness.adapters import Archiving
    from harness.digests import tree_sha256

    found: dict[str, Restoration | str] = {}
    opened: dict[str, Restoration] = {}
    for ending in adapter.archives(order.variant) if isinstance(adapter, Archiving) else ():
        stage.enter(f"export and import {ending}")
        archive = _empty(Path(order.scratch) / "exported") / f"archive{ending}"
        taken = _empty(Path(order.scratch) / "taken")
        try:
            adapter.export(artifact, order.variant, archive)
            adapter.take(archive, order.variant, taken)
            content = tree_sha256(taken)
            if content not in opened:
                with _opened(order, taken) as detector:
                    restored = detector.restoration()
                if restored is None:
                    continue
                opened[content] = restored
            found[ending] = opened[content]
        except Exception as error:  # noqa: BLE001 - what an archive does is judged by its own check
            found[ending] = redacted(told(error), order.folders)[:600]
    return found


def _answers(order: Order, stage: _Stage) -> Observation:
    """Open the artifact and answer the images: parity, fidelity, precision and floor jobs differ only in what surrounds them."""
    stage.enter("import")
    _prepare_runtime(order)
    stage.enter("open")
    began = time.monotonic()
    with _opened(order, Path(order.artifact)) as detector:
        open_s = time.monotonic() - began
        restored = detector.restoration()
        predict_s: list[float] = []
        answers = _answer(detector, order, stage, predict_s)
        return Observation(
            order.job,
            answers=answers,
            ledgers=_ledgers(detector, order, stage),
            effective=detector.effective,
            open_s=open_s,
            predict_s=tuple(predict_s),
            restored=restored,
        )


def _ledgers(detector: Detector, order: Order, stage: _Stage) -> dict[str, Ledger]:
    """What the reference weighed up, by image id, for which it answers once more; nothing of any other job."""
    from harness.families import family
    from harness.plan import REFERENCE

    cell, back = order.job.cell, detector.restored
    if order.job.purpose is not Purpose.PARITY or (cell.backend, cell.variant) != REFERENCE or back is None:
        return {}
    kind, found = family(order.spec.family), {}
    for name, pixels in _pixels(order):
        stage.enter(f"record what is weighed up on {name}")
        ledger = kind.ledger(back.module, back.config, pixels)
        if ledger is not None:
            found[name] = ledger
    return found


def _behaviour(order: Order, stage: _Stage) -> Observation:
    from harness import behaviour

    stage.enter("import")
    _prepare_runtime(order)
    stage.enter("open")
    began = time.monotonic()
    with _opened(order, Path(order.artifact)) as detector:
        open_s = time.monotonic() - began
        answers, declined = behaviour.run(detector, dict(_pixels(order)), order.sample, stage.enter)
        return Observation(order.job, answers=answers, declined=declined, effective=detector.effective, open_s=open_s)


def _serving(order: Order, stage: _Stage) -> Observation:
    from harness import wire
    from harness.adapters import ServedSession

    stage.enter("import")
    _prepare_runtime(order)
    stage.enter("open")
    with _opened(order, Path(order.artifact)) as detector:
        session = detector.session
        if not isinstance(session, ServedSession):
            raise HarnessError(f"a {type(session).__name__} takes no requests", "See harness.adapters.ServedSession.")
        answers, replies = wire.run(session, order.spec, _picture(order, order.sample), stage.enter)
        return Observation(order.job, answers=answers, replies=replies, effective=detector.effective)


def _timing(order: Order, stage: _Stage) -> Observation:
    from harness.clock import batch_curve

    stage.enter("import")
    _prepare_runtime(order)
    stage.enter("open")
    began = time.monotonic()
    with _opened(order, Path(order.artifact)) as detector:
        open_s = time.monotonic() - began
        stage.enter("time")
        images = [pixels for _, pixels in _pixels(order)]
        curve = batch_curve(detector.predict, images, detector.batching, detector.synchronise)
        return Observation(order.job, effective=detector.effective, open_s=open_s, curve=curve)


def _stages(order: Order, stage: _Stage) -> Observation:
    from harness.stages.bisect import Candidate, stage_reports

    stage.enter("import")
    _prepare_runtime(order)
    adapter = _adapter(order)
    stage.enter("build model")
    model = _perturbed_model(order)
    stage.enter("take apart")
    candidate = Candidate(adapter, order.variant, model, order.job.cell.device)
    found = []
    for report in stage_reports(candidate, dict(_pixels(order)), Path(order.artifact), Path(order.scratch) / "stages"):
        found.append(report)
        stage.enter(f"after {report.stage}")
    notes = _operators(order, stage, candidate, found) if order.job.purpose is Purpose.OPERATORS else ()
    return Observation(order.job, stages=tuple(found), notes=notes)


def _operators(order: Order, stage: _Stage, candidate: Candidate, reports: Sequence[StageReport]) -> tuple[str, ...]:
    """What the operators of the first stage that differs say, in words; the smallest failing graph goes beside the observation."""
    from harness.locate import REPRODUCER
    from harness.stages.bisect import first_difference
    from harness.stages.operators import dig

    first = first_difference(reports)
    if first is None or not first.differences:
        return ()
    stage.enter(f"operators of {first.stage}")
    pixels, out = _picture(order, first.differences[0].image), Path(order.observation) / REPRODUCER
    try:
        verdict = dig(candidate, first.stage, pixels, Path(order.scratch) / "operators", out)
    except Exception as error:  # noqa: BLE001 - the stages are known, whatever becomes of the operators
        return (f"those of {first.stage} could not be looked at: {redacted(told(error), order.folders)[:600]}",)
    unlike = "what this backend exports is neither ONNX nor IR: there are no operators to look at"
    return (unlike,) if verdict is None else (verdict.words,)


_JOBS = {
    Purpose.BUILD: _build,
    Purpose.PARITY: _answers,
    Purpose.FIDELITY: _answers,
    Purpose.BEHAVIOUR: _behaviour,
    Purpose.PRECISION: _answers,
    Purpose.SERVING: _serving,
    Purpose.FLOOR: _answers,
    Purpose.TIMING: _timing,
    Purpose.STAGES: _stages,
    Purpose.OPERATORS: _stages,
}


def _answer(detector: Detector, order: Order, stage: _Stage, predict_s: list[float] | None = None) -> dict[str, Detections]:
    """Answers by image id, in the deck's order; equal sizes go together where the load says more than one image a call."""
    answers: dict[str, Detections] = {}
    for group in _groups(list(_pixels(order)), order.job.load.batch):
        stage.enter(f"predict {', '.join(name for name, _ in group)}")
        began = time.monotonic()
        got = detector.predict([pixels for _, pixels in group])
        if predict_s is not None:
            predict_s.append(time.monotonic() - began)
        if len(got) != len(group):
            raise HarnessError(f"predict answered {len(got)} times for {len(group)} images")
        answers.update({name: answer for (name, _), answer in zip(group, got, strict=True)})
    return {name: answers[name] for name in order.images}


def _groups(images: Sequence[tuple[str, Pixels]], batch: int) -> Iterator[list[tuple[str, Pixels]]]:
    by_size: dict[tuple[int, ...], list[tuple[str, Pixels]]] = {}
    for name, pixels in images:
        by_size.setdefault(pixels.shape, []).append((name, pixels))
    queue = list(images) if batch == 1 else [pair for same in by_size.values() for pair in same]
    while queue:
        size = queue[0][1].shape
        group = [pair for pair in queue[:batch] if pair[1].shape == size]
        yield group
        queue = queue[len(group) :]


def _pixels(order: Order) -> Iterator[tuple[str, Pixels]]:
    for name in order.images:
        yield name, _picture(order, name)


def _picture(order: Order, name: str) -> Pixels:
    with np.load(order.pictures, allow_pickle=False) as pictures:
        pixels: Pixels = pictures[name]
        return pixels


def _adapter(order: Order) -> Any:
    from harness.registry import load_adapter, load_adapter_file

    return load_adapter_file(order.adapter) if ".py:" in order.adapter else load_adapter(order.adapter)


@contextmanager
def _opened(order: Order, artifact: Path) -> Iterator[Detector]:
    from harness.sessions import opened

    margins = order.job.purpose not in (Purpose.TIMING, Purpose.PRECISION)
    options: Mapping[str, Any] = {**order.variant.open, "threads": order.job.load.threads, "margins": margins}
    with opened(_adapter(order), artifact, dataclasses.replace(order.variant, open=options), order) as detector:
        gc.enable()
        yield detector


def _empty(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    """Entry point of a fresh process: one argument, the order's file."""
    # Importing torch makes a million objects that live for ever: looking through them for garbage is a fifth of the time.
    gc.disable()
    run_order(Order.read(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
