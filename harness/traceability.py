"""Which test covers which promise: docs/coverage.md, made from the marks in the suites. Works in a checkout only.

    python -m harness.traceability --write                      after a mark or docs/rows.toml has changed
    python -m harness.traceability --write --junit results.xml  after a run of the suites, to record what its tests said

Tests are read as syntax trees and never imported. Which libraries a test uses is read from its file: what it imports or demands
with `pytest.importorskip`, and what the adapters and families that it imports import. A suite that runs every backend uses what
its cells use: those of the cells that passed are recorded with the outcome.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tomllib
import xml.etree.ElementTree as ET  # reads only files that pytest has just written here
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import UsageError
from harness.families import family
from harness.registry import adapters, checkout_root, load_adapter, load_model, models

ROWS, OUTCOMES, PAGE = "docs/rows.toml", "docs/outcomes.json", "docs/coverage.md"
_WORST_FIRST = ("failed", "passed", "skipped")
_CELL = re.compile(r"\[(?P<model>\w+)/(?P<backend>\w+)\[[^\]]*\]@\w+\]$")
_HEAD = """\
# What is covered

Made by `python -m harness.traceability --write` from `docs/rows.toml`, the `covers` marks in `suites/` and the outcomes last
recorded in `docs/outcomes.json`; a test compares. *Open*: nothing yet. *Partly*: some of it is built and tested. *Done*: all of it
is, and a test that uses the real component has passed.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One promise. ``modules`` are the importable names of the real component; empty where any backend will do."""

    id: str
    what: str
    component: str
    modules: frozenset[str]
    status: Literal["open", "partly", "done"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a test last said: passed, failed or skipped. ``passed_with`` holds the libraries of each kind of cell that passed."""

    said: str
    passed_with: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True, slots=True)
class Covering:
    """One marked test function. ``id`` is ``path::name`` without parameters; ``uses`` are the libraries that its file uses."""

    id: str
    rows: tuple[str, ...]
    uses: frozenset[str]

    def proves(self, row: Row, outcome: Outcome | None) -> bool:
        """Whether it passed on the whole real component of a row."""
        if outcome is None or outcome.said != "passed":
            return False
        return any(row.modules <= used for used in (self.uses, *outcome.passed_with))


def rows(root: Path) -> tuple[Row, ...]:
    """The promises of docs/rows.toml, in order."""
    table = tomllib.loads((root / ROWS).read_text(encoding="utf-8"))
    return tuple(Row(name, row["what"], row["component"], frozenset(row["modules"]), row["status"]) for name, row in table.items())


def marked(root: Path) -> tuple[Covering, ...]:
    """Every test under suites/ that carries a ``covers`` mark, by path and line."""
    found: list[Covering] = []
    for path in sorted((root / "suites").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        where = path.relative_to(root)
        uses = frozenset(_used(tree, root))
        for name, covered in _marked_functions(tree):
            found.append(Covering(f"{where.as_posix()}::{name}", covered, uses))
    return tuple(found)


def outcomes(root: Path) -> dict[str, Outcome]:
    """What each test said when last recorded, by test id; empty where nothing was recorded."""
    path = root / OUTCOMES
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {
        name: Outcome(entry["said"], tuple(frozenset(libraries.split()) for libraries in entry["passed_with"]))
        for name, entry in found.items()
    }


def write_outcomes(root: Path, said: Mapping[str, Outcome]) -> None:
    """Write docs/outcomes.json, sorted."""
    plain = {
        name: {"said": outcome.said, "passed_with": sorted(" ".join(sorted(libraries)) for libraries in outcome.passed_with)}
        for name, outcome in said.items()
    }
    (root / OUTCOMES).write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_junit(path: Path, tests: Sequence[Covering]) -> dict[str, Outcome]:
    """The outcomes of these tests in a JUnit file of pytest's; of a test's parameters the worst counts, skipped ones least."""
    by_case: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for case in ET.parse(path).getroot().iter("testcase"):  # noqa: S314 as at the import
        name = case.get("name", "")
        failed = case.find("failure") is not None or case.find("error") is not None
        said = "failed" if failed else "skipped" if case.find("skipped") is not None else "passed"
        by_case.setdefault((case.get("classname", ""), name.partition("[")[0]), []).append((name, said))
    found: dict[str, Outcome] = {}
    for test in tests:
        file, *names = test.id.split("::")
        module = file.removesuffix(".py").replace("/", ".")
        cases = by_case.get((".".join([module, *names[:-1]]), names[-1]), [])
        if cases:
            used = {libraries_of(name) for name, said in cases if said == "passed"} - {frozenset()}
            worst = next(said for said in _WORST_FIRST if said in {said for _, said in cases})
            found[test.id] = Outcome(worst, tuple(used))
    return found


def libraries_of(case: str) -> frozenset[str]:
    """What the cell in a test's name needs: its backend's libraries and its family's; empty where the name has no known cell."""
    match = _CELL.search(case)
    if match is None or match["model"] not in models() or match["backend"] not in adapters():
        return frozenset()
    return frozenset((*load_adapter(match["backend"]).requires, *family(load_model(match["model"]).family).requires))


def problems(promises: Sequence[Row], tests: Sequence[Covering], said: Mapping[str, Outcome]) -> list[str]:
    """What is claimed and not true: a mark for no row, a done row without a passing test on its real component."""
    known = {row.id for row in promises}
    found = [f"{test.id} covers {row}, which is no row" for test in tests for row in test.rows if row not in known]
    for row in promises:
        covering = [test for test in tests if row.id in test.rows]
        if row.status == "done" and not any(test.proves(row, said.get(test.id)) for test in covering):
            found.append(f"{row.id} is marked done, but no test that uses {row.component} has passed")
        if row.status == "open" and covering:
            found.append(f"{row.id} is marked open, but {covering[0].id} covers it: say partly or done")
        if row.status == "partly" and not covering:
            found.append(f"{row.id} is marked partly, but nothing covers it")
    return found


def page(promises: Sequence[Row], tests: Sequence[Covering], said: Mapping[str, Outcome]) -> str:
    """The text of docs/coverage.md."""
    lines = [_HEAD, "| row | what | real component | status | tests |", "|---|---|---|---|---|"]
    for row in promises:
        covering = [test for test in tests if row.id in test.rows]
        status = f"**{row.status}**" if row.status == "done" else row.status
        lines.append(f"| {row.id} | {row.what} | {row.component} | {status} | {len(covering)} |")
    for row in promises:
        covering = [test for test in tests if row.id in test.rows]
        if covering:
            lines += ["", f"## {row.id}", ""]
            lines += [f"- `{test.id}`: {_words(test, row, said.get(test.id))}" for test in covering]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 agrees or written, 1 disagrees, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m harness.traceability", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    parser.add_argument("--junit", type=Path, help="record the outcomes of this JUnit file of pytest's")
    options = parser.parse_args(arguments)
    root = checkout_root()
    if root is None:
        raise UsageError("this is no checkout of detection-harness", "Clone the project and run it there.")
    promises, tests = rows(root), marked(root)
    said = outcomes(root)
    if options.junit is not None:
        ids = {test.id for test in tests}
        said = {name: old for name, old in said.items() if name in ids} | read_junit(options.junit, tests)
        write_outcomes(root, said)
    text, target = page(promises, tests, said), root / PAGE
    wrong = problems(promises, tests, said)
    if options.write:
        target.write_text(text, encoding="utf-8")
    elif not target.is_file() or target.read_text(encoding="utf-8") != text:
        wrong.append(f"{PAGE} is out of date: python -m harness.traceability --write")
    sys.stderr.writelines(f"{line}\n" for line in wrong)
    return 1 if wrong else 0


def _words(test: Covering, row: Row, outcome: Outcome | None) -> str:
    if outcome is None:
        return "not recorded"
    elsewhere = outcome.said == "passed" and not test.proves(row, outcome)
    return f"{outcome.said}, not on the real component" if elsewhere else outcome.said


def _marked_functions(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each test with a mark of its own, its class's or its module's, as (name, rows); a method is ``Class::name``."""
    everywhere = [
        row
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(name, ast.Name) and name.id == "pytestmark" for name in node.targets)
        for row in _rows_in(node.value)
    ]
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                yield from _if_marked(item, f"{node.name}::", [*everywhere, *_rows_of(node)])
        else:
            yield from _if_marked(node, "", everywhere)


def _if_marked(node: ast.stmt, prefix: str, inherited: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
        covered = tuple(dict.fromkeys([*inherited, *_rows_of(node)]))
        if covered:
            yield prefix + node.name, covered


def _rows_of(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return [row for decorator in node.decorator_list for row in _rows_in(decorator)]


def _rows_in(node: ast.AST) -> list[str]:
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
    marks = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "covers"]
    return [str(item.value) for call in marks for item in call.args if isinstance(item, ast.Constant)]


def _used(tree: ast.Module, root: Path) -> Iterator[str]:
    for name in _imported(tree):
        yield name.partition(".")[0]
        if name.startswith(("harness.adapters.", "harness.families.")):
            source = root.joinpath(*name.split(".")[:3]).with_suffix(".py")
            if source.is_file():
                inner = ast.parse(source.read_text(encoding="utf-8"), str(source))
                yield from (module.partition(".")[0] for module in _imported(inner))


def _imported(tree: ast.Module) -> Iterator[str]:
    """The full name of every module that a file imports, anywhere in it, or demands with ``importorskip("name")``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "importorskip":
            yield from (str(item.value) for item in node.args[:1] if isinstance(item, ast.Constant))


if __name__ == "__main__":
    sys.exit(main())
