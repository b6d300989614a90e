"""A ledger comes back from its file as it went in, beside the answers."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.ledger import KeypointTies, Ledger, Selection, pack, unpack
from harness.observations import read_observation, write_observation
from harness.suites.meta.harness.answers import REFERENCE, deck, grid, observed
from harness.suites.meta.harness.ledgers import SIZE_HW_PX, ledger, selections


def assert_same(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    elif dataclasses.is_dataclass(a) and not isinstance(a, type):
        for field in dataclasses.fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    else:
        assert a == b


ties = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.floats(0, 100, width=32)), max_size=3).map(
    lambda rows: KeypointTies(
        np.array([row[0] for row in rows], np.int32),
        np.array([row[1] for row in rows], np.int32),
        np.array([(row[2], row[2] + 1) for row in rows], np.float32).reshape(-1, 2),
    )
)
ledgers = st.builds(
    Ledger,
    st.just(SIZE_HW_PX),
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    selections(4),
    st.one_of(st.none(), selections(4).map(lambda rows: dataclasses.replace(rows, threshold=-np.inf, logits=True))),
    st.one_of(st.none(), ties),
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), ledgers, max_size=3))
@settings(deadline=None, max_examples=50)
def test_what_is_packed_comes_back_through_a_file(held: dict[str, Ledger]) -> None:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **pack(held))
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
        back = unpack({name: stored[name] for name in stored.files})
    assert list(back) == list(held)
    for image, known in held.items():
        assert_same(known, back[image])


def test_a_file_without_ledgers_has_none() -> None:
    assert pack({}) == {}
    assert unpack({"scores": np.zeros(3)}) == {}


@pytest.mark.parametrize("name", ["ledger.detections.scores", "ledger.proposals.counts", "ledger.detections.counts"])
def test_a_file_that_lost_rows_is_refused(name: str) -> None:
    arrays = pack({"a": ledger([((0, 0, 9, 9), 0.9, 0)]), "b": ledger([((0, 0, 9, 9), 0.9, 0)])})
    with pytest.raises((ValueError, KeyError)):
        unpack({**arrays, name: arrays[name][:-1]})


def test_an_observation_keeps_its_ledgers(tmp_path: Path) -> None:
    known = ledger([((0, 0, 9, 9), 0.9, 0), ((0, 0, 9, 8), 0.8, 0)])
    written = dataclasses.replace(observed(deck(a=grid(2)), REFERENCE), ledgers={"a": known})
    write_observation(tmp_path, written)
    back = read_observation(tmp_path)
    assert list(back.ledgers) == ["a"]
    assert_same(back.ledgers["a"], known)
    assert isinstance(back.ledgers["a"].detections, Selection)
