"""What else the machine did is told, and quiet is not."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time

import pytest

from harness.disturbance import Look, disturbances, look

pytestmark = pytest.mark.covers("M19")
BEFORE = Look(at_s=100.0, everybody_s=1000.0, own_s=10.0, stolen_s=1.0, work_s=0.002, mhz=3000.0)
AFTER = Look(at_s=110.0, everybody_s=1018.0, own_s=27.0, stolen_s=1.1, work_s=0.00205, mhz=2900.0)


def told(**changed: float | None) -> list[str]:
    return list(disturbances(BEFORE, dataclasses.replace(AFTER, **changed), cores=2))


def test_a_quiet_machine_is_not_told() -> None:
    assert told() == []
    assert told(everybody_s=None, mhz=None) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"everybody_s": 1020.0}, "other processes took 15% of the processors"),
        ({"stolen_s": 2.0}, "the hypervisor took 5% of the processors away"),
        ({"work_s": 0.0025}, "a fixed piece of work took 1.25 times as long after as before"),
        ({"work_s": 0.0015}, "a fixed piece of work took 0.75 times as long after as before"),
        ({"mhz": 2000.0}, "the processors ran at 3000 MHz before and 2000 MHz after"),
    ],
)
def test_what_disturbs_is_told_in_words(changed: dict[str, float], words: str) -> None:
    assert told(**changed) == [words]


def test_time_that_children_take_is_ones_own() -> None:
    """One that has ended, and one that still runs."""
    before = look()
    spin = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    subprocess.run([sys.executable, "-c", spin], check=True)
    running = subprocess.Popen([sys.executable, "-c", f"{spin}time.sleep(30)"])
    try:
        deadline = time.monotonic() + 20
        while look().own_s - before.own_s < 0.6 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert look().own_s - before.own_s >= 0.6
    finally:
        running.kill()
        running.wait()


def test_a_look_is_short_and_in_order() -> None:
    first, second = look(), look()
    assert first.at_s < second.at_s
    assert first.own_s <= second.own_s
    assert 0 < first.work_s < 1
    assert second.at_s - first.at_s < 2
