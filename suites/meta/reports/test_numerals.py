"""Figures and words are set as a reader expects them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.reports import numerals, wording

NARROW = "\u202f"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "–"),
        (0, "0"),
        (412, "412"),
        (12345.0, f"12{NARROW}345"),
        (0.0190, "0.0190"),
        (3.14159, "3.14"),
        (99.96, "100.0"),
        (4.7e-5, "4.7e−5"),
        (-0.5, "−0.500"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_a_measured_figure_has_three_digits(value: float | None, told: str) -> None:
    assert numerals.figure(value) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [(1e-4, "0.0001"), (2e-5, "2e−5"), (0.019, "0.019"), (0.99, "0.99"), (0.999, "0.999"), (0, "0"), (0.1, "0.1")],
)
def test_a_level_is_as_short_as_it_was_written(value: float, told: str) -> None:
    assert numerals.level(value) == told


@given(st.floats(-1e300, 1e300) | st.sampled_from([math.nan, math.inf, -math.inf]))
def test_every_figure_can_be_told_and_read_back(value: float) -> None:
    told = numerals.figure(value).replace("−", "-").replace(NARROW, "").replace("∞", "inf")
    assert float(told) == pytest.approx(value, rel=0.06, nan_ok=True)
    assert numerals.level(value)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0067, "6.70 ms"), (0.5, "500 ms"), (4.58, "4.58 s"), (312.4, "5.2 min"), (math.nan, "NaN"), (None, "–")],
)
def test_a_duration_has_the_unit_it_needs(seconds: float | None, told: str) -> None:
    assert numerals.duration(seconds).replace(NARROW, " ") == told


@pytest.mark.parametrize(("count", "told"), [(None, "–"), (12, "12 B"), (4_770_000, "4.77 MB"), (25_300_000_000, "25.3 GB")])
def test_a_size_has_the_unit_it_needs(count: float | None, told: str) -> None:
    assert numerals.size(count).replace(NARROW, " ") == told


def test_a_geometric_mean_leaves_out_what_was_not_measured() -> None:
    assert numerals.geometric_mean([4.0, None, 9.0, math.nan, 0.0]) == pytest.approx(6.0)
    assert numerals.geometric_mean([None]) is None


def test_words_are_listed_as_one_says_them() -> None:
    assert [numerals.listed("abc"[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("box of 3 differs", "Box of 3 differs."),
        ("built, opened", "Built, opened."),
        ("torch_eager fails!", "torch_eager fails!"),
        ("", ""),
    ],
)
def test_a_reason_becomes_a_sentence(words: str, told: str) -> None:
    assert wording.sentence(words) == told


@given(st.text())
def test_whatever_it_is_prose_and_names_are_escaped(words: str) -> None:
    for told in (wording.prose(words), wording.name(words)):
        plain = told.replace("<wbr>", "").replace("<code>", "").replace("</code>", "")
        assert "<" not in plain
        assert ">" not in plain
        assert '"' not in plain
