"""Checks by cells: what stands in each square, and the name under which the page holds its detail."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from harness.document import CheckEntry
from harness.journal import Run
from harness.reports.scoreboard import backend_name
from harness.types import Cell, Record, Status

SIGNS = {
    Status.PASSED: ("✓", "P"),
    Status.FAILED: ("✗", "F"),
    Status.ERRORED: ("!", "E"),
    Status.DECLINED: ("–", "D"),
    Status.WAIVED: ("≈", "W"),
    Status.INCONCLUSIVE: ("?", "I"),
    Status.MISSING: ("∅", "M"),
}
"""A glyph and a letter for each status: colour is never the only sign."""

WIDEST = 20
"""Columns that fit a page without scrolling sideways."""


@dataclass(frozen=True, slots=True)
class Square:
    """One verdict in the matrix; ``anchor`` is the id of its detail."""

    status: Status
    glyph: str
    letter: str
    anchor: str
    record: Record


@dataclass(frozen=True, slots=True)
class Line:
    """One cell of the matrix, with a square for each column; None where nothing was planned."""

    cell: Cell
    name: str
    anchor: str
    squares: tuple[Square | None, ...]

    @property
    def counts(self) -> str:
        """How many verdicts have which status, in words."""
        found = Counter(square.status for square in self.squares if square)
        return ", ".join(f"{found[status]} {status}" for status in Status if found[status])


@dataclass(frozen=True, slots=True)
class Group:
    """The cells of one model."""

    model: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One check. ``short`` is its name within its suite; ``anchor`` where the page says what it asks."""

    check: CheckEntry
    suite: str
    short: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """The whole: ``suites`` pairs each suite with the number of its columns."""

    columns: tuple[Column, ...]
    suites: tuple[tuple[str, int], ...]
    groups: tuple[Group, ...]
    fits: bool


def matrix(run: Run) -> Matrix:
    """Every verdict of the run in its square."""
    verdicts = {(record.cell, record.check): record for record in run.verdicts}
    columns = _columns(run)
    planned = (p.cell.cell() for p in run.header.planned)
    groups: dict[str, list[Line]] = {}
    for number, cell in enumerate(dict.fromkeys([*planned, *(record.cell for record in run.verdicts)])):
        squares = []
        for place, column in enumerate(columns):
            record = verdicts.get((cell, column.check.id))
            squares.append(Square(record.status, *SIGNS[record.status], f"v{number}-{place}", record) if record else None)
        groups.setdefault(cell.model, []).append(Line(cell, backend_name(cell), f"c{number}", tuple(squares)))
    suites: dict[str, int] = {}
    for column in columns:
        suites[column.suite] = suites.get(column.suite, 0) + 1
    ordered = tuple(Group(model, tuple(lines)) for model, lines in groups.items())
    return Matrix(columns, tuple(suites.items()), ordered, len(columns) <= WIDEST)


def _columns(run: Run) -> tuple[Column, ...]:
    """The checks that have a verdict, in the order of the header, those of one suite side by side."""
    known = {check.id: check for check in run.header.checks}
    present = {record.check for record in run.verdicts}
    ids = [name for name in known if name in present] + sorted(present - set(known))
    suites = list(dict.fromkeys(name.partition(".")[0] for name in ids))
    ids.sort(key=lambda name: suites.index(name.partition(".")[0]))
    columns = []
    for place, name in enumerate(ids):
        suite, _, short = name.partition(".")
        check = known.get(name, CheckEntry(id=name, title=name, asks=""))
        columns.append(Column(check, suite, (short or name).replace("_", " "), f"k{place}"))
    return tuple(columns)
