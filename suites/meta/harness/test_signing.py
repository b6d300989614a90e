"""What a user signed, nobody else can have; what a cache holds of somebody else's is built anew and never opened."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.integrity import demand_whole, seal
from harness.journal import read_run
from harness.observations import read_observation
from harness.signing import is_signed, signature, user_key
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS
from harness.types import Job, Purpose, Status


def test_a_key_is_made_once_and_is_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key"
    key = user_key(path)
    assert user_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["key"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.chmod(0o644),
        lambda path: path.chmod(0o660),
        lambda path: path.write_bytes(b"short"),
        lambda path: path.rename(path.with_name("elsewhere")) and path.symlink_to("elsewhere"),
    ],
    ids=["others read it", "others write it", "cut off", "a link"],
)
def test_a_key_that_others_may_know_is_made_anew(tmp_path: Path, spoil: Any) -> None:
    path = tmp_path / "key"
    key = user_key(path)
    spoil(path)
    other = user_key(path)
    assert other != key
    assert user_key(path) == other


def test_runs_that_begin_at_once_have_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: user_key(tmp_path / "key"), range(32)))) == 1


def test_a_key_that_cannot_be_kept_is_for_one_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert user_key(tmp_path / "file" / "key") != user_key(tmp_path / "file" / "key")


def test_a_signature_is_of_a_key_a_name_and_a_content() -> None:
    given = signature(b"k", "name", b"content")
    assert is_signed(b"k", "name", b"content", f"{given}\n")
    for key, name, content in ((b"o", "name", b"content"), (b"k", "other", b"content"), (b"k", "name", b"other")):
        assert not is_signed(key, name, content, given)
    assert not is_signed(b"k", "name", b"content", "")
    assert not is_signed(b"k", "name", b"content", "ü")


class Marks:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def ran(tmp_path: Path, name: str) -> Any:
    command = [sys.executable, "-m", "harness.cli", "run", "--quick", "--model", "tv_ssdlite_tiny", "--backend", "bentoml_store"]
    command += ["--variant", "pytorch_mended", "--check", "contract.opens", "--cache", str(tmp_path / "shared")]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "user")}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / name)], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = read_run(tmp_path / name)
    (record,) = [found for found in run.verdicts if found.cell.backend == "bentoml_store"]
    assert record.status is Status.PASSED
    return read_observation(tmp_path / name / "observations" / Job(record.cell, Purpose.BUILD).slug).notes


@pytest.mark.filterwarnings(*[mark.args[0] for mark in THEIR_WARNINGS])
def test_a_pickle_that_was_planted_in_a_shared_cache_is_never_run(tmp_path: Path) -> None:
    pytest.importorskip("bentoml")
    ran(tmp_path, "first")
    assert "artifact from the cache" in ran(tmp_path, "second")
    (entry,) = (tmp_path / "shared").glob("*-bentoml_store-*[!e]/artifact")
    mark = tmp_path / "marked"
    evil = pickle.dumps(Marks(mark))
    planted = [path for path in entry.rglob("*") if path.suffix in (".pt", ".pkl")]
    assert {path.name for path in planted} == {"saved_model.pt", "custom_objects.pkl"}
    for path in planted:
        path.write_bytes(evil)
    seal(entry.parent, links=True)
    demand_whole(entry.parent)
    notes = ran(tmp_path, "third")
    assert any("was not opened, and is built anew" in note and "not built by this user" in note for note in notes)
    assert not mark.exists()
    # It would have left one.
    pickle.loads(evil)  # noqa: S301
    assert mark.exists()
