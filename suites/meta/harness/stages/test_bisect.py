"""Naming the first stage that differs: what counts as a difference, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness import levels
from harness.stages import Stage, as_model
from harness.stages.bisect import conclusion, differences, first_difference, report
from harness.suites.meta.harness.adapters.graphs import picker
from harness.types import StageDifference, StageReport

FLOATS = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.floats(-1e3, 1e3, width=32))


def found(expected: Any, answer: Any, rows: tuple[str, ...] = ()) -> list[Any]:
    return list(differences("even_0", {"x": expected}, {"x": answer}, rows))


@given(FLOATS)
def test_equal_outputs_do_not_differ(values: Any) -> None:
    assert found(values, values.copy()) == []


@given(FLOATS, st.floats(0.0, 0.9))
def test_within_the_level_is_no_difference(values: Any, share: float) -> None:
    wide = values.astype(np.float64)
    level = levels.RAW_PER_MAX * np.abs(wide).max() + levels.RAW_PER_VALUE * np.abs(wide)
    assert found(wide, wide + share * level) == []


@given(FLOATS, st.data())
def test_one_value_beyond_the_level_is_named(values: Any, data: Any) -> None:
    place = data.draw(st.tuples(*(st.integers(0, side - 1) for side in values.shape)))
    wide = values.astype(np.float64)
    wide[place] += 10.0
    difference = found(values.astype(np.float64), wide)[0]
    assert f"at {list(place)}" in difference.words
    assert difference.worst == pytest.approx(10.0)
    assert difference.image == "even_0"


@given(FLOATS, st.randoms(use_true_random=False))
def test_rows_may_come_in_another_order_and_only_rows(values: Any, random: Any) -> None:
    order = list(range(len(values)))
    random.shuffle(order)
    assert found(values, values[order], rows=("x",)) == []
    if np.abs(values - values[order]).max() > 1.0:
        assert found(values, values[order])


def test_another_shape_names_both() -> None:
    difference = found(np.zeros((1, 3, 160, 224), np.float32), np.zeros((1, 3, 192, 224), np.float32))[0]
    assert difference.words == "x has the shape 1x3x192x224, the reference's is 1x3x160x224"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_differs(value: float) -> None:
    assert found(np.ones(3, np.float32), np.array([1, value, 1], np.float32))
    assert found(np.array([1, value, 1], np.float32), np.ones(3, np.float32))
    assert found(np.array([1, value, 1], np.float32), np.array([1, value, 1], np.float32)) == []


def test_whole_numbers_must_be_equal() -> None:
    assert found(np.array([5, 7]), np.array([6, 7]))[0].words.startswith(
        "1 of 2 values of x 2 differ, the worst by 1 at [0]: 6 instead"
    )


def test_rows_of_unlike_numbers_are_told_by_their_shape() -> None:
    assert "has the shape 2x4" in found(np.ones((3, 4), np.float32), np.ones((2, 4), np.float32), rows=("x",))[0].words


class Tensor:
    """As much of a torch tensor as a report reads."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> Any:
        return self._value


DOUBLES = Stage("doubles", ("x",), ("y",), lambda x: (x * 2,))
ENVS = {"one": {"x": Tensor(np.ones(4)), "y": Tensor(np.full(4, 2.0))}, "two": {"x": Tensor(np.zeros(3)), "y": Tensor(np.zeros(3))}}


@contextmanager
def doubling(_: Stage) -> Iterator[Any]:
    yield lambda tensors: {"y": tensors["x"] * 2}


@contextmanager
def tripling(_: Stage) -> Iterator[Any]:
    yield lambda tensors: {"y": tensors["x"] * 3}


@contextmanager
def breaking(_: Stage) -> Iterator[Any]:
    def run(_: Mapping[str, Any]) -> Any:
        raise RuntimeError("no kernel for this")

    yield run


def test_a_report_says_how_much_was_compared() -> None:
    assert report(DOUBLES, ENVS, doubling) == StageReport("doubles", 2, 7)


def test_a_report_names_the_picture_that_differs() -> None:
    seen = report(DOUBLES, ENVS, tripling)
    assert [difference.image for difference in seen.differences] == ["one"]
    assert seen.words.startswith("doubles: 4 of 4 values of y")


def test_a_difference_of_sizes_is_told_before_one_of_values() -> None:
    values = StageDifference("a", "pixels", "many values differ", 2.0, 1e-4)
    size = StageDifference("a", "size", "159 instead of 160", 1.0, 0.0)
    assert StageReport("preprocess", 1, 9, (values, size)).words == "preprocess: 159 instead of 160 on image a"


def test_a_stage_that_breaks_is_told_and_does_not_end_the_search() -> None:
    seen = report(DOUBLES, ENVS, breaking)
    assert seen.error == "RuntimeError: no kernel for this"
    differs = report(DOUBLES, ENVS, tripling)
    assert first_difference([StageReport("a", 1, 1), seen, differs]) is differs
    assert conclusion([StageReport("a", 1, 1), differs]) == differs.words
    assert conclusion([seen, differs]) == f"{differs.words} (before it, doubles could not be compared)"
    assert first_difference([StageReport("a", 1, 1), seen]) is None
    told = conclusion([StageReport("a", 1, 1), seen])
    assert told.startswith("none: every other stage, ")
    assert "doubles could not be asked (RuntimeError: no kernel for this)" in told


def test_where_nothing_was_compared_nothing_agrees() -> None:
    assert conclusion([StageReport("mask head", 1, 0)]) == "not found: nothing was there to compare in mask head"
    assert "nothing was there to compare in mask head" in conclusion([StageReport("a", 1, 5), StageReport("mask head", 1, 0)])
    assert conclusion([StageReport("a", 1, 5)]).startswith("none: every stage, ")


def test_boxes_have_the_level_of_boxes_however_far_out_they_lie() -> None:
    mine = np.array([[100, 100, 560, 420], [900, 900, 1000, 1000]], np.float32)
    assert list(differences("a", {"resized_boxes": mine}, {"resized_boxes": mine + np.float32(5e-3)})) == []
    (told,) = differences("a", {"resized_boxes": mine}, {"resized_boxes": mine + np.float32(0.05)}, per_max=1e-4)
    assert "8 of 8 values of resized_boxes" in told.words


@pytest.mark.parametrize("count", [1, 3])
def test_a_list_of_one_detection_is_exported_as_a_list(count: int) -> None:
    import torch

    env = {
        "mask_pooled": torch.zeros(count, 8, 14, 14),
        "keypoints": torch.zeros(count, 5, 3),
        "features.p2": torch.zeros(1, 8, 4, 4),
    }
    stage = Stage("head", tuple(env), ("masks",), lambda *tensors: (tensors[0][:, :1],))
    graph = as_model(picker(), stage, env | {"masks": torch.zeros(count, 1, 14, 14)}).graph
    assert [set(graph.dynamic_axes[name]) for name in (*env, "masks")] == [{0}, {0}, {2, 3}, {0}]


def test_rows_that_nobody_expects_are_left_out() -> None:
    assert list(differences("a", {}, {}, rows=("boxes",))) == []


def test_a_whole_number_answered_as_none_differs() -> None:
    (told,) = differences("a", {"labels": np.array([1, 2])}, {"labels": np.array([np.nan, 2.0])})
    assert told.worst == np.inf


def test_no_difference_is_none() -> None:
    assert first_difference([StageReport("a", 1, 1)]) is None
