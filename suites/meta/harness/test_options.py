"""One table of options serves the command line, pytest and its ini."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError, UsageError
from harness.options import OPTIONS, Options

NAMES = st.lists(st.text("abc_[]@/.", min_size=1, max_size=8), max_size=3).map(tuple)


def test_table_and_dataclass_name_the_same_options() -> None:
    assert [option.field for option in OPTIONS] == [f.name for f in fields(Options)]


def test_nothing_given_is_the_default() -> None:
    assert Options.of({option.field: None for option in OPTIONS}) == Options()
    assert Options().arguments() == []


@given(model=NAMES, backend=NAMES, quick=st.booleans(), seconds=st.floats(1, 1e4), lanes=st.integers(1, 64))
def test_arguments_say_what_was_read(
    model: tuple[str, ...], backend: tuple[str, ...], quick: bool, seconds: float, lanes: int
) -> None:
    options = Options.of({"model": model, "backend": backend, "quick": quick, "job_seconds": str(seconds), "lanes": lanes})
    words = options.arguments()
    raw: dict[str, object] = {"model": [], "backend": []}
    while words:
        name = words.pop(0).removeprefix("--").replace("-", "_")
        if name == "quick":
            raw[name] = True
        elif name in ("model", "backend"):
            raw[name] = [*raw[name], words.pop(0)]  # type: ignore[misc]
        else:
            raw[name] = words.pop(0)
    assert Options.of(raw) == options


def test_folders_are_absolute() -> None:
    out = Options.of({"out": "somewhere"}).out
    assert out == Path.cwd() / "somewhere"


@pytest.mark.parametrize("value", ["0", "-1", "many", "nan"])
def test_a_limit_that_is_no_positive_number_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="--job-seconds"):
        Options.of({"job_seconds": value})


@pytest.mark.parametrize("value", ["2.5", "0"])
def test_lanes_are_whole(value: str) -> None:
    with pytest.raises(UsageError, match=rf"--lanes '{value}' is no whole number above 0\n  Example: --lanes 2"):
        Options.of({"lanes": value})


def test_quick_and_full_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude"):
        Options.of({"quick": True, "full": True})


def test_only_names_suites_and_throughput_then_is_measured() -> None:
    assert Options.of({"only": ["throughput"], "budget": "90"}).measured
    assert Options.of({"only": ["throughput"], "budget": "90"}).arguments() == ["--only", "throughput", "--budget", "90.0"]
    assert not Options.of({"only": ["parity", "contract"]}).measured
    assert Options().budget == 420


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"only": ["throughputs"]}, "throughputs.*Did you mean 'throughput'"),
        ({"budget": "90"}, "--budget is what --only throughput spends\n  Add --only throughput."),
        ({"only": ["parity"], "budget": "90"}, "--budget is what"),
        ({"only": ["throughput"], "quick": True}, "--quick measures nothing"),
        ({"only": ["throughput"], "budget": "0"}, "--budget '0' is no number above 0\n  Example: --budget 420"),
    ],
    ids=str,
)
def test_options_that_mean_nothing_together_are_refused(raw: dict[str, object], words: str) -> None:
    with pytest.raises(HarnessError, match=f"(?s){words}"):
        Options.of(raw)
