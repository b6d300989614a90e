"""What a served detector is told comes back from its environment; what cannot be meant is refused in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.serving.pictures import LARGEST_PX
from harness.serving.settings import Settings, checked_token, without_settings

pytestmark = pytest.mark.covers("M5")
EVERYTHING = Settings("m:v1", Path("store"), "open sesame", "cuda", 1000, 3, mended=True, mark="one", batch=8, latency_ms=500)


@pytest.mark.parametrize("settings", [EVERYTHING, Settings("m", Path("store")), replace(EVERYTHING, token=None, mended=False)])
def test_settings_come_back_from_the_environment(settings: Settings) -> None:
    around = EVERYTHING.environment({"PATH": "somewhere"})
    assert Settings.of(settings.environment(around)) == settings
    assert settings.environment(around)["PATH"] == "somewhere"


def test_without_them_nothing_of_them_is_left() -> None:
    around = {"PATH": "somewhere", "HARNESS_TOKEN": "kept"}
    assert without_settings({**around, "HARNESS_SERVE_TOKEN": "gone", "HARNESS_SERVE_TAG": ""}) == around


@pytest.mark.parametrize("name", ["LARGEST_PX", "THREADS", "BATCH", "LATENCY_MS"])
@pytest.mark.parametrize("text", ["many", "1.5", "-1", "1e3", "²", " 3"])
def test_a_number_that_is_none_is_named(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=rf"HARNESS_SERVE_{name} is {text!r}\n  Give a whole number"):
        Settings.of({"HARNESS_SERVE_TAG": "m", f"HARNESS_SERVE_{name}": text})


def test_no_picture_at_all_is_no_limit() -> None:
    with pytest.raises(UsageError, match="HARNESS_SERVE_LARGEST_PX is '0'"):
        Settings.of({"HARNESS_SERVE_TAG": "m", "HARNESS_SERVE_LARGEST_PX": "0"})


def test_what_is_left_out_has_its_default() -> None:
    found = Settings.of({"HARNESS_SERVE_TAG": "m", "HARNESS_SERVE_LARGEST_PX": "", "HARNESS_SERVE_THREADS": ""})
    assert (found.token, found.largest_px, found.threads, found.device) == (None, LARGEST_PX, 0, "cpu")


@pytest.mark.parametrize("token", ["", " "])
def test_a_token_that_is_there_and_empty_is_refused(token: str) -> None:
    with pytest.raises(UsageError, match="the token is empty"):
        Settings.of({"HARNESS_SERVE_TAG": "m", "HARNESS_SERVE_TOKEN": token})


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", "is empty"),
        ("\t", "is empty"),
        (" a ", "begins or ends with a blank"),
        ("a\n", "begins or ends with a blank"),
        ("a\nb", "not printable ASCII"),
        ("schlüssel", "not printable ASCII"),
        ("a\u200bb", "not printable ASCII"),
        ("\x7f", "not printable ASCII"),
    ],
)
def test_a_token_that_nobody_can_send_is_refused(token: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        checked_token(token)
    with pytest.raises(UsageError, match=words):
        Settings("m", Path("store"), token)
