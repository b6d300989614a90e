"""Runs jobs in processes of their own and hands out their observations.

Jobs of one artifact run in order (build, then what opens it); artifacts run side by side, as many as there are cores. A job of
more than one thread runs after all these, alone: beside others its threads would wait for cores. Timing jobs wait for the judging
too, which would disturb them.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import isolation
from harness.artifacts import Artifacts, Foreign
from harness.errors import RunFolderError
from harness.fixtures.decks import Deck
from harness.integrity import Damaged
from harness.journal import unwritable
from harness.observations import OBSERVATION_FILE, read_observation, write_observation
from harness.orders import Order
from harness.plan import TIMED, PlannedCell
from harness.processes import Ending, Forker, Worker, spawn, watch
from harness.redaction import redacted
from harness.rounds import Budget
from harness.types import Cell, Job, JobError, Observation, Purpose

SEED = 20240229
"""Of the perturbation: the same for every cell, so that all of them hold the same weights."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may take before it is ended: seconds and bytes of its whole process tree."""

    seconds: float = 300.0
    memory_bytes: int = 6 * 2**30


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and on what the jobs of a run work; ``import_paths`` for third parties' code; ``budget_s`` for all sweeps together.

    ``many`` is the deck of jobs of precision, ``deck`` that of all others.
    """

    folder: Path
    deck: Deck
    many: Deck
    limits: Limits = Limits()
    lanes: int = os.cpu_count() or 1
    budget_s: float = 0.0
    import_paths: tuple[str, ...] = ()


_APART = (Purpose.STAGES, Purpose.OPERATORS)
"""Jobs that take a cell apart."""


def quiet(_job: Job, _event: str) -> None:
    """Progress that nobody wants to hear."""


class Executor:
    """Runs ``jobs`` once, in the background; `await_observation` blocks until a job has left its observation."""

    def __init__(
        self,
        setting: Setting,
        cells: Iterable[PlannedCell],
        jobs: Sequence[Job],
        artifacts: Artifacts,
        progress: Callable[[Job, str], None] = quiet,
    ) -> None:
        self._setting = setting
        cells = tuple(cells)
        self._cells = {(c.cell.model, c.cell.backend, c.cell.variant): c for c in cells}
        self._jobs = jobs
        self._artifacts = artifacts
        self._progress = progress
        self._done = {job: threading.Event() for job in jobs}
        self._unwritten: dict[Job, Observation] = {}
        served = {planned.cell for planned in cells if planned.served}
        self._budget = Budget([job for job in jobs if job.purpose is Purpose.SWEEP], setting.budget_s, served)
        self._stop = threading.Event()
        self._judged = threading.Event()
        self._work = setting.folder / "work"
        self._work.mkdir(parents=True, exist_ok=True)
        self._shared = self._work / "shared"
        quiet = isolation.environment(self._work / "zygote", 0, self._shared)
        self._forker = Forker(self._work / "zygote.log", quiet)
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin. Raises `WrongDigest` when a picture is not the pinned one, `RunFolderError` when the disk is full."""
        for deck in {found.id: found for found in (self._setting.deck, *map(self._deck, self._jobs))}.values():
            pictures = {image.id: deck.pixels(image.id) for image in deck.images}
            try:
                np.savez(self._pictures(deck), allow_pickle=False, **pictures)
            except OSError as error:
                raise unwritable(self._setting.folder, error) from error
        self._thread.start()

    def stop(self) -> None:
        """End every process that runs, skip the rest, tidy up; returns when that is done."""
        self._stop.set()
        self.finish()

    def finish(self) -> None:
        """Wait for the jobs, then remove what only they needed."""
        self._judged.set()
        if self._thread.is_alive():
            self._thread.join()
        self._forker.close()
        shutil.rmtree(self._work, ignore_errors=True)

    def observation_folder(self, job: Job) -> Path:
        """Where a job's observation lies, or will."""
        return self._setting.folder / "observations" / job.slug

    def await_observation(self, job: Job) -> Observation | None:
        """The job's observation, once it is there; None when the job was never planned or the run was stopped before it.

        Asking for a timing says that nothing else is left to judge.
        """
        if job not in self._done:
            return None
        if job.purpose in TIMED:
            self._judged.set()
        self._done[job].wait()
        if job in self._unwritten:
            return self._unwritten[job]
        folder = self.observation_folder(job)
        return read_observation(folder) if (folder / OBSERVATION_FILE).is_file() else None

    def take_apart(self, cell: Cell, images: Sequence[str], purpose: Purpose = Purpose.STAGES) -> Observation | None:
        """What each stage of the cell makes of the reference's inputs on these images; None if the run was stopped.

        A cell whose artifact was never built may still be exported stage by stage, which tells the stage that cannot be.
        """
        job = Job(cell, purpose)
        planned = self._cells[cell.model, cell.backend, cell.variant]
        with self._artifacts.held(planned, self._stop) as held:
            if held is None or self._stop.is_set():
                return None
            return self._performed(job, planned, held, images)

    def _deck(self, job: Job) -> Deck:
        return self._setting.many if job.purpose is Purpose.PRECISION else self._setting.deck

    def _pictures(self, deck: Deck) -> Path:
        return self._work / f"{deck.id}.npz"

    def _run(self) -> None:
        try:
            self._run_lanes()
        finally:
            for event in self._done.values():
                event.set()

    def _run_lanes(self) -> None:
        lanes: dict[tuple[str, str, str], list[Job]] = {}
        alone: list[Job] = []
        for job in self._jobs:
            if job.load.threads == 1:
                lanes.setdefault((job.cell.model, job.cell.backend, job.cell.variant), []).append(job)
            else:
                alone.append(job)
        with ThreadPoolExecutor(self._setting.lanes, thread_name_prefix="lane") as pool:
            list(pool.map(self._lane, lanes.values()))
        for job in sorted(alone, key=lambda job: job.purpose in TIMED):
            if job.purpose in TIMED:
                self._judged.wait()
            if job.purpose is not Purpose.SWEEP or self._in_budget(job):
                self._lane([job])

    def _in_budget(self, job: Job) -> bool:
        """Whether there is time for one more process; where there is none it has left that as its observation."""
        if self._budget.begins(job):
            return True
        spent = JobError("budget", "start", f"the budget of {self._budget.seconds:g} s was spent before it")
        self._conclude(job, Observation(job, error=spent), event="done")
        return False

    def _lane(self, jobs: Sequence[Job]) -> None:
        planned = self._cells[jobs[0].cell.model, jobs[0].cell.backend, jobs[0].cell.variant]
        try:
            with self._artifacts.held(planned, self._stop) as held:
                for job in jobs:
                    if held is None or self._stop.is_set():
                        return
                    self._one(job, planned, held)
        except Exception as error:  # noqa: BLE001 - our own fault must cost one artifact's jobs, and be told, not hang the run
            for job in jobs:
                if not self._done[job].is_set():
                    why = JobError("raised", "executor", f"{type(error).__name__}: {error}")
                    self._conclude(job, Observation(job, error=why))

    def _one(self, job: Job, planned: PlannedCell, cached: Path) -> None:
        damage: tuple[str, ...] = ()
        if job.purpose is Purpose.BUILD:
            kept, damage = self._kept(cached)
            if kept is not None:
                self._conclude(job, dataclasses.replace(kept, job=job, notes=(*kept.notes, "artifact from the cache")))
                return
            self._artifacts.clear(cached)
        elif not self._artifacts.is_built(cached):
            self._conclude(job, self._unbuilt(job))
            return
        self._progress(job, "started")
        began = time.monotonic()
        observation = self._performed(job, planned, cached, [image.id for image in self._deck(job).images])
        if job.purpose is Purpose.SWEEP:
            self._budget.ended(job, time.monotonic() - began, observation)
        if job.purpose is Purpose.BUILD and observation.build_s is not None:
            self._artifacts.keep_build(cached, observation)
            observation = dataclasses.replace(observation, notes=(*observation.notes, *damage))
        self._conclude(job, observation)

    def _kept(self, cached: Path) -> tuple[Observation | None, tuple[str, ...]]:
        """What the cache has of a build, and what to say of it where it was damaged or somebody else's."""
        try:
            kept = self._artifacts.kept_build(cached)
        except Foreign as error:
            return None, (f"the artifact in the cache was not opened, and is built anew: {error.what}",)
        except Damaged as error:
            return None, (f"the artifact in the cache was damaged, and is built anew: {error.what}",)
        # An error may have been this machine's, for a moment: it is never taken from the cache.
        return (kept if kept is not None and kept.error is None else None), ()

    def _performed(self, job: Job, planned: PlannedCell, cached: Path, images: Sequence[str]) -> Observation:
        scratch = self._work / job.slug
        order = self._order(job, planned, cached, scratch, images)
        opens = job.purpose is not Purpose.BUILD and self._artifacts.is_built(cached)
        alone = job.purpose is Purpose.FIDELITY
        with self._artifacts.away(cached, artifact=opens, source=alone):
            ending = self._perform(order, scratch)
        observation = self._read(order, self.observation_folder(job), ending, scratch)
        shutil.rmtree(scratch, ignore_errors=True)
        return observation

    @staticmethod
    def _unbuilt(job: Job) -> Observation:
        return Observation(job, error=JobError("unbuilt", "build", "there is no artifact: the build job says why"))

    def _order(self, job: Job, planned: PlannedCell, cached: Path, scratch: Path, images: Sequence[str]) -> Order:
        scratch.mkdir(parents=True, exist_ok=True)
        if job.purpose is Purpose.BUILD:
            artifact = self._artifacts.artifact(cached)
        else:
            artifact = scratch / "moved" / "artifact"
            if self._artifacts.is_built(cached):
                shutil.copytree(self._artifacts.artifact(cached), artifact, symlinks=True)
        return Order(
            job=job,
            spec=planned.spec,
            variant=planned.variant,
            adapter=planned.adapter,
            artifact=str(artifact),
            # The stages are of a model built once more: its checkpoint must not stand where the artifact's own may.
            source=str(scratch / "source" if job.purpose in _APART else self._artifacts.source(cached)),
            pictures=str(self._pictures(self._deck(job))),
            images=tuple(images),
            sample=self._setting.deck.sample,
            observation=str(self.observation_folder(job)),
            scratch=str(scratch),
            shared=str(self._shared),
            seed=SEED,
            measure_s=self._budget.measure_s(job) if job.purpose is Purpose.SWEEP else 0.0,
            memory_bytes=self._setting.limits.memory_bytes,
            import_paths=self._setting.import_paths,
        )

    def _perform(self, order: Order, scratch: Path) -> Ending:
        path, log = scratch / "order.json", scratch / "log.txt"
        order.write(path)
        # The first of the timed processes tells what importing costs.
        alone = order.job.purpose is Purpose.FIDELITY or (order.job.purpose is Purpose.SWEEP and order.job.repeat == 0)
        fresh = alone or order.job.cell.device != "cpu" or sys.platform != "linux"
        worker: Worker
        if fresh:
            variables = isolation.environment(scratch, order.job.load.threads, self._shared)
            worker = spawn(path, log, variables | {"PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)})
        else:
            worker = self._forker.fork(path, log)
        return watch(worker, self._setting.limits.seconds, self._setting.limits.memory_bytes, self._stop)

    def _read(self, order: Order, folder: Path, ending: Ending, scratch: Path) -> Observation:
        stage_file = folder.with_name(folder.name + ".stage")
        stage = stage_file.read_text() if stage_file.is_file() else "start"
        stage_file.unlink(missing_ok=True)
        if ending.kind == "exited" and ending.status == 0 and (folder / OBSERVATION_FILE).is_file():
            seen = read_observation(folder)
            return dataclasses.replace(seen, peak_rss_bytes=max(ending.peak_rss_bytes, seen.peak_rss_bytes or 0))
        log = scratch / "log.txt"
        tail = log.read_text(errors="replace")[-4000:] if log.is_file() else ""
        limits = self._setting.limits
        words = ending.told(limits.seconds, limits.memory_bytes)
        error = JobError(ending.kind, stage, words, redacted(tail, order.folders))
        return Observation(order.job, error=error, peak_rss_bytes=ending.peak_rss_bytes)

    def _conclude(self, job: Job, observation: Observation, event: str = "") -> None:
        if not (self._stop.is_set() and observation.error is not None and observation.error.kind == "killed"):
            try:
                write_observation(self.observation_folder(job), observation)
            except RunFolderError as error:
                self._unwritten[job] = Observation(job, error=JobError("raised", "record", str(error)))
        self._done[job].set()
        self._progress(job, event or ("failed" if observation.error else "done"))
