"""Are the checks worth their word? Every liar must be caught by its check, every honest variation pass.

What came of it is a small JSON file; the one beside this module was kept by ``harness selftest --record``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness import __version__
from harness.live import Key, LiveRun, Plan
from harness.options import Options
from harness.types import Cell, Record, Status

if TYPE_CHECKING:
    from harness.telling import Reporter

RECORDED = Path(__file__).with_suffix(".json")

_WRONG = frozenset({Status.FAILED, Status.ERRORED, Status.MISSING, Status.INCONCLUSIVE, Status.WAIVED})


@dataclass(frozen=True, slots=True)
class Outcome:
    """By name: ``faults`` whether its check caught it and passes the real backend, ``honest`` whether no check objects to it.

    Faults in time and honest variations of it are simulated (`harness.fixtures.liars_of_time`), all others run on ``model``.
    ``caught_by`` is the check that each fault was held against; ``wrong`` says in words what did not go as it must; ``version`` is
    that of detection-harness, ``day`` an ISO date in UTC.
    """

    model: str
    faults: Mapping[str, bool]
    caught_by: Mapping[str, str]
    honest: Mapping[str, bool]
    wrong: tuple[str, ...] = ()
    version: str = ""
    day: str = ""

    @property
    def kill_rate(self) -> float:
        """Faults caught, of all: 0..1."""
        return sum(self.faults.values()) / len(self.faults)

    @property
    def sound(self) -> bool:
        """Every fault caught and every honest variation let pass."""
        return all(self.faults.values()) and all(self.honest.values())

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, default=dict) + "\n", encoding="utf-8")

    def text(self) -> str:
        """For a person: what went wrong, then the two figures."""
        caught, passed = sum(self.faults.values()), sum(self.honest.values())
        rate = f"kill rate {self.kill_rate:.0%}: {caught} of {len(self.faults)} faults caught, each by the check named for it"
        return "\n".join([*self.wrong, rate, f"{passed} of {len(self.honest)} honest variations pass every check"])


def read_outcome(path: Path = RECORDED) -> Outcome:
    """What `Outcome.write` wrote; by default what was recorded with the shipped checks. Raises OSError where there is none."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Outcome(**{**raw, "wrong": tuple(raw["wrong"])})


class _OnlyWhether(LiveRun):
    """A run that asks whether a fault is seen, not in which stage: taking every liar apart would take most of the time."""

    def take_apart(self, cell: Cell, image: str | None = None) -> None:
        """Nothing is."""


def run_liars(options: Options, reporter: Reporter) -> Outcome:
    """Run them all on one model; ``options`` say where (``out``, ``cache``) and how (``lanes``, limits)."""
    from dataclasses import replace

    from harness.fixtures import liars

    targets = tuple(f"{liars.__file__}:{name}" for name in liars.ADAPTERS)
    backends, variants = tuple(liars.VARIANTS), tuple(liars.VARIANTS.values())
    asked = replace(options, model=(liars.MODEL,), backend=backends, variant=variants, device=("cpu",), adapter=targets, quick=True)
    plan = Plan(asked)
    keys = _keys(plan)
    run = _OnlyWhether(plan, reporter.command, reporter.job)
    run.start(keys)
    reporter.begin(run)
    cut_off: str | None = "interrupted"
    try:
        records = {(record.check, record.cell.backend): record for record in (run.verdict(*key) for key in keys)}
        cut_off = None
    finally:
        run.close(cut_off)
        reporter.end()
    return _outcome(records)


def _keys(plan: Plan) -> list[Key]:
    """Of a liar its own check, which the real backend is asked too; of the honest all."""
    from harness.fixtures import liars

    held_against = {fault.adapter.name: fault.check for fault in liars.FAULTS}
    asked = frozenset(held_against.values())
    real = frozenset(liars.VARIANTS)
    return [
        (check, cell)
        for check, cell in plan.keys
        if (check in asked if cell.backend in real else held_against.get(cell.backend, check) == check)
    ]


def _outcome(records: Mapping[tuple[str, str], Record]) -> Outcome:
    from harness.fixtures import liars

    wrong: list[str] = []
    faults, honest = {}, {}
    for fault in liars.FAULTS:
        name = fault.adapter.name
        # The reference is held against nothing: the same backend under another name stands in for it.
        real = next(n for n in (fault.adapter.truth.name, liars.HONEST[0].name) if (fault.check, n) in records)
        found, truth = records[fault.check, name], records[fault.check, real]
        faults[name] = found.status is fault.status and truth.status is Status.PASSED
        if not faults[name]:
            wrong.append(f"{name} was not caught: {fault.check} {found.status} ({found.reason}); {real}: {truth.status}")
    for adapter in liars.HONEST:
        told = [record for (_, backend), record in records.items() if backend == adapter.name]
        objections = [record for record in told if record.status in _WRONG]
        check = liars.SHOWN_BY.get(adapter.name)
        idle = check is not None and records[check, adapter.name].measures == records[check, adapter.truth.name].measures
        honest[adapter.name] = bool(told) and not objections and not idle
        wrong += [f"{adapter.name} is honest, and answers as the real backend does, number by number: it varies nothing"] * idle
        wrong += [f"{adapter.name} is honest: {record.check} {record.status} ({record.reason})" for record in objections]
    caught_by = {fault.adapter.name: fault.check for fault in liars.FAULTS}
    timed = timed_outcome()
    return Outcome(
        liars.MODEL,
        {**faults, **timed.faults},
        {**caught_by, **timed.caught_by},
        {**honest, **timed.honest},
        (*wrong, *timed.wrong),
        __version__,
        datetime.now(UTC).date().isoformat(),
    )


def timed_outcome() -> Outcome:
    """What the checks of time say to simulated detectors; takes seconds, and is the same on every machine."""
    from harness.fixtures import liars_of_time as timed
    from harness.fixtures.simulated import Simulated

    wrong: list[str] = []
    faults, honest = {}, {}
    for fault in timed.TIMED_FAULTS:
        found, truth = timed.held(fault.make, fault.check), timed.held(Simulated, fault.check)
        faults[fault.name] = found.status is fault.status and truth.status is Status.PASSED
        if not faults[fault.name]:
            wrong.append(f"{fault.name} was not caught: {fault.check} {found.status} ({found.reason}); honest: {truth.status}")
    for one in timed.TIMED_HONEST:
        told = {check: timed.held(one.make, check, one.reference) for check in one.checks}
        objections = [
            f"{check} {found.status} ({found.reason})" for check, found in told.items() if found.status is not Status.PASSED
        ]
        honest[one.name] = not objections
        wrong += [f"{one.name} is honest: {objection}" for objection in objections]
    return Outcome("simulated", faults, {fault.name: fault.check for fault in timed.TIMED_FAULTS}, honest, tuple(wrong))
