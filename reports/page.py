"""A run becomes one HTML page: a pure function, so that the same run gives the same bytes wherever it is rendered."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.document import RecordLine, WaiverEntry
from harness.errors import HarnessError, RunFolderError
from harness.journal import Run
from harness.memory import collector_paused
from harness.reports import numerals, wording
from harness.reports.matrix import SIGNS, Matrix, Square, matrix
from harness.reports.overlays import overlays
from harness.reports.plots import plots
from harness.reports.scoreboard import scoreboard
from harness.reports.summary import TROUBLE, Finding, findings, verdict
from harness.types import Cell, Status

FOLDER = Path(__file__).parent
WARN_BYTES = 10_000_000
MOST_BYTES = 25_000_000


class PageTooLarge(HarnessError):
    """The page would be larger than a browser opens with ease."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A finding as the page tells it, with the squares of the matrix that it explains and the waivers it names.

    ``asks`` is what the check asks for, where it is about one check.
    """

    finding: Finding
    anchor: str
    squares: tuple[Square, ...]
    waivers: tuple[WaiverEntry, ...]
    asks: str


@collector_paused()
def render_page(run: Run) -> str:
    """The page, one file that asks for nothing outside itself. Raises `PageTooLarge` above 25 MB."""
    style, script = _part("page.css"), _part("page.js")
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            **_content(run),
            style=Markup(style),  # noqa: S704 - our own file, and nothing of the run is in it
            script=Markup(script),  # noqa: S704 - as above
            policy=_policy(style, script),
        )
    )
    size = len(page.encode())
    if size > MOST_BYTES:
        raise PageTooLarge(
            f"the page would be {numerals.size(size)}, and {numerals.size(MOST_BYTES)} is the most a browser should open",
            "Make a run of fewer models, backends or exhibits, or merge fewer runs.",
        )
    return page


def _content(run: Run) -> dict[str, Any]:
    """What the template tells. ``details`` leads from a square of the matrix to the finding that explains it."""
    table = matrix(run)
    told = _entries(run, table, "f", *TROUBLE)
    waived = _entries(run, table, "w", Status.WAIVED)
    unsettled = _entries(run, table, "i", Status.INCONCLUSIVE)
    return {
        "run": run,
        "header": run.header,
        "verdict": verdict(run),
        "told": told,
        "clusters": _clusters(told),
        "waived": waived,
        "unsettled": unsettled,
        "declined": _entries(run, table, "d", Status.DECLINED),
        "details": {square.anchor: e.anchor for e in (*told, *waived, *unsettled) for square in e.squares},
        "matrix": table,
        "described": {line.cell.cell(): line for line in run.cells},
        "scoreboard": scoreboard(run),
        "plots": plots(run),
        "exhibits": overlays(run),
        "records": base64.b64encode(_records(run)).decode(),
    }


def write_page(run: Run, path: Path) -> str | None:
    """Render the page into a file; returns a sentence of warning when it is larger than is comfortable to open, else None.

    A reader of the file sees the old page or the new one. Raises `PageTooLarge`, and `RunFolderError` when it cannot be written.
    """
    page = render_page(run)
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(page, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}", "Name another file with --out.") from error
    size = len(page.encode())
    return f"the page is {numerals.size(size)}; above 25 MB it would be refused" if size > WARN_BYTES else None


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": numerals.figure,
        "level": numerals.level,
        "duration": numerals.duration,
        "bytes": numerals.size,
        "ratio": numerals.ratio,
        "counted": numerals.counted,
        "name": wording.name,
        "prose": wording.prose,
        "figures": wording.figures,
        "sentence": wording.sentence,
        "moment": wording.moment,
        "option": wording.option,
    }
    environment.globals |= {"SIGNS": SIGNS, "Status": Status, "against": _against}
    return environment


def _part(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """The Content-Security-Policy: nothing is fetched, and only these two parts of the page itself are in force."""
    sources = []
    for directive, content in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(sha256(content.encode()).digest()).decode()
        sources.append(f"{directive} 'sha256-{digest}'")
    return "; ".join(("default-src 'none'", "img-src data:", *sources, "base-uri 'none'", "form-action 'none'"))


def _entries(run: Run, table: Matrix, prefix: str, *statuses: Status) -> tuple[Entry, ...]:
    all_squares = (square for group in table.groups for line in group.lines for square in line.squares if square)
    squares = {(square.record.cell, square.record.check): square for square in all_squares}
    waivers = {waiver.id: waiver for waiver in run.header.waivers}
    asked = {check.id: check.asks for check in run.header.checks}
    entries = []
    for number, finding in enumerate(findings(run, *statuses)):
        named = dict.fromkeys(record.waiver for record in finding.records if record.waiver)
        known = tuple(waivers.get(name, WaiverEntry(id=name, kind="", reason="")) for name in named)
        explained = tuple(squares[record.cell, record.check] for record in finding.records)
        checks = {record.check for record in finding.records}
        asks = asked.get(checks.pop(), "") if len(checks) == 1 else ""
        entries.append(Entry(finding, f"{prefix}{number}", explained, known, asks))
    return tuple(entries)


def _clusters(entries: Sequence[Entry]) -> list[tuple[Entry, list[Entry]]]:
    """Findings of one status on one cell together, as the verdict tells them: the first of each, and all of them."""
    together: dict[tuple[Status, tuple[Cell, ...]], list[Entry]] = {}
    for entry in entries:
        together.setdefault((entry.finding.status, entry.finding.cells), []).append(entry)
    return [(found[0], found) for found in together.values()]


def _against(value: float, level: float | None) -> str:
    """How many times its level a figure is, where it is far above; a level that is a least value never is."""
    if level is None or not level > 0 or not 1.5 <= value / level < float("inf"):
        return ""
    return f"{numerals.figure(value / level)}\u202f×"


def _records(run: Run) -> bytes:
    """The run without its pictures as a file of its own, with a footer of its own: what the page offers for download."""
    content = b"".join(line.encode() + b"\n" for line in _lines(run))
    if run.footer is None:
        return content
    footer = run.footer.model_copy(update={"sha256": sha256(content).hexdigest()})
    return content + footer.model_dump_json().encode() + b"\n"


def _lines(run: Run) -> Iterator[str]:
    yield run.header.model_dump_json()
    for described in run.cells:
        yield described.model_dump_json()
    for record in run.records:
        yield RecordLine.of(record).model_dump_json()
