"""What a run leaves on disk comes back as it was, or is refused in words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness import document, integrity
from harness.detections import Detections, Masks, Panoptic, Segment
from harness.document import Header
from harness.errors import InvalidRun, RunFolderError
from harness.journal import Run, RunWriter, read_observation, read_run, write_observation
from harness.suites.meta.reports import invented
from harness.types import (
    Cell,
    Effective,
    Job,
    JobError,
    Load,
    Measure,
    Observation,
    Purpose,
    Record,
    Restoration,
    Status,
    TensorDigest,
    TimingPoint,
)

CELL = Cell("model", "backend", "variant", "cpu")
ROOT = Path(document.__file__).parents[1]

words = st.text(st.characters(codec="utf-8"), max_size=12)
seconds = st.floats(width=64)
cells = st.builds(Cell, words, words, words, words)


@st.composite
def masks(draw: st.DrawFn, count: int) -> Masks:
    full = draw(arrays.arrays(np.bool_, (count, 7, 9)))
    near = draw(st.none() | arrays.arrays(np.bool_, (count, 7, 9)))
    return Masks.from_full(full, near)


@st.composite
def panoptics(draw: st.DrawFn) -> Panoptic:
    ids = draw(st.lists(st.integers(-(2**31), 2**31 - 1).filter(bool), max_size=3, unique=True))
    segments = st.builds(Segment, st.none(), st.integers(0, 9), st.booleans(), st.none() | seconds)
    shape = draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    return Panoptic(
        draw(arrays.arrays(np.int32, shape, elements=st.sampled_from([0, *ids]))),
        tuple(replace(draw(segments), id=number) for number in ids),
    )


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    count = draw(st.integers(0, 4))
    return Detections(
        draw(arrays.arrays(np.float32, (count, 4))),
        draw(arrays.arrays(np.float32, count)),
        draw(arrays.arrays(np.int64, count)),
        draw(st.none() | masks(count)),
        draw(st.none() | arrays.arrays(np.float32, (count, 3, 3))),
        draw(st.none() | arrays.arrays(np.float32, st.tuples(st.just(count), st.integers(0, 4), st.just(3)))),
        draw(st.none() | panoptics()),
    )


restorations = st.builds(
    Restoration,
    st.lists(st.builds(TensorDigest, words, words, words, st.tuples(st.integers(0, 9)), words, words), max_size=2).map(tuple),
    st.booleans(),
    st.none() | words,
    st.dictionaries(words, st.none() | words | st.lists(st.integers()) | st.dictionaries(words, st.booleans()), max_size=2),
    st.lists(words, max_size=2).map(tuple),
)
jobs = st.builds(Job, cells, st.sampled_from(Purpose), st.builds(Load, st.integers(0, 9), st.integers(1, 9)), st.integers(0, 3))
observed = st.builds(
    Observation,
    jobs,
    st.dictionaries(words, detections(), max_size=3),
    st.none() | st.builds(Effective, words, words, words, st.none() | st.integers(0, 64), st.none(), st.dictionaries(words, words)),
    build_s=st.none() | seconds,
    open_s=st.none() | seconds,
    predict_s=st.lists(seconds, max_size=3).map(tuple),
    curve=st.lists(st.builds(TimingPoint, st.integers(1, 8), words, st.tuples(seconds), st.integers(0, 3)), max_size=2).map(tuple),
    artifact_bytes=st.none() | st.integers(0, 2**50),
    artifact_sha256=st.none() | words,
    peak_rss_bytes=st.none() | st.integers(0, 2**50),
    source=st.none() | restorations,
    source_after=st.none() | restorations,
    restored=st.none() | restorations,
    resaved=st.none() | restorations,
    isolation=st.dictionaries(words, words, max_size=2),
    notes=st.lists(words, max_size=2).map(tuple),
    error=st.none() | st.builds(JobError, words, words, words, words),
)
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


def plain(value: Any) -> Any:
    """The value in a form where NaN equals NaN bit for bit and arrays compare with their dtype and shape."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if is_dataclass(value):
        return type(value).__name__, [plain(getattr(value, f.name)) for f in fields(value)]
    if isinstance(value, dict):
        return [(key, plain(entry)) for key, entry in value.items()]
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    return repr(value)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return invented.write(tmp_path / "run", invented.run(invented.MODELS[:1]))


@pytest.mark.covers("M21")
@settings(max_examples=60, deadline=None)
@given(observed)
def test_an_observation_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, observation: Observation) -> None:
    folder = tmp_path_factory.mktemp("observation") / "deeper"
    write_observation(folder, observation)
    assert plain(read_observation(folder)) == plain(observation)
    assert {file.name for file in folder.iterdir()} == {"observation.json", "answers.npz"}


def test_an_older_observation_is_replaced(tmp_path: Path) -> None:
    for repeat in (0, 1):
        write_observation(tmp_path, Observation(Job(CELL, Purpose.PARITY, repeat=repeat)))
    assert read_observation(tmp_path).job.repeat == 1


def test_words_that_are_no_text_do_not_cost_the_observation(tmp_path: Path) -> None:
    error = JobError("raised", "open", b"caf\xe9".decode(errors="surrogateescape"))
    write_observation(tmp_path, Observation(Job(CELL, Purpose.PARITY), notes=("\udcff",), error=error))
    found = read_observation(tmp_path)
    assert found.error is not None
    assert (found.error.message, found.notes) == ("caf?", ("?",))


def test_an_observation_that_was_cut_off_or_changed_is_refused(tmp_path: Path) -> None:
    answer = Detections(np.ones((2, 4), np.float32), np.ones(2, np.float32), np.ones(2, np.int64))
    write_observation(tmp_path, Observation(Job(CELL, Purpose.PARITY), {"image": answer}))
    for name in ("observation.json", "answers.npz"):
        whole = (tmp_path / name).read_bytes()
        for damaged in (whole[:-20], whole[: len(whole) // 2] + b"~" + whole[len(whole) // 2 + 1 :], b""):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(InvalidRun, match=r"damaged|not the file"):
                read_observation(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(InvalidRun, match="no observation"):
            read_observation(tmp_path)
        (tmp_path / name).write_bytes(whole)
    assert len(read_observation(tmp_path).answers["image"]) == 2


def test_arrays_that_are_not_the_index_are_refused(tmp_path: Path) -> None:
    answer = Detections(np.ones((2, 4), np.float32), np.ones(2, np.float32), np.ones(2, np.int64))
    write_observation(tmp_path, Observation(Job(CELL, Purpose.PARITY), {"image": answer}))
    document_file = tmp_path / "observation.json"
    parsed = json.loads(document_file.read_text())
    parsed["images"][0]["count"] = 1
    document_file.write_text(json.dumps(parsed))
    with pytest.raises(InvalidRun, match="1 detections announced, 2 boxes"):
        read_observation(tmp_path)


def test_segments_without_their_picture_are_refused(tmp_path: Path) -> None:
    answer = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    write_observation(tmp_path, Observation(Job(CELL, Purpose.PARITY), {"image": answer}))
    document_file = tmp_path / "observation.json"
    parsed = json.loads(document_file.read_text())
    parsed["images"][0]["segments"] = []
    document_file.write_text(json.dumps(parsed))
    with pytest.raises(InvalidRun, match="panoptic_0"):
        read_observation(tmp_path)


class Bomb:
    """Unpickling one writes a file beside the test."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.target,))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    write_observation(tmp_path / "observation", Observation(Job(CELL, Purpose.PARITY)))
    answers = tmp_path / "observation" / "answers.npz"
    np.savez(answers, boxes_xyxy_px=np.array([Bomb(tmp_path / "exploded")], dtype=object))
    parsed = json.loads((tmp_path / "observation" / "observation.json").read_text())
    parsed["arrays_sha256"] = sha256(answers.read_bytes()).hexdigest()
    (tmp_path / "observation" / "observation.json").write_text(json.dumps(parsed))
    with pytest.raises(InvalidRun, match="allow_pickle=False"):
        read_observation(tmp_path / "observation")
    assert not (tmp_path / "exploded").exists()


def test_a_full_disk_leaves_no_half_observation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(integrity.os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left"):
        write_observation(tmp_path, Observation(Job(CELL, Purpose.PARITY)))
    assert list(tmp_path.iterdir()) == []


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
