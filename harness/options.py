"""What a run can be told: one table for the command line (``--model``), pytest (``--harness-model``) and its ini."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from harness.errors import UnknownName, UsageError


@dataclass(frozen=True, slots=True)
class Option:
    """One option: ``kind`` list may be given several times, flag takes no value, one takes one."""

    name: str
    kind: Literal["list", "flag", "one"]
    help: str
    metavar: str = ""

    @property
    def field(self) -> str:
        """Its name in `Options`."""
        return self.name.replace("-", "_")


OPTIONS = (
    Option("model", "list", "A model to check, or `all`; `harness list` shows them. Default: a few of each family.", "ID"),
    Option("backend", "list", "A backend to check. Default: all.", "NAME"),
    Option("variant", "list", "A variant to check. Default: each backend's base variants.", "ID"),
    Option("device", "list", "cpu or cuda. Default: what is here.", "NAME"),
    Option("check", "list", "A check to judge, such as parity.boxes. Default: all.", "ID"),
    Option("adapter", "list", "One more backend, from a file: docs/adapters.md says how to write it.", "FILE.py:NAME"),
    Option("require", "list", "Fail unless this backend, model or device was checked.", "NAME"),
    Option("quick", "flag", "One model a family, a small deck, no timing."),
    Option("full", "flag", "Every variant of every model."),
    Option(
        "only", "list", "A suite to judge: contract, fidelity, parity, serving, or throughput, measured. Default: all.", "SUITE"
    ),
    Option("budget", "one", "Seconds that --only throughput measures for. Default: 420.", "S"),
    Option("out", "one", "The run's folder. Default: harness-out/<date and time>.", "DIR"),
    Option("cache", "one", "Where built artifacts are kept. Default: the user's cache folder.", "DIR"),
    Option("job-seconds", "one", "Time limit of one job, in seconds. Default: 300.", "S"),
    Option("job-memory", "one", "Memory limit of one job's processes, in GiB. Default: 6.", "GIB"),
    Option("lanes", "one", "Artifacts checked side by side. Default: the number of cores.", "N"),
    Option("waivers", "one", "A folder of your own waivers, beside the shipped ones: docs/waivers.md.", "DIR"),
    Option("strict-waivers", "flag", "A waived check that passes is a failure."),
)


SUITES = ("contract", "fidelity", "parity", "serving", "throughput")
"""What ``--only`` knows."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run, read and checked. Sizes in GiB, times in seconds."""

    model: tuple[str, ...] = ()
    backend: tuple[str, ...] = ()
    variant: tuple[str, ...] = ()
    device: tuple[str, ...] = ()
    check: tuple[str, ...] = ()
    adapter: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    quick: bool = False
    full: bool = False
    only: tuple[str, ...] = ()
    budget: float = 420.0
    out: Path | None = None
    cache: Path | None = None
    job_seconds: float = 300.0
    job_memory: float = 6.0
    lanes: int = 0
    waivers: Path | None = None
    strict_waivers: bool = False

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Options:
        """Read raw values by field name (text, lists of text, flags; None is not given). Raises `UsageError`."""
        given = {f.name: raw[f.name] for f in fields(cls) if raw.get(f.name) not in (None, "", [], ())}
        for option in OPTIONS:
            if option.kind == "list" and option.field in given:
                given[option.field] = tuple(given[option.field])
        for name in ("out", "cache", "waivers"):
            if name in given:
                given[name] = Path(given[name]).expanduser().absolute()
        for name, kind in (("job_seconds", float), ("job_memory", float), ("lanes", int), ("budget", float)):
            if name in given:
                given[name] = _positive(name, given[name], kind)
        options = cls(**given)
        options._agree(budgeted="budget" in given)
        return options

    def _agree(self, *, budgeted: bool) -> None:
        """Options that mean something together. Raises `UsageError` and `UnknownName`."""
        if self.quick and self.full:
            raise UsageError("--quick and --full exclude each other", "Give one of them.")
        for suite in self.only:
            if suite not in SUITES:
                raise UnknownName("suite", suite, SUITES)
        if budgeted and not self.measured:
            raise UsageError("--budget is what --only throughput spends", "Add --only throughput.")
        if self.quick and self.measured:
            raise UsageError("--quick measures nothing", "Leave it out; --budget says how long --only throughput takes.")

    @property
    def measured(self) -> bool:
        """Whether throughput is measured, in many processes, instead of surveyed in one."""
        return "throughput" in self.only

    @property
    def scope(self) -> str:
        """default, quick or full."""
        return "quick" if self.quick else "full" if self.full else "default"

    def arguments(self, prefix: str = "--") -> list[str]:
        """The command-line words that say the same; nothing for what is at its default."""
        words: list[str] = []
        for option in OPTIONS:
            value, default = getattr(self, option.field), getattr(Options(), option.field)
            if option.kind == "flag":
                words += [prefix + option.name] if value else []
            elif option.kind == "list":
                words += [word for item in value for word in (prefix + option.name, str(item))]
            elif value != default:
                words += [prefix + option.name, str(value)]
        return words


def _positive(name: str, value: Any, kind: type[float | int]) -> float:
    try:
        number = kind(value)
    except ValueError:
        number = kind(0)
    if not number > 0:
        option = f"--{name.replace('_', '-')}"
        wanted, example = (
            ("whole number", "2") if kind is int else ("number", {"job_seconds": "300", "budget": "420"}.get(name, "6"))
        )
        raise UsageError(f"{option} {value!r} is no {wanted} above 0", f"Example: {option} {example}")
    return number
