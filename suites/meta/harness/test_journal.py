"""What a run leaves on disk comes back as it was, or is refused in words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import document
from harness.document import Header
from harness.errors import InvalidRun, RunFolderError
from harness.journal import Run, RunWriter, read_run
from harness.suites.meta.harness.journals import CELL, cells, plain, seconds, words
from harness.suites.meta.reports import invented
from harness.types import (
    Cell,
    Measure,
    Record,
    Status,
)

ROOT = Path(document.__file__).parents[1]

records = st.builds(
    Record,
    words,
    cells,
    st.sampled_from(Status),
    words,
    st.integers(0, 10**6),
    st.lists(st.builds(Measure, words, seconds, st.none() | seconds, words), max_size=2).map(tuple),
    st.none() | words,
    st.none() | words,
    words,
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return invented.write(tmp_path / "run", invented.run(invented.MODELS[:1]))


def test_a_run_comes_back_in_the_order_of_its_plan(tmp_path: Path) -> None:
    made = invented.run()
    backwards = Run(made.header, made.cells[::-1], made.records[::-1], made.exhibits[::-1], None)
    found = read_run(invented.write(tmp_path / "run", backwards))
    assert (found.header, found.cells, found.records, found.exhibits) == (made.header, made.cells, made.records, made.exhibits)
    assert found.cut_off is None
    assert found.footer is not None
    assert dict(found.footer.counts) == {status: n for status, n in found.counts.items() if n}


@settings(max_examples=40, deadline=None)
@given(st.lists(records, max_size=5, unique_by=lambda r: (r.check, r.cell)))
def test_records_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, some: list[Record]) -> None:
    folder = tmp_path_factory.mktemp("run") / "run"
    with RunWriter(folder, invented.header(planned=[])) as writer:
        for record in some:
            writer.record(record)
        writer.finish()
    found = {(r.check, r.cell): plain(r) for r in read_run(folder).records}
    assert found == {(r.check, r.cell): plain(r) for r in some}


def test_a_planned_verdict_without_a_record_is_missing(tmp_path: Path) -> None:
    other = Cell("model", "other", "variant", "cpu")
    with RunWriter(tmp_path, invented.header(planned=[("a.b", CELL), ("a.b", other)])) as writer:
        writer.record(Record("a.b", CELL, Status.PASSED, "fine", 3))
        writer.finish()
    found = read_run(tmp_path)
    assert [(r.cell, r.status) for r in found.verdicts] == [(CELL, Status.PASSED), (other, Status.MISSING)]
    assert found.counts[Status.MISSING] == 1


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1))
def test_a_run_killed_at_any_byte_is_readable_and_says_so(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    file = invented.write(tmp_path_factory.mktemp("run") / "run", invented.run(invented.MODELS[:1]))
    whole = file.read_bytes()
    header_ends = whole.index(b"\n") + 1
    size = header_ends + int(share * (len(whole) - 1 - header_ends))
    file.write_bytes(whole[:size])
    found = read_run(file)
    assert found.cut_off is not None
    complete = [line for line in whole[:size].split(b"\n")[:-1] if b'"kind":"record"' in line]
    assert len(found.records) == len(complete)
    assert len(found.verdicts) == len(found.header.planned)


def test_ctrl_c_keeps_the_run_so_far(tmp_path: Path) -> None:
    def interrupted_run() -> None:
        with RunWriter(tmp_path, invented.header(planned=[])) as writer:
            writer.record(Record("a.b", CELL, Status.PASSED, "fine", 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    found = read_run(tmp_path)
    assert (found.cut_off, len(found.records)) == ("interrupted", 1)


def test_a_run_that_forgets_to_finish_says_so(written: Path, tmp_path: Path) -> None:
    file = invented.write(tmp_path / "other", read_run(written), finish=False)
    assert read_run(file).cut_off == "it ended without saying that it had finished"


def _twice(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-1], next(line for line in lines if b'"kind":"record"' in line), lines[-1]]


def _cell_twice(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-1], lines[1], lines[-1]]


DAMAGES = {
    "empty": (lambda _: [], r"line 1: no header"),
    "no header": (lambda lines: lines[1:], r"line 1: no header"),
    "header cut off": (lambda lines: [lines[0][:-40]], r"line 1: no header"),
    "two headers": (lambda lines: [lines[0], *lines], r"line 2: a second header"),
    "a line cut in the middle": (lambda lines: [lines[0], lines[1][:50] + b"\n", *lines[2:]], r"line 2: Invalid JSON"),
    "unknown kind": (lambda lines: [lines[0], b'{"kind":"rumour"}\n', *lines[1:]], r"line 2: .*'rumour'"),
    "unknown field": (
        lambda lines: [lines[0], lines[1].replace(b'"build_s"', b'"built_s"'), *lines[2:]],
        r"line 2: cell.built_s",
    ),
    "record doubled": (
        _twice,
        r"line \d+: record \S+ d2_fasterrcnn_tiny/torch_eager\[plain\]@cpu is doubled \(first on line 8\)",
    ),
    "cell doubled": (_cell_twice, r"line \d+: cell d2_fasterrcnn_tiny/torch_eager\[plain\]@cpu is doubled \(first on line 2\)"),
    "a line left out": (lambda lines: [*lines[:10], *lines[11:]], r"line \d+: the lines before are not those that were written"),
    "a verdict changed": (
        lambda lines: [line.replace(b"Within every level", b"Within, all of them") for line in lines],
        r"the lines before are not those",
    ),
    "something after the footer": (lambda lines: [*lines, lines[1]], r"line \d+: the footer is not the last line"),
    "another schema": (lambda lines: [lines[0].replace(b'"schema_version":1', b'"schema_version":9'), *lines[1:]], r"version 9"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_refused_with_its_line_and_a_cure(written: Path, damage: str) -> None:
    break_it, message = DAMAGES[damage]
    written.write_bytes(b"".join(break_it(written.read_bytes().splitlines(keepends=True))))
    with pytest.raises(InvalidRun, match=message) as caught:
        read_run(written)
    assert caught.value.cure


def test_no_run_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRun, match="cannot read"):
        read_run(tmp_path)


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    head = invented.header(planned=[])
    with RunWriter(tmp_path / "run", head) as writer:
        with pytest.raises(RunFolderError, match="another run is using"):
            RunWriter(tmp_path / "run", head)
        writer.finish()
    with pytest.raises(RunFolderError, match="holds a run already"):
        RunWriter(tmp_path / "run", head)


def test_a_killed_run_lets_its_folder_go(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from harness.journal import RunWriter;"
        "from harness.suites.meta.reports import invented;"
        "writer = RunWriter(Path(sys.argv[1]), invented.header(planned=[])); os._exit(9)"
    )
    child = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
    assert child.returncode == 9
    assert read_run(tmp_path).cut_off == "it was killed before it could say why"
    with pytest.raises(RunFolderError, match="holds a run already"):
        RunWriter(tmp_path, invented.header(planned=[]))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderError, match="cannot write to") as caught:
        RunWriter(tmp_path / "file" / "run", invented.header(planned=[]))
    assert "--out" in caught.value.cure


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from harness.errors import RunFolderError
from harness.journal import RunWriter, read_run
from harness.suites.meta.reports import invented
from harness.types import Cell, Record, Status
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, head = Path(sys.argv[1]), invented.header(planned=[])
size = len(head.model_dump_json()) + 1
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, size + 1000))
written = 0
try:
    with RunWriter(folder, head) as writer:
        for n in range(100):
            writer.record(Record(f"a.{n}", Cell("m", "b", "v", "cpu"), Status.PASSED, "fine", 1))
            written += 1
except RunFolderError as error:
    print(type(error).__name__, written, len(read_run(folder).records))
"""


def test_a_disk_that_fills_keeps_every_whole_line(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], cwd=ROOT, check=True, capture_output=True, text=True)
    name, written, read = child.stdout.split()
    assert name == "RunFolderError"
    assert int(written) == int(read) > 0


def test_the_published_schema_is_the_one_in_use() -> None:
    published = ROOT / "docs" / "run.schema.json"
    assert published.read_text() == document.schema(), "regenerate: python -m harness.document docs/run.schema.json"


def test_every_line_written_obeys_the_published_schema(written: Path) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(document.schema()))
    broken = Record("a.b", CELL, Status.FAILED, "NaN", 1, (Measure("score", float("nan"), float("inf")),))
    extra = document.RecordLine.of(broken).model_dump_json()
    for line in [*written.read_text().splitlines(), extra]:
        validator.validate(json.loads(line, parse_constant=pytest.fail))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(json.loads(extra) | {"rumour": 1})


def test_the_header_keeps_what_the_page_needs(written: Path) -> None:
    head = read_run(written).header
    assert isinstance(head, Header)
    assert head == invented.header(invented.MODELS[:1])
