"""Every liar is caught by the check that should catch it, which the real backend passes; honest variations pass all."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.fixtures.liars import ADAPTERS, FAULTS, GRAPH, HONEST, MODEL, VARIANTS, Fault
from harness.fixtures.liars_of_time import TIMED_FAULTS, TIMED_HONEST, FivePercentSlower, TimedFault, held
from harness.fixtures.simulated import Simulated
from harness.journal import Run, read_run
from harness.selftest import Outcome, read_outcome, timed_outcome
from harness.types import Status

BREAKDOWNS = {
    "hangs": ("timeout", "still running after 20 s"),
    "eats_memory": ("memory", "used more than 2.0 GiB"),
    "exits": ("exited", "exited with status 3"),
    "segfaults": ("exited", "died of SIGSEGV"),
}
SAID = {
    "everything_dropped": "the config differs: there is none now",
    "versions_made_up": "torch is said to have been 0.4.1",
    "training_mode_kept": "saved in training mode and opened, the model came back in training mode",
    "caller_left_in_eval": "was in training mode before and is in eval mode after",
    "graph_altered_in_archive": "is another",
}
"""Of those that could be caught for another reason than their fault, what must be said."""
BREAKING = Path(__file__).with_name("breaking.py")


def harness(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("liars") / "run"
    done = harness("selftest", "--out", folder)
    assert (folder / "selftest.json").is_file(), done.stderr
    outcome = read_outcome(folder / "selftest.json")
    assert done.returncode == (not outcome.sound)
    assert f"kill rate {outcome.kill_rate:.0%}" in done.stdout
    return folder


@pytest.fixture(scope="module")
def outcome(folder: Path) -> Outcome:
    return read_outcome(folder / "selftest.json")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return read_run(folder)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.adapter.name)
def test_liar_is_caught_by_the_check_that_the_real_backend_passes(fault: Fault, outcome: Outcome, run: Run) -> None:
    name, check = fault.adapter.name, fault.check
    assert outcome.faults[name], outcome.wrong
    (record,) = [record for record in run.verdicts if record.cell.backend == name]
    assert record.check == check
    assert record.status in (Status.FAILED, Status.ERRORED)
    assert record.reason
    assert f"--check {check}" in record.reproduce
    assert SAID.get(name, "") in record.reason


@pytest.mark.parametrize("name", [adapter.name for adapter in HONEST])
def test_honest_variation_passes_everything(name: str, outcome: Outcome, run: Run) -> None:
    assert outcome.honest[name], outcome.wrong
    told = {record.check: record.status for record in run.verdicts if record.cell.backend == name}
    assert {check.partition(".")[0] for check in told} >= {"contract", "fidelity", "parity"}
    assert set(told.values()) <= {Status.PASSED, Status.DECLINED}


def test_there_are_enough_of_them() -> None:
    assert len(FAULTS) >= 24
    assert len(HONEST) >= 8
    assert len(ADAPTERS) == len(FAULTS) + len(HONEST)


def test_what_was_recorded_is_of_these_and_whole() -> None:
    recorded = read_outcome()
    assert recorded.model == MODEL
    assert recorded.caught_by == {fault.adapter.name: fault.check for fault in FAULTS} | {
        one.name: one.check for one in TIMED_FAULTS
    }
    assert list(recorded.honest) == [*(adapter.name for adapter in HONEST), *(one.name for one in TIMED_HONEST)]
    assert recorded.sound
    assert recorded.kill_rate == 1.0


@pytest.mark.covers("M19")
def test_faults_in_time_are_caught_and_honest_times_pass() -> None:
    found = timed_outcome()
    assert found.wrong == ()
    assert found.sound
    assert len(found.faults) == len(TIMED_FAULTS) >= 8
    assert set(found.honest) == {one.name for one in TIMED_HONEST}


@pytest.mark.parametrize("fault", TIMED_FAULTS, ids=lambda fault: fault.name)
def test_without_its_fault_no_check_would_say_so(fault: TimedFault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same name with an honest detector behind it is told as missed, in words."""
    monkeypatch.setattr("harness.fixtures.liars_of_time.TIMED_FAULTS", (dataclasses.replace(fault, make=Simulated),))
    found = timed_outcome()
    assert found.faults == {fault.name: False}
    assert found.wrong[0].startswith(f"{fault.name} was not caught: {fault.check} passed")


def test_a_regression_is_told_in_figures() -> None:
    assert held(FivePercentSlower, "regression").reason.startswith("1.04")


def test_one_missed_fault_or_one_wrong_objection_is_not_sound() -> None:
    whole = Outcome("m", {"a": True, "b": True}, {"a": "x", "b": "y"}, {"c": True})
    assert whole.sound
    missed = dataclasses.replace(whole, faults={"a": True, "b": False}, wrong=("b was not caught",))
    assert not missed.sound
    assert missed.kill_rate == 0.5
    assert missed.text().splitlines()[:2] == [
        "b was not caught",
        "kill rate 50%: 1 of 2 faults caught, each by the check named for it",
    ]
    assert not dataclasses.replace(whole, honest={"c": False}).sound


@pytest.mark.alone
def test_a_backend_that_breaks_costs_its_own_job_and_leaves_no_process(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.process_iter()}
    adapters = [word for name in BREAKDOWNS for word in ("--adapter", f"{BREAKING}:{name.upper()}")]
    limits = ("--job-seconds", "20", "--job-memory", "2", "--check", "contract.opens")
    cells = ("--quick", "--model", "tv_fasterrcnn_tiny", "--backend", GRAPH.name, "--variant", VARIANTS[GRAPH.name])
    done = harness("run", *cells, "--out", tmp_path / "run", *adapters, *limits)
    assert done.returncode == 1, done.stderr
    run = read_run(tmp_path / "run")
    told = {record.cell.backend: record for record in run.verdicts}
    for name, (_, words) in BREAKDOWNS.items():
        assert told[name].status is Status.ERRORED
        assert words in told[name].reason
    assert told[GRAPH.name].status is Status.PASSED
    left = [p for p in psutil.process_iter(["cmdline"]) if p.pid not in before and "time.sleep(3600)" in str(p.info["cmdline"])]
    assert left == []
    assert (tmp_path / "run" / "observations").is_dir()
