"""What several tests of this project need: a copy of it installed as a stranger has it, from the wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[2]
_SOURCES = ("harness", "fixtures", "reports", "suites", "pyproject.toml", "README.md", "LICENSE", "constraints.txt")


def pytest_configure() -> None:
    """Take Hypothesis's time limit on single examples away: on a busy machine it says nothing about the code."""
    settings.register_profile("house", settings(), deadline=None)
    settings.load_profile("house")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Whatever needs Detectron2 is found by that word, whatever it is called: CI runs these tests where Detectron2 is."""
    if _demanded(item.path) or "detectron" in item.name:
        item.extra_keyword_matches.add("detectron2")


@cache
def _demanded(path: Path) -> bool:
    return re.search(r'^pytest\.importorskip\("detectron2"\)', path.read_text(encoding="utf-8"), re.MULTILINE) is not None


@dataclass(frozen=True, slots=True)
class Installed:
    """A virtual environment that holds the wheel, and sees everything else where these tests found it."""

    bin: Path
    site_packages: Path
    home: Path

    def run(self, *command: str | Path, timeout_s: float = 900.0) -> subprocess.CompletedProcess[str]:
        """Run one of its commands in an empty folder; nothing of the checkout is on its path."""
        hidden = {"PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST"}
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        words = [str(self.bin / command[0]), *map(str, command[1:])]
        return subprocess.run(words, capture_output=True, text=True, cwd=self.home, env=environment, timeout=timeout_s, check=False)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch has one thread, as in a worker: on a few busy cores two of them mostly wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing left by an earlier build gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in _SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own; the libraries are borrowed through a .pth file, because torch twice is 12 GB."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv/bin/python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site_packages = folder / "venv/lib" / version / "site-packages"
    lenders = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (site_packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in lenders))
    (folder / "home").mkdir()
    return Installed(folder / "venv/bin", site_packages, folder / "home")
