"""The garbage collector is off inside, and afterwards as it was, whatever happened."""

from __future__ import annotations

import gc

import pytest

from harness.memory import collector_paused


def test_the_collector_is_off_inside_and_on_again_after_an_error() -> None:
    @collector_paused()
    def fails() -> None:
        assert not gc.isenabled()
        raise ValueError("inside")

    assert gc.isenabled()
    with pytest.raises(ValueError, match="inside"):
        fails()
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
