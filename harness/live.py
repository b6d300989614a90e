"""A run while it happens: plan, execute, judge, record. `harness.plugin` drives it; it knows nothing of pytest."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path

import platformdirs

from harness import doctor, environment, heading, registry, waivers
from harness.artifacts import Artifacts
from harness.checks import CHECKS, Check, Evidence, Judgement, judge
from harness.checks.fit import fit_figures_s
from harness.conditioned import conditioned
from harness.document import CellLine
from harness.errors import HarnessError, RunFolderError, UnknownName, UsageError
from harness.executor import SEED, Executor, Limits, Setting, quiet
from harness.families.checkpoints import weights_file
from harness.fixtures.decks import Deck, deck
from harness.fixtures.models import DEFAULT_MODELS, QUICK_MODELS
from harness.journal import RunWriter
from harness.options import Options
from harness.plan import (
    DEVICES,
    MEASURED,
    PlannedCell,
    Request,
    State,
    checks_for,
    floor_jobs,
    job,
    jobs_for,
    plan_cells,
    reference_of,
)
from harness.replay import Replay
from harness.rounds import sweep_jobs
from harness.stages.bisect import conclusion
from harness.types import Cell, Job, ModelSpec, Observation, Purpose, Record, Status
from harness.waivers import Waiver

Key = tuple[str, Cell]

_OF_THE_MACHINE = ("timeout", "memory", "killed")
"""How a job may end for reasons of the machine: no waiver is about that."""

BEFORE_THE_STAGES = frozenset({"build", "save", "load", "upload"})
"""Where a divergence may begin that no stage shows, in the words of a waiver."""

_WIDER = (
    "Masks are asked of mask models, parity not of the reference, timings not of a quick run, what is measured with --only "
    "throughput; --dry-run shows the cells."
)


class Plan:
    """What a request means here: the cells, the checks of each, the deck. Examines libraries and devices, runs no backend."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._refs = dict(registry.adapters())
        self.as_typed = {registry.file_ref(target).name: target for target in options.adapter}
        self._refs |= {name: registry.file_ref(target) for name, target in self.as_typed.items()}
        self.adapters = {name: ref.load() for name, ref in self._refs.items()}
        self.waivers = waivers.load_waivers(waivers.waivers_folder(), *([options.waivers] if options.waivers else []))
        self.models: Mapping[str, ModelSpec] = registry.models()
        self.deck: Deck = deck("quick" if options.quick else "scenes")
        self.many: Deck = deck("many")
        self.devices = _devices()
        variants = {name: [variant.id for variant in adapter.variants] for name, adapter in self.adapters.items()}
        own = waivers.load_waivers(options.waivers) if options.waivers else ()
        self.strangers = waivers.check_names(own, self.models, variants, DEVICES)
        """Backends that have waivers of the user's, but are not here."""
        nameable = {*self.adapters, *self.models, *DEVICES}
        for name in options.require:
            if name not in nameable:
                raise UnknownName("backend, model or device", name, nameable)
        for name in options.check:
            if name not in CHECKS:
                raise UnknownName("check", name, CHECKS)
        request = Request(
            models=options.model,
            backends=self._backends(),
            variants=options.variant,
            devices=options.device,
            scope=options.scope,
            files=tuple(self.as_typed),
            measured=options.measured,
        )
        origins = {name: ref.target if ref.is_file else name for name, ref in self._refs.items()}
        of_scope = {"default": QUICK_MODELS if options.only == ("throughput",) else DEFAULT_MODELS, "quick": QUICK_MODELS}
        self.cells = plan_cells(request, self.models, of_scope, self.adapters, origins, self.devices, cache(_state))
        for spec in self._running():
            if spec.weights.sha256:
                weights_file(spec.weights)
        asked = [check for check in _checks_of(options.only) if check in (options.check or CHECKS)]
        self.keys: tuple[Key, ...] = tuple((check.id, c.cell) for c in self.cells for check in checks_for(c) if check.id in asked)
        if not self.keys:
            raise UsageError(f"nothing to check: no cell of this run is asked for {', '.join(options.check)}", _WIDER)

    def _backends(self) -> tuple[str, ...]:
        """Those that were named, and a backend given as a file, which nobody gives without wanting it checked; empty: all."""
        return tuple(dict.fromkeys((*self.options.backend, *self.as_typed))) if self.options.backend else ()

    def _running(self) -> list[ModelSpec]:
        return list({planned.cell.model: planned.spec for planned in self.cells if planned.runs}.values())

    def make_weights(self, say: Callable[[str], object]) -> None:
        """Give every cell that runs the weights that have to be made first, minutes for each model that has none in the cache.

        ``say`` is told which. Raises `HarnessError`.
        """
        cache = platformdirs.user_cache_path("detection-harness")
        made = {spec.id: conditioned(spec, cache, say) for spec in self._running() if not spec.weights.sha256}
        self.cells = tuple(dataclasses.replace(planned, spec=made.get(planned.cell.model, planned.spec)) for planned in self.cells)

    def cells_of(self, check: str) -> list[Cell]:
        """The cells on which a check is planned, in the plan's order."""
        return [cell for name, cell in self.keys if name == check]

    @cached_property
    def versions(self) -> dict[str, str]:
        """Installed versions of everything that can change an answer."""
        return environment.versions(module for adapter in self.adapters.values() for module in adapter.requires)

    def artifacts(self) -> Artifacts:
        """The cache of this user, or the one asked for."""
        root = self.options.cache or platformdirs.user_cache_path("detection-harness") / "artifacts"
        digests = "".join(image.sha256 for image in self.deck.images)
        return Artifacts(root, self.versions, self.adapters, SEED, digests)


class LiveRun:
    """One run in its folder. Use: `start` with the kept keys, `verdict` for each, `close`."""

    def __init__(self, plan: Plan, command: str, progress: Callable[[Job, str], None] = quiet) -> None:
        self.plan = plan
        self._by_cell = {planned.cell: planned for planned in plan.cells}
        self._command = command
        self._progress = progress
        self._waivers = plan.waivers
        self._observations: dict[Job, Observation | None] = {}
        self._recorded: dict[Key, Record] = {}
        self._stages: dict[tuple[Cell, str | None], str] = {}
        self.folder = plan.options.out or Path("harness-out").absolute() / _stamp()
        self.jobs: tuple[Job, ...] = ()
        self._truth = {found.id: (cache(found.coco), cache(found.segments)) for found in (plan.deck, plan.many)}

    def start(self, keys: Sequence[Key], say: Callable[[str], object] = lambda _: None) -> None:
        """Make the weights that have to be made, write the header and start the jobs that these checks need.

        ``say`` is told of what takes long before the first job. Raises `RunFolderError`, and `HarnessError` of weights.
        """
        plan = self.plan
        plan.make_weights(say)
        self._by_cell = {planned.cell: planned for planned in plan.cells}
        self.jobs = jobs_for(plan.cells, keys)
        self._writer = RunWriter(self.folder, heading.header(plan, keys, self._waivers, self.folder.name, self._command))
        options = plan.options
        setting = Setting(
            folder=self.folder,
            deck=plan.deck,
            many=plan.many,
            limits=Limits(options.job_seconds, int(options.job_memory * 2**30)),
            lanes=options.lanes or environment.usable_cores(),
            budget_s=options.budget,
        )
        self._executor = Executor(setting, plan.cells, self.jobs, plan.artifacts(), self._progress)
        try:
            self._executor.start()
        except HarnessError as error:
            self._executor.stop()
            with suppress(RunFolderError):
                self._writer.finish(str(error))
            raise

    def verdict(self, check_id: str, cell: Cell) -> Record:
        """Wait for what the check needs, judge it, write the record down and give it; asked again, give the same."""
        if (check_id, cell) not in self._recorded:
            self._recorded[check_id, cell] = self._judged(check_id, cell)
        return self._recorded[check_id, cell]

    @property
    def records(self) -> list[Record]:
        """What was judged so far, in its order."""
        return list(self._recorded.values())

    def _judged(self, check_id: str, cell: Cell) -> Record:
        check, known = CHECKS[check_id], self._waivers
        try:
            judgement = judge(check, self._evidence(check, cell))
        except Exception as error:  # noqa: BLE001 - answers of any shape may come; one that cannot be judged is told, not lost
            judgement = Judgement(Status.ERRORED, f"it could not be judged: {type(error).__name__}: {error}")
            known = ()
        planned = self._by_cell[cell]
        record = Record(
            check=check_id,
            cell=cell,
            status=judgement.status,
            reason=judgement.reason,
            compared=judgement.compared,
            measures=judgement.measures,
            image=judgement.image,
            reproduce=self._reproduce(planned, check),
        )
        precision = next((seen.effective.precision for seen in self._seen(cell) if seen.effective is not None), None)
        if any(seen.error is not None and seen.error.kind in _OF_THE_MACHINE for seen in self._seen(cell)):
            known = ()
        of_answers = _is_of_answers(check, planned, precision)
        measured = of_answers and (self.plan.options.full or self.plan.options.strict_waivers)
        record = self._waived(record, known, precision, measured)
        if of_answers and record.status is Status.FAILED and not record.stage:
            record = dataclasses.replace(record, stage=self._first_stage(cell, record.image))
        if record.status is Status.PASSED and self.plan.options.quick:
            # The small deck may miss the pictures that show a divergence: it cannot call a waiver stale.
            record = dataclasses.replace(record, waiver=None)
        self._writer.record(record)
        return record

    def _seen(self, cell: Cell) -> list[Observation]:
        """What the cell's own jobs left, of those that were asked for so far."""
        return [seen for one, seen in self._observations.items() if seen is not None and one.cell == cell]

    def take_apart(self, cell: Cell, image: str | None = None) -> Observation | None:
        """What each stage of the cell makes of the reference's inputs: on ``image``, the sample, and two sizes more."""
        deck = [one.id for one in self.plan.deck.images]
        wanted = [image if image in deck else None, self.plan.deck.sample, deck[len(deck) // 2], deck[-2]]
        return self._executor.take_apart(cell, list(dict.fromkeys(one for one in wanted if one is not None)))

    def _first_stage(self, cell: Cell, image: str | None) -> str:
        """The first stage that differs, in words; looked for once for each picture on which a check of the cell is at its worst."""
        if (cell, image) not in self._stages:
            found = self.take_apart(cell, image)
            if found is None:
                told = ""
            elif found.error is not None and not found.stages:
                told = f"not found: {found.error.message}"
            else:
                told = conclusion(found.stages)
            self._stages[cell, image] = told
        return self._stages[cell, image]

    def _waived(self, plain: Record, known: tuple[Waiver, ...], precision: str | None, measured: bool) -> Record:
        """The record once known divergences are taken into account; where ``measured``, by the first one that tells of its stage.

        Where none does, it stays what it was, and says of each why it does not hold.
        """
        record = waivers.apply(plain, known, self.plan.versions, datetime.now(UTC).date(), precision)
        if not measured or record.status is not Status.WAIVED:
            return record
        held = self._measured(record, plain)
        if held.status is Status.WAIVED:
            return held
        other = self._waived(held, tuple(one for one in known if one.id != record.waiver), precision, measured)
        return dataclasses.replace(other, reason=plain.reason) if other.status is Status.WAIVED else other

    def _measured(self, waived: Record, plain: Record) -> Record:
        """A waived record with the stage that was measured, where it can be, instead of the one that the waiver tells.

        A waiver is about one divergence: where another stage is the first to differ, it is not about this one, and the record
        stays ``plain``, what it was without it.
        """
        told = waived.stage.partition(" (")[0]
        if told in BEFORE_THE_STAGES or waived.waiver is None:
            return waived
        found = self._first_stage(waived.cell, waived.image)
        after = told == "after the last stage" and found.startswith("none: every stage")
        if found.startswith(f"{told}: ") or f"{told} could not be asked" in found or after:
            return dataclasses.replace(waived, stage=f"{waived.stage}; measured: {found}")
        if not found or found.startswith(("not found", "none")):
            return waived
        words = f"{plain.reason.rstrip('.')}. Waiver {waived.waiver} does not hold: it tells of {told}, but first differs {found}."
        return dataclasses.replace(plain, reason=words, stage=found)

    def close(self, cut_off: str | None = None) -> None:
        """End the jobs, write what is known of each cell, the pictures that differ most, and the footer."""
        if cut_off is None:
            self._executor.finish()
        else:
            self._executor.stop()
        from harness.reports.exhibits import exhibits

        for planned in self.plan.cells:
            self._writer.cell(self._cell_line(planned))
        for line in exhibits(self.plan.deck, self.records, self._answers()):
            self._writer.exhibit(line)
        self._writer.finish(cut_off)

    def replay(self, cell: Cell) -> Replay:
        """What was timed of one image of a cell: of each fit process its figure, or in a survey each warm call."""
        figures = tuple(fit_figures_s(self.sweeps(cell), 1).values()) if self._by_cell[cell].swept else ()
        timing = None if self._by_cell[cell].swept else self._observations.get(job(cell, Purpose.TIMING))
        surveyed = [second for point in (timing.curve if timing else ()) if point.batch == 1 for second in point.predict_s]
        return Replay(cell, figures or surveyed, {"unit": "process" if figures else "call", "run": self.folder.name})

    def unmet_requirements(self) -> list[str]:
        """A sentence for each ``--require``d backend, model or device of which nothing was compared."""
        told = (Status.PASSED, Status.FAILED, Status.WAIVED)
        checked = {name for r in self.records if r.status in told for name in (r.cell.backend, r.cell.model, r.cell.device)}
        return [f"required, but not checked: {name}" for name in self.plan.options.require if name not in checked]

    def _evidence(self, check: Check, cell: Cell) -> Evidence:
        planned = self._by_cell[cell]
        reference = reference_of(cell)
        floors = floor_jobs(reference) if Purpose.FLOOR in check.reference else ()
        asked = self.plan.many if Purpose.PRECISION in check.needs else self.plan.deck
        truth, segments = self._truth[asked.id]
        return Evidence(
            cell=cell,
            spec=planned.spec,
            variant=planned.variant,
            observed=self._observed(cell, check.needs, planned),
            reference=self._observed(reference, check.reference - {Purpose.FLOOR}, self._by_cell[reference]),
            floors=tuple(seen for floor in floors if (seen := self._observation(floor)) is not None),
            images=asked.images,
            truth=truth,
            sample=self.plan.deck.sample,
            segments=segments,
            sweeps=self.sweeps(cell) if Purpose.SWEEP in check.needs and planned.runs else (),
            reference_sweeps=self.sweeps(reference) if Purpose.SWEEP in check.reference and planned.runs else (),
        )

    def sweeps(self, cell: Cell) -> tuple[Observation, ...]:
        """Every timed process of a cell, by repeat; those not begun have left why."""
        return tuple(seen for one in sweep_jobs(cell) if (seen := self._observation(one)) is not None)

    def _observed(self, cell: Cell, purposes: Iterable[Purpose], planned: PlannedCell) -> dict[Purpose, Observation]:
        if not planned.runs:
            return {purpose: heading.not_run(job(cell, purpose), planned) for purpose in purposes}
        found = {purpose: self._observation(job(cell, purpose)) for purpose in purposes}
        return {purpose: seen for purpose, seen in found.items() if seen is not None}

    def _observation(self, wanted: Job) -> Observation | None:
        if wanted not in self._observations:
            self._observations[wanted] = self._executor.await_observation(wanted)
        return self._observations[wanted]

    def _cell_line(self, planned: PlannedCell) -> CellLine:
        jobs: dict[Purpose, Job] = {p: job(planned.cell, p) for p in Purpose if p is not Purpose.FLOOR}
        seen = {purpose: found for purpose, one in jobs.items() if (found := self._observations.get(one)) is not None}
        swept = [found for one in sweep_jobs(planned.cell) if (found := self._observations.get(one)) is not None]
        return heading.cell_line(planned, seen, swept)

    def _answers(self) -> dict[Cell, tuple[Observation, Observation]]:
        """The parity observations of each cell and of its reference, where both answered."""
        pairs = {}
        for planned in self.plan.cells:
            ours = self._observations.get(job(planned.cell, Purpose.PARITY))
            theirs = self._observations.get(job(reference_of(planned.cell), Purpose.PARITY))
            if ours is not None and theirs is not None and ours is not theirs and ours.answers and theirs.answers:
                pairs[planned.cell] = (ours, theirs)
        return pairs

    def _reproduce(self, planned: PlannedCell, check: Check) -> str:
        cell, options = planned.cell, self.plan.options
        words = ["harness", "run", "--model", cell.model, "--variant", cell.variant, "--device", cell.device]
        words += ["--backend", cell.backend]
        words += ["--adapter", self.plan.as_typed[cell.backend]] if cell.backend in self.plan.as_typed else []
        words += ["--quick"] if options.quick else []
        words += ["--only", "throughput"] if check.at in MEASURED else []
        return shlex.join([*words, "--check", check.id])


def _checks_of(suites: Sequence[str]) -> tuple[str, ...]:
    """Every check of these suites, all where none is named; always whether a cell opens. The reference's own go with parity."""
    wanted = {*suites, *(["reference"] if "parity" in suites else [])}
    return tuple(check.id for check in CHECKS.values() if not suites or check.suite in wanted or check.id == "contract.opens")


def _is_of_answers(check: Check, planned: PlannedCell, precision: str | None) -> bool:
    """Whether a failure says that answers at fp32 differ: then the stage where they begin to is looked for.

    ``precision`` is the one read back. At a lower one every stage differs from the first on.
    """
    told = check.suite in ("parity", "contract") and check.id not in ("contract.opens", "contract.effective")
    return told and check.at == "any" and (precision or planned.variant.precision) == "fp32" and not planned.is_reference


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%d-%H%M%S") + f"-{time.monotonic_ns() % 1000:03d}"


def _devices() -> tuple[str, ...]:
    if not environment.machine().gpus:
        return ("cpu",)
    found = doctor.probe_devices(platformdirs.user_cache_path("detection-harness"))
    return ("cpu", "cuda") if any(name.startswith("cuda") for name in found.get("torch", ())) else ("cpu",)


def _state(module: str) -> State:
    """What a library that a backend or a family needs says of itself; Detectron2, built by hand, is tried out, for seconds."""
    if not doctor.present(module):
        return State(absent=f"{module} is not installed. To check it too: {doctor.install_words(module)}")
    if module == "detectron2":
        library = doctor.examine(module)
        if library.state == "broken":
            return State(broken=f"{module} is installed but broken: {library.cause}. {library.cure}")
    return State()
