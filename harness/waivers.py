"""Known divergences: which checks of which cells are expected to fail, why, and for how long. ``docs/waivers.md`` has the format.

One TOML file a backend. A waiver turns *failed* or *errored* into *waived* where it holds, and nothing else. It is strict: where
the check passes the record names the waiver, because it is stale; after its day of expiry, and outside its version ranges, the
check is judged as if it were not there.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from harness.errors import InvalidWaivers, UnknownName
from harness.types import Cell, Record, Status


def _names(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not value or (isinstance(value, str) and value != "*") or (not isinstance(value, str) and "*" in value):
        raise ValueError('is "*" by itself, for all, or a list of names')
    return value


def _specifier(value: str) -> str:
    try:
        SpecifierSet(value)
    except InvalidSpecifier as error:
        raise ValueError(f"{value!r} is no version range, such as '>=2026.4,<2027'") from error
    return value


Names: TypeAlias = Annotated[str | tuple[str, ...], AfterValidator(_names)]
Sentence: TypeAlias = Annotated[str, Field(min_length=1)]


class Waiver(BaseModel):
    """One known divergence. ``backend`` is the stem of its file.

    ``check`` lists the checks that fail for it: each of them, on each of its cells, is expected to. ``model``, ``variant`` and
    ``device`` are lists of names or ``"*"``. ``kind`` says whose it is to mend: ours, upstream's, or
    never anyone's (the documented route cannot do it). ``stage`` is the first stage that differs; ``finding`` the anchor in
    ``docs/findings.md``. ``when`` maps packages to version ranges (PEP 440), all of which must hold; ``precision``, where given,
    must be the effective one; ``says``, where given, must stand in the record's reason, such as an exception's name. ``unsteady``
    says that chance or the processor decides whether the check fails, as where memory is read that nobody wrote, and that both were
    seen: a pass does not make it stale.
    ``expires`` is the last day on which it holds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    backend: str
    check: Annotated[tuple[str, ...], Field(min_length=1)]
    model: Names
    variant: Names
    device: Names
    kind: Literal["ours", "upstream", "never"]
    reason: Sentence
    stage: Sentence
    finding: Sentence
    when: Annotated[Mapping[str, Annotated[str, AfterValidator(_specifier)]], Field(min_length=1)]
    precision: Literal["fp32", "fp16", "bf16", "int8"] | None = None
    says: Sentence | None = None
    unsteady: bool = False
    expires: date

    def covers(self, check: str, cell: Cell) -> bool:
        """Whether it is about this check of this cell, in range or not."""
        fields = ((self.model, cell.model), (self.variant, cell.variant), (self.device, cell.device))
        within = all(names == "*" or name in names for names, name in fields)
        return within and self.backend == cell.backend and check in self.check

    def outside(self, versions: Mapping[str, str], precision: str | None = None) -> str:
        """Why it does not hold for these installed versions and this effective precision; empty where it does."""
        installed = {canonicalize_name(name): version for name, version in versions.items()}
        for package, wanted in self.when.items():
            found = installed.get(canonicalize_name(package))
            if found is None:
                return f"the version of {package} is not known"
            if not SpecifierSet(wanted).contains(_version(found), prereleases=True):
                return f"{package} is {found}, outside {wanted}"
        if self.precision is not None and precision != self.precision:
            return f"the effective precision is {precision or 'not known'}, not {self.precision}"
        return ""


def waivers_folder() -> Path:
    """Where the shipped waivers lie."""
    return Path(str(files("harness.fixtures"))) / "waivers"


def load_waivers(*folders: Path) -> tuple[Waiver, ...]:
    """All waivers of these folders (the shipped ones by default), by file and in the order of each.

    Raises `InvalidWaivers`, also for a folder that holds none.
    """
    found: list[Waiver] = []
    for folder in folders or (waivers_folder(),):
        if not any(folder.glob("*.toml")):
            raise InvalidWaivers(f"{folder} holds no waivers", "Name a folder of .toml files, each named like its backend.")
    for path in (path for folder in folders or (waivers_folder(),) for path in sorted(folder.glob("*.toml"))):
        for waiver in _read(path):
            twin = next((other for other in found if other.id == waiver.id), None)
            if twin is not None:
                where = f"twice in {path.name}" if twin.backend == waiver.backend else f"in {twin.backend}.toml too"
                raise InvalidWaivers(f"{path}: the id {waiver.id!r} is taken: it stands {where}", "Give it another id.")
            found.append(waiver)
    return tuple(found)


def check_names(
    waivers: Iterable[Waiver], models: Collection[str], variants: Mapping[str, Collection[str]], devices: Collection[str]
) -> tuple[str, ...]:
    """Raise `InvalidWaivers` where a waiver names a model, a variant or a device that does not exist.

    ``variants`` holds those of each backend. Gives the backends that do not exist here: one that is given as a file, or that
    another package brings, may be there in the next run.
    """
    strangers = []
    for waiver in waivers:
        if waiver.backend not in variants:
            strangers.append(waiver.backend)
        named = {"model": (waiver.model, models), "device": (waiver.device, devices)}
        if waiver.backend in variants:
            named["variant"] = (waiver.variant, variants[waiver.backend])
        for kind, (names, valid) in named.items():
            for name in () if names == "*" else names:
                if name not in valid:
                    unknown = UnknownName(kind, name, valid)
                    raise InvalidWaivers(f"{waiver.backend}.toml, waiver {waiver.id}: {unknown.what}", unknown.cure)
    return tuple(dict.fromkeys(strangers))


def apply(
    record: Record, waivers: tuple[Waiver, ...], versions: Mapping[str, str], today: date, precision: str | None = None
) -> Record:
    """The record as it stands once known divergences are taken into account.

    Failed or errored and waived in range: status waived. Passed although waived in range: still passed, with `Record.waiver` set
    to the stale waiver, save where that is unsteady. Where only expired or out-of-range waivers are about the record, its status
    stays and its reason says why. Every other status is left as it is.
    """
    if record.status not in (Status.FAILED, Status.ERRORED, Status.PASSED):
        return record
    idle = []
    for waiver in waivers:
        if not waiver.covers(record.check, record.cell):
            continue
        why_not = f"expired on {waiver.expires}" if today > waiver.expires else waiver.outside(versions, precision)
        if not why_not and waiver.says is not None and record.status is not Status.PASSED and waiver.says not in record.reason:
            why_not = f"the reason does not say {waiver.says}"
        if not why_not:
            if waiver.unsteady and record.status is Status.PASSED:
                return record
            status = Status.PASSED if record.status is Status.PASSED else Status.WAIVED
            stage = waiver.stage if status is Status.WAIVED else ""
            return dataclasses.replace(record, status=status, waiver=waiver.id, stage=stage)
        idle.append(f"Waiver {waiver.id} does not hold: {why_not}.")
    if not idle or record.status is Status.PASSED:
        return record
    return dataclasses.replace(record, reason=" ".join((f"{record.reason.rstrip('.')}.", *idle)))


def _read(path: Path) -> Iterator[Waiver]:
    from harness.checks import CHECKS

    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InvalidWaivers(f"{path.name}: {error}", "See docs/waivers.md for the format.") from error
    entries = document.pop("waiver", [])
    if not isinstance(entries, list):
        raise InvalidWaivers(f"{path.name}: waiver stands in single brackets", "Begin each entry with [[waiver]].")
    if document:
        raise InvalidWaivers(f"{path.name}: {', '.join(document)} is not a [[waiver]] entry", "See docs/waivers.md for the format.")
    for number, entry in enumerate(entries, 1):
        waiver = _entry(path, number, entry)
        for check in waiver.check:
            if check not in CHECKS:
                raise InvalidWaivers(f"{path.name}, waiver {waiver.id}: no check {check!r}", f"Valid: {', '.join(CHECKS)}")
        yield waiver


def _entry(path: Path, number: int, entry: object) -> Waiver:
    if not isinstance(entry, dict) or "backend" in entry:
        raise InvalidWaivers(f"{path.name}, waiver {number}: the file's name says the backend", "Drop the key backend.")
    try:
        return Waiver.model_validate({**entry, "backend": path.stem})
    except ValidationError as error:
        name = entry.get("id", number)
        faults = "; ".join(map(_fault, error.errors()))
        raise InvalidWaivers(f"{path.name}, waiver {name}: {faults}", "See docs/waivers.md for the format.") from error


def _fault(fault: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"the key {key} is missing"
    if fault["type"] == "extra_forbidden":
        return f"there is no key {key}"
    return f"{key}: {fault['msg'].removeprefix('Value error, ')}"


def _version(text: str) -> Version:
    """A version, or the release at the head of one that is not PEP 440 (``2026.4.1-19999-abc``)."""
    try:
        return Version(text)
    except InvalidVersion:
        head = re.match(r"\d+(\.\d+)*", text)
        return Version(head.group() if head else "0")
