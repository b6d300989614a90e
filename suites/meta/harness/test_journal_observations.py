"""What a job leaves on disk comes back as it was, or is refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness import integrity
from harness.detections import Detections, Masks, Panoptic, Segment
from harness.errors import InvalidRun, RunFolderError
from harness.journal import read_observation, write_observation
from harness.suites.meta.harness.journals import CELL, cells, plain, seconds, words
from harness.types import (
    Effective,
    Job,
    JobError,
    Load,
    Observation,
    Purpose,
    Restoration,
    TensorDigest,
    TimingPoint,
)


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
