"""The run folder: ``run.jsonl``, written line by line while the run goes on, and read back whole.

A run that was killed is readable up to its last whole line and says that it was cut off; one that was changed afterwards is not.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from harness.document import LINE, SCHEMA_VERSION, CellLine, ExhibitLine, Footer, Header, Line, Part, Planned, RecordLine
from harness.errors import InvalidRun, RunFolderError
from harness.memory import collector_paused
from harness.observations import read_observation, write_observation
from harness.types import Record, Status

__all__ = ["Run", "RunWriter", "read_observation", "read_run", "write_observation"]

Key = TypeVar("Key", bound=Hashable)

RUN_FILE = "run.jsonl"
LOCK_FILE = ".lock"
CURE = "Restore the file, or run again."


@dataclass(frozen=True)
class Run:
    """A run as it was read. ``records`` and ``cells`` are in the order of the plan; ``footer`` is None when it was killed."""

    header: Header
    cells: tuple[CellLine, ...]
    records: tuple[Record, ...]
    exhibits: tuple[ExhibitLine, ...]
    footer: Footer | None

    @property
    def cut_off(self) -> str | None:
        """Why the run ended early, in words; None when it finished."""
        return "it was killed before it could say why" if self.footer is None else self.footer.cut_off

    @cached_property
    def verdicts(self) -> tuple[Record, ...]:
        """Every record, and a `missing` one for each planned verdict that was never given."""
        given = {(record.check, record.cell) for record in self.records}
        absent = [p for p in self.header.planned if (p.check, p.cell.cell()) not in given]
        return (*self.records, *(self._missing(p) for p in absent))

    @cached_property
    def counts(self) -> dict[Status, int]:
        """How many verdicts have each status; every status is there."""
        found = Counter(record.status for record in self.verdicts)
        return {status: found[status] for status in Status}

    def _missing(self, planned: Planned) -> Record:
        why = f"the run ended early: {self.cut_off}" if self.cut_off else "its jobs left no observation"
        return Record(planned.check, planned.cell.cell(), Status.MISSING, f"planned, but never judged: {why}")


class RunWriter:
    """Appends the lines of one run; each is on the disk when the call returns. Use it as a context manager.

    Leaving without `finish`, or by an exception, writes a footer that says the run was cut off. Raises `RunFolderError` when
    another run holds the folder, when it holds a run already, when it cannot be written, or when the disk is full.
    """

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder = folder
        self.path = folder / RUN_FILE
        self._started = time.monotonic()
        self._digest = sha256()
        self._counts: Counter[Status] = Counter()
        self._size = 0
        self._closed = False
        self._lock = _lock(folder)
        try:
            self._stream = self.path.open("xb", buffering=0)
        except FileExistsError as error:
            self._lock.release()
            raise RunFolderError(f"{folder} holds a run already", "Choose another folder with --out.") from error
        except OSError as error:
            self._lock.release()
            raise unwritable(folder, error) from error
        try:
            self._append(header)
        except RunFolderError:
            self._close()
            raise

    def cell(self, line: CellLine) -> None:
        """What is known of one cell."""
        self._append(line)

    def record(self, record: Record) -> None:
        """One verdict."""
        self._append(RecordLine.of(record))
        self._counts[record.status] += 1

    def exhibit(self, line: ExhibitLine) -> None:
        """A picture that differs."""
        self._append(line)

    def finish(self, cut_off: str | None = None) -> None:
        """Write the footer and let the folder go. ``cut_off`` says why the run ended early."""
        seconds = round(time.monotonic() - self._started, 3)
        counts = {status: self._counts[status] for status in Status if self._counts[status]}
        try:
            self._append(Footer(cut_off=cut_off, seconds=seconds, counts=counts, sha256=self._digest.hexdigest()))
        finally:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._closed:
            return
        if kind is None:
            self.finish("it ended without saying that it had finished")
            return
        reason = "interrupted" if issubclass(kind, KeyboardInterrupt) else f"{kind.__name__}: {error}"
        # The error under way matters more than a footer that does not fit on a full disk: a run without one is read as cut off.
        with suppress(RunFolderError):
            self.finish(reason)

    def _append(self, line: Part) -> None:
        content = line.model_dump_json().encode() + b"\n"
        try:
            _write_all(self._stream.fileno(), content)
        except OSError as error:
            # Half a line in the middle would make the whole run unreadable.
            with suppress(OSError):
                os.ftruncate(self._stream.fileno(), self._size)
                os.lseek(self._stream.fileno(), self._size, os.SEEK_SET)
            raise unwritable(self.folder, error) from error
        self._digest.update(content)
        self._size += len(content)

    def _close(self) -> None:
        self._closed = True
        with suppress(OSError):
            self._stream.close()
        self._lock.release()


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _lock(folder: Path) -> FileLock:
    """The folder's lock, taken. The system drops it when the process dies, so that no stale lock is ever in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunFolderError(
            f"another run is using {folder}", "Wait for it to end, or choose another folder with --out."
        ) from error
    except OSError as error:
        raise unwritable(folder, error) from error
    return lock


def unwritable(folder: Path, error: OSError) -> RunFolderError:
    """What the system said when it would not write to a run's folder, with the cure."""
    return RunFolderError(
        f"cannot write to {folder}: {error.strerror or error}",
        "Free space or set its permissions, or choose another folder with --out.",
    )


@collector_paused()
def read_run(path: Path) -> Run:
    """The run in ``path``, a run folder or its ``run.jsonl``. Raises `InvalidRun`, which names the line and the cure."""
    file = path / RUN_FILE if path.is_dir() else path
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidRun(f"cannot read {file}: {error.strerror or error}", "Give a run folder or its run.jsonl.") from error
    raw = content.splitlines(keepends=True)
    if raw and not raw[-1].endswith(b"\n"):
        # The last write of a killed run; what stands before it is whole.
        raw.pop()
    lines = [_parse(file, number, text) for number, text in enumerate(raw, start=1)]
    _check_order(file, lines)
    _check_doubles(file, lines)
    footer = lines[-1] if isinstance(lines[-1], Footer) else None
    if footer is not None and footer.sha256 != sha256(b"".join(raw[:-1])).hexdigest():
        raise InvalidRun(f"{file}, line {len(raw)}: the lines before are not those that were written", CURE)
    return _assemble(lines, footer)


def _parse(file: Path, number: int, text: bytes) -> Line:
    try:
        return LINE.validate_json(text)
    except ValidationError as error:
        if number == 1:
            raise InvalidRun(f"{file} is no run: its first line is no header", "Give a run folder or its run.jsonl.") from error
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidRun(f"{file}, line {number}: {where + ': ' if where else ''}{first['msg']}", CURE) from error


def _check_order(file: Path, lines: list[Line]) -> None:
    if not lines or not isinstance(lines[0], Header):
        raise InvalidRun(f"{file}, line 1: no header; the file is cut off or no run", CURE)
    if lines[0].schema_version != SCHEMA_VERSION:
        raise InvalidRun(
            f"{file}, line 1: schema version {lines[0].schema_version}, this version reads {SCHEMA_VERSION}",
            "Use the detection-harness that wrote it.",
        )
    for number, line in enumerate(lines[1:], start=2):
        if isinstance(line, Header):
            raise InvalidRun(f"{file}, line {number}: a second header; two runs were written into one file", CURE)
        if isinstance(line, Footer) and number != len(lines):
            raise InvalidRun(f"{file}, line {number}: the footer is not the last line", CURE)


def _check_doubles(file: Path, lines: list[Line]) -> None:
    seen: dict[tuple[object, ...], int] = {}
    for number, line in enumerate(lines, start=1):
        key: tuple[object, ...]
        if isinstance(line, RecordLine):
            key = ("record", line.check, line.cell)
        elif isinstance(line, CellLine):
            key = ("cell", line.cell)
        else:
            continue
        if key in seen:
            named = " ".join(str(part.cell() if part is line.cell else part) for part in key)
            raise InvalidRun(f"{file}, line {number}: {named} is doubled (first on line {seen[key]})", CURE)
        seen[key] = number


def _assemble(lines: list[Line], footer: Footer | None) -> Run:
    header = next(line for line in lines if isinstance(line, Header))
    cells = _ranks(p.cell.cell() for p in header.planned)
    checks = _ranks(check.id for check in header.checks)
    last = len(header.planned)
    records = [line.record() for line in lines if isinstance(line, RecordLine)]
    records.sort(key=lambda r: (cells.get(r.cell, last), r.cell, checks.get(r.check, last), r.check))
    described = [line for line in lines if isinstance(line, CellLine)]
    described.sort(key=lambda line: (cells.get(line.cell.cell(), last), line.cell.cell()))
    exhibits = [line for line in lines if isinstance(line, ExhibitLine)]
    exhibits.sort(key=lambda line: (cells.get(line.cell.cell(), last), line.cell.cell(), line.image))
    return Run(header, tuple(described), tuple(records), tuple(exhibits), footer)


def _ranks(keys: Iterable[Key]) -> dict[Key, int]:
    return {key: rank for rank, key in enumerate(dict.fromkeys(keys))}
