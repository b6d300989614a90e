"""The command line: exit codes, errors in words, and nothing lost when a run is cut off."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from harness.journal import read_run
from harness.types import Status

ROOT = Path(__file__).resolve().parents[3]
MODEL = ("--quick", "--model", "tv_fasterrcnn_tiny")
SHORT = (*MODEL, "--backend", "onnxruntime_session", "--check", "contract.opens")


def harness(*words: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--backend", "onnxruntime"], "Did you mean 'onnxruntime_session'?"),
        (["--model", "nothing"], "Valid: d2_cascade_maskrcnn_tiny"),
        (["--variant", "f31"], "Did you mean 'f32'?"),
        (["--device", "tpu"], "Valid: cpu, cuda"),
        (["--check", "parity.boxs"], "Did you mean 'parity.boxes'?"),
        (["--adapter", "nowhere.py:X"], "does not exist"),
        (["--adapter", "nowhere"], "file.py:NAME"),
        (["--quick", "--full"], "exclude each other"),
        (["--waivers", "nowhere"], "holds no waivers"),
        (["--job-seconds", "soon"], "no number above 0"),
        (["--backend", "openvino_ir", "--variant", "pytorch"], "openvino_ir has no variant 'pytorch'"),
        (["--quick", "--check", "throughput.batch_curve"], "timings not of a quick run"),
    ],
)
def test_wrong_words_are_exit_2_and_say_what_is_right(words: list[str], said: str) -> None:
    done = harness("run", *words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_weights_file_with_another_digest_is_refused_before_anything_runs(tmp_path: Path) -> None:
    code = (
        "import dataclasses, sys\nfrom harness import registry\nfrom harness.types import Weights\n"
        "real = registry.models()\n"
        "changed = {k: dataclasses.replace(s, weights=dataclasses.replace(s.weights, sha256='0' * 64)) for k, s in real.items()}\n"
        "registry.models = lambda: changed\n"
        f"sys.argv = ['harness', 'run', *{MODEL!r}, '--out', {str(tmp_path / 'run')!r}]\n"
        "from harness.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "has SHA-256" in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_cannot_be_written_is_exit_2(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = harness("run", *SHORT, "--out", blocked / "run")
    assert done.returncode == 2
    assert "cannot write to" in done.stderr


def test_a_report_of_what_is_no_run_is_exit_2(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_text("{}\n")
    assert harness("report", tmp_path).returncode == 2
    assert harness("report", tmp_path / "absent").returncode == 2


def test_dry_run_prints_the_plan_and_minutes_and_runs_nothing(tmp_path: Path) -> None:
    done = harness("run", *MODEL, "--dry-run", "--out", tmp_path / "run", "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "tv_fasterrcnn_tiny/openvino_ir[f32]@cpu" in done.stdout
    assert "minutes on" in done.stdout
    assert not (tmp_path / "run").exists()
    plan = json.loads(harness("run", *MODEL, "--dry-run", "--json").stdout)
    assert plan["minutes"] > 0
    assert any("parity" in job for job in plan["jobs"])


@pytest.mark.alone
def test_list_takes_under_a_second() -> None:
    def seconds() -> float:
        began = time.monotonic()
        done = harness("list")
        assert done.returncode == 0
        assert "openvino_ir" in done.stdout
        return time.monotonic() - began

    assert statistics.median(seconds() for _ in range(5)) < 1.0


def test_a_run_leaves_a_page_that_is_rendered_again_byte_for_byte(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = harness("run", *SHORT, "--out", out, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert Path(told["page"]).is_file()
    run = read_run(out)
    assert run.cut_off is None
    assert run.counts[Status.MISSING] == 0
    assert {record.status for record in run.verdicts} <= {Status.PASSED, Status.WAIVED}
    first = (out / "page.html").read_bytes()
    assert harness("report", out).returncode == 0
    assert (out / "page.html").read_bytes() == first
    again = harness("run", *SHORT, "--out", out)
    assert again.returncode == 2
    assert "holds a run already" in again.stderr


def test_a_disk_that_fills_before_the_first_job_is_exit_2_and_the_run_says_so(tmp_path: Path) -> None:
    def no_large_file() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    command = [sys.executable, "-m", "harness.cli", "run", *SHORT, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, preexec_fn=no_large_file)
    assert done.returncode == 2
    assert f"cannot write to {tmp_path / 'run'}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot write" in (read_run(tmp_path / "run").cut_off or "")
    assert not (tmp_path / "run" / "work").exists()


def test_required_but_not_checked_is_a_finding_at_the_end_of_what_was_told_on_the_way(tmp_path: Path) -> None:
    done = harness("run", *SHORT, "--require", "openvino_ir", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "] done: tv_fasterrcnn_tiny/" in done.stderr
    assert "required, but not checked: openvino_ir" in done.stderr


def test_at_a_terminal_a_run_shows_how_far_it_came(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "harness.cli", "run", *SHORT, "--out", str(tmp_path / "run")]
    with subprocess.Popen(
        command, stderr=theirs, stdout=subprocess.DEVNULL, cwd=ROOT, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        seen = bytearray()
        with suppress(OSError):  # what reading says once the other end is closed
            while chunk := os.read(ours, 4096):
                seen += chunk
        os.close(ours)
    assert process.returncode == 0
    total = re.search(rb"(\d+) jobs on", seen)
    assert total is not None
    # More than the first line and the last: the jobs were told while tests waited for them.
    shown = {int(number) for number in re.findall(rb"(\d+)/" + total[1], seen)}
    assert len(shown) > 1


def _as_at_a_terminal() -> None:
    """A shell without job control has what it starts in the background ignore Ctrl-C, and so have we been started perhaps."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)], ids=["ctrl-c", "terminated twice"])
def test_an_interrupted_run_is_kept_says_so_and_leaves_no_process(tmp_path: Path, signals: tuple[signal.Signals, ...]) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "harness.cli", "run", *MODEL, "--out", str(out), "--cache", str(tmp_path / "cache")]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=_as_at_a_terminal,  # noqa: PLW1509 - this process has no threads of its own here
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("observations/*/observation.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)
    process.communicate(timeout=60)
    assert process.returncode == 130
    run = read_run(out)
    assert run.cut_off == "interrupted"
    assert run.counts[Status.MISSING] > 0
    assert (out / "page.html").is_file()
    gone, alive = psutil.wait_procs(family, timeout=5)
    assert gone
    assert not alive


def test_two_runs_at_once_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "harness.cli", "run", *SHORT, "--out", str(out)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (out / "run.jsonl").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)  # so that it cannot be done before the second begins
    try:
        second = harness("run", *SHORT, "--out", out)
    finally:
        first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert "another run is using" in second.stderr
    assert first.wait(timeout=180) == 0
