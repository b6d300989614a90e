"""What is said of a library that is absent, broken or slow: cause and cure, found out in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import doctor
from harness.doctor import cure, devices_cached, examine, probe_devices


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on this process's and its children's path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def test_a_library_that_works() -> None:
    assert examine("numpy").state == "works"


def test_a_library_that_is_absent_says_how_to_install_it() -> None:
    found = examine("no_such_library")
    assert (found.state, found.version) == ("absent", None)
    assert "pip install no_such_library" in str(found)


@pytest.mark.parametrize(
    ("text", "cause", "advice"),
    [
        ("raise ImportError('/x/_C.so: undefined symbol: _ZN3c10')", "undefined symbol", "--no-build-isolation"),
        ("raise ValueError('another reason')", "another reason", "Install it again"),
        ("import os; os.abort()", "signal 6", "Install it again"),
        ("import sys; sys.exit(7)", "exits with 7", "Install it again"),
    ],
)
def test_a_broken_detectron2_is_told_with_cause_and_cure(package: Path, text: str, cause: str, advice: str) -> None:
    (package / "detectron2").mkdir()
    (package / "detectron2" / "__init__.py").write_text(text + "\n")
    assert_told(package, cause, advice)


def test_the_real_detectron2_without_pkg_resources_is_told(package: Path) -> None:
    pytest.importorskip("detectron2")
    (package / "pkg_resources.py").write_text("raise ModuleNotFoundError(\"No module named 'pkg_resources'\")\n")
    assert_told(package, "No module named 'pkg_resources'", "pip install 'setuptools<81'")


def assert_told(package: Path, cause: str, advice: str) -> None:
    """Examine Detectron2 in a process on whose path ``package`` comes first."""
    root = Path(doctor.__file__).resolve().parents[1]
    path = os.pathsep.join([str(package), str(root)])
    code = "from harness.doctor import examine; print(examine('detectron2'))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path})
    assert "broken" in done.stdout
    assert cause in done.stdout
    assert advice in done.stdout


def test_a_library_that_never_ends_importing_is_broken(package: Path) -> None:
    (package / "sleepy_library.py").write_text("import time; time.sleep(60)\n")
    found = examine("sleepy_library", timeout_s=1.0)
    assert found.state == "broken"
    assert "more than 1 s" in found.cause


def test_torch_and_torchvision_that_are_no_pair() -> None:
    assert "torch and torchvision are not a pair" in cure("torchvision", "operator torchvision::nms does not exist")


def test_devices_are_unknown_until_somebody_asks(tmp_path: Path) -> None:
    assert devices_cached(tmp_path) is None
    found = probe_devices(tmp_path)
    assert "cpu" in found["torch"]
    assert devices_cached(tmp_path) == found


def test_a_damaged_note_of_the_devices_is_unknown(tmp_path: Path) -> None:
    probe_devices(tmp_path)
    (note,) = tmp_path.iterdir()
    note.write_text("{")
    assert devices_cached(tmp_path) is None
