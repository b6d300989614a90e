"""What each route through a store keeps: the table of docs/findings.md, made from a run of the fidelity suite. In a checkout only.

python -m harness.keeps RUN            print the table of a run
python -m harness.keeps RUN --write    and put its rows into docs/findings.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import UsageError
from harness.journal import Run, read_run
from harness.plan import REFERENCE
from harness.registry import checkout_root
from harness.types import Cell, Record, Status
from harness.waivers import apply, load_waivers

PAGE = "docs/findings.md"
BEGIN, END = "<!-- what each route keeps -->", "<!-- end -->"
MODELS = ("tv_maskrcnn_tiny", "d2_maskrcnn_tiny")
"""One of each family: what a route keeps does not depend on the architecture."""

COLUMNS = {
    "needs nothing else": "fidelity.only_carrier",
    "weights": "fidelity.weights",
    "answers": "fidelity.answers",
    "caller's objects": "fidelity.caller_unchanged",
    "mode, device": "fidelity.mode",
    "config, what lies beside": "fidelity.attached",
    "saved again": "fidelity.resaved",
    "archives": "fidelity.archived",
}
OPENS = "contract.opens"
"""Asked besides: what does not open is kept by nothing that would show it."""
_FAMILIES = {"tv": "torchvision", "d2": "Detectron2"}
_YES, _NOT_ASKED = "yes", "–"


def rows(run: Run) -> dict[str, str]:
    """A line of the table by model and route, of a run of the fidelity suite on a store's cells, in its order.

    What the shipped waivers say now holds, not what they said when it ran.
    """
    waivers = load_waivers()
    findings = {waiver.id: waiver.finding for waiver in waivers}
    versions, today = run.header.versions, datetime.now(UTC).date()
    judged = {(record.cell, record.check): apply(record, waivers, versions, today) for record in run.verdicts}
    found = {}
    for cell in _cells(run):
        told = [_word(judged.get((cell, check)), findings) for check in COLUMNS.values()]
        opens = _word(judged.get((cell, OPENS)), findings)
        if opens not in (_NOT_ASKED, _YES):
            told = [opens if word == _NOT_ASKED else word for word in told]
        if any(word != _NOT_ASKED for word in told):
            found[f"{cell.model} {_route(cell)}"] = f"{_begin(cell)} {' | '.join(told)} |"
    return found


def differences(run: Run, page: str) -> list[str]:
    """What a page says of the routes of a run, and they do not, with ``-``; what they do, and it does not say, with ``+``."""
    shown, found = rows_in(page), list(rows(run).values())
    begins = tuple(map(_begin, _cells(run)))
    stale = [f"- {line}" for line in shown if line.startswith(begins) and line not in found]
    twice = [f"- {line}" for line in dict.fromkeys(shown) if shown.count(line) > 1]
    return [*stale, *twice, *(f"+ {line}" for line in found if line not in shown)]


def head() -> str:
    """The table's first two lines."""
    titles = ["of", "route", *COLUMNS]
    return f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}"


def rows_in(page: str) -> list[str]:
    """The lines of the table that a page shows. Raises `UsageError` where it shows none."""
    if BEGIN not in page or END not in page:
        raise UsageError(f"there is no table between {BEGIN} and {END}", "Put both lines where it belongs.")
    return page.partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]


def _cells(run: Run) -> list[Cell]:
    return list(dict.fromkeys(record.cell for record in run.verdicts if record.cell.backend != REFERENCE[0]))


def _route(cell: Cell) -> str:
    return f"`{cell.backend}[{cell.variant}]`"


def _begin(cell: Cell) -> str:
    """How its line begins."""
    return f"| {_FAMILIES[cell.model[:2]]} | {_route(cell)} |"


def _word(record: Record | None, findings: dict[str, str]) -> str:
    if record is None or record.status is Status.DECLINED:
        return _NOT_ASKED
    if record.status is Status.PASSED:
        return _YES
    if record.status is Status.WAIVED and record.waiver is not None:
        return f"[no](#{findings[record.waiver]})"
    return str(record.status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; with ``--write`` put its rows into the page."""
    parser = argparse.ArgumentParser(prog="harness.keeps", description="What each route through a store keeps.")
    parser.add_argument("run", type=Path, help="a run folder with the fidelity suite of these routes")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    table = "\n".join([head(), *rows(read_run(options.run)).values()])
    root = checkout_root()
    if not options.write or root is None:
        sys.stdout.write(f"{table}\n")
        return 0 if not options.write else 2
    page = root / PAGE
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
