"""Each backend in one row: how much holds, how fast, how large. Speed is shown, never judged, here."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import median

from harness.document import CellLine
from harness.journal import Run
from harness.reports.numerals import geometric_mean
from harness.types import Cell, Record, Status

REFERENCE = "torch_eager"


@dataclass(frozen=True, slots=True)
class Score:
    """``passed`` of ``judged`` verdicts: all but the ``declined``; ``troubled`` ones failed, errored or are missing.

    Seconds and bytes; None where nothing was measured.
    For a backend ``latency_s`` and ``to_reference`` are geometric means over ``timed`` models, ``artifact_bytes`` and ``open_s``
    medians and ``peak_rss_bytes`` the highest. ``to_reference`` is the latency over that of `REFERENCE` on the same model and
    device in this run: below 1 is faster.
    """

    name: str
    passed: int
    judged: int
    declined: int
    waived: int
    troubled: int
    timed: int
    latency_s: float | None
    to_reference: float | None
    artifact_bytes: float | None
    open_s: float | None
    peak_rss_bytes: float | None
    cell: Cell | None = None


@dataclass(frozen=True, slots=True)
class Scoreboard:
    """A row a backend, and a row a cell; both in the order of the plan."""

    backends: tuple[Score, ...]
    cells: tuple[Score, ...]


def scoreboard(run: Run) -> Scoreboard:
    """Both tables of scores."""
    described = {line.cell.cell(): line for line in run.cells}
    verdicts: dict[Cell, list[Record]] = defaultdict(list)
    for record in run.verdicts:
        verdicts[record.cell].append(record)
    planned = (p.cell.cell() for p in run.header.planned)
    asked = list(dict.fromkeys([*planned, *verdicts, *described]))
    references = _references(described)
    cells = [_cell_score(cell, verdicts[cell], described.get(cell), references) for cell in asked]
    groups: dict[str, list[Score]] = defaultdict(list)
    for cell, score in zip(asked, cells, strict=True):
        groups[backend_name(cell)].append(score)
    return Scoreboard(tuple(_backend_score(name, scores) for name, scores in groups.items()), tuple(cells))


def backend_name(cell: Cell) -> str:
    """The cell without its model."""
    return f"{cell.backend}[{cell.variant}]@{cell.device}"


def _references(described: dict[Cell, CellLine]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for cell, line in described.items():
        if cell.backend == REFERENCE and line.median_predict_s:
            found.setdefault((cell.model, cell.device), line.median_predict_s)
    return found


def _cell_score(cell: Cell, records: list[Record], line: CellLine | None, references: dict[tuple[str, str], float]) -> Score:
    counts = Counter(record.status for record in records)
    declined = counts[Status.DECLINED]
    latency = line.median_predict_s if line else None
    reference = references.get((cell.model, cell.device))
    return Score(
        name=str(cell),
        passed=counts[Status.PASSED],
        judged=len(records) - declined,
        declined=declined,
        waived=counts[Status.WAIVED],
        troubled=counts[Status.FAILED] + counts[Status.ERRORED] + counts[Status.MISSING],
        timed=int(latency is not None),
        latency_s=latency,
        to_reference=latency / reference if latency is not None and reference else None,
        artifact_bytes=line.artifact_bytes if line else None,
        open_s=line.open_s if line else None,
        peak_rss_bytes=line.peak_rss_bytes if line else None,
        cell=cell,
    )


def _backend_score(name: str, scores: list[Score]) -> Score:
    sizes = [s.artifact_bytes for s in scores if s.artifact_bytes is not None]
    opens = [s.open_s for s in scores if s.open_s is not None]
    return Score(
        name=name,
        passed=sum(s.passed for s in scores),
        judged=sum(s.judged for s in scores),
        declined=sum(s.declined for s in scores),
        waived=sum(s.waived for s in scores),
        troubled=sum(s.troubled for s in scores),
        timed=sum(s.timed for s in scores),
        latency_s=geometric_mean(s.latency_s for s in scores),
        to_reference=geometric_mean(s.to_reference for s in scores),
        artifact_bytes=median(sizes) if sizes else None,
        open_s=median(opens) if opens else None,
        peak_rss_bytes=max((s.peak_rss_bytes for s in scores if s.peak_rss_bytes is not None), default=None),
    )
