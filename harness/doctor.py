"""Does each library work here, and which devices does it see? Asked in processes of their own, so that a crash is an answer.

The answers cost seconds; `devices_cached` gives the last ones, for listings that must import nothing.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from harness.environment import UNDER_TEST, Machine, Tested, installed, machine, tested, usable_cores, versions
from harness.types import digest

DETECTRON2_COMMIT = "02b5c4e2"
DETECTRON2_INSTALL = (
    "pip install --no-build-isolation 'setuptools<81' 'git+https://github.com/facebookresearch/detectron2.git@"
    f"{DETECTRON2_COMMIT}' after torch is installed "
    "(its guide: https://detectron2.readthedocs.io/tutorials/install.html)"
)
_IMPORTS = {
    "bentoml": ("bentoml", "bentoml.models", "bentoml.legacy"),
    "detectron2": ("detectron2", "detectron2._C", "detectron2.model_zoo", "detectron2.engine"),
}
_TIMEOUT_S = 180.0
_DEVICE_PROBE = """
import json, warnings
warnings.simplefilter("ignore")
import torch
found = {"torch": ["cpu"] + [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]}
try:
    import openvino
    found["openvino"] = list(openvino.Core().available_devices)
except ImportError:
    pass
try:
    import onnxruntime
    found["onnxruntime"] = list(onnxruntime.get_available_providers())
except ImportError:
    pass
print(json.dumps(found))
"""

State = Literal["works", "absent", "broken"]


@dataclass(frozen=True, slots=True)
class Library:
    """One library under test: ``cause`` and ``cure`` are sentences, empty where it works."""

    name: str
    state: State
    version: str | None
    cause: str = ""
    cure: str = ""

    def __str__(self) -> str:
        head = f"{self.name} {self.version or ''}".strip()
        return f"{head}: {self.state}" + (f": {self.cause}. {self.cure}" if self.cause else "")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that ``harness env`` says. ``devices`` lists by runtime what it can see; empty where torch does not work."""

    machine: Machine
    versions: dict[str, str]
    tested: Tested
    libraries: tuple[Library, ...]
    devices: dict[str, list[str]]

    def json(self) -> dict[str, object]:
        """As plain JSON values."""
        plain: dict[str, object] = asdict(self)
        return plain | {"fingerprint": self.machine.fingerprint}


def diagnose(cache: Path) -> Diagnosis:
    """Examine everything, and keep the devices in the folder ``cache`` for `devices_cached`. Takes some seconds a library."""
    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        libraries = tuple(pool.map(examine, UNDER_TEST))
    works = {library.name for library in libraries if library.state == "works"}
    devices = probe_devices(cache) if "torch" in works else {}
    return Diagnosis(machine(), versions(), tested(), libraries, devices)


def present(module: str) -> bool:
    """Whether a top-level module can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


def examine(name: str, timeout_s: float = _TIMEOUT_S) -> Library:
    """Import a library in a fresh process and say whether it works, is absent, or is installed but broken, and what to do."""
    if not present(name):
        return Library(name, "absent", None, f"{name} is not installed", f"Install it: {install_words(name)}")
    code = "; ".join(f"import {module}" for module in _IMPORTS.get(name, (name,)))
    try:
        # -P keeps the current folder off the path: a folder named like the library must not stand in for it
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Library(name, "broken", installed(name), f"importing it takes more than {timeout_s:.0f} s", _reinstall(name))
    if done.returncode == 0:
        return Library(name, "works", installed(name))
    cause = _cause(done.returncode, done.stderr)
    return Library(name, "broken", installed(name), cause, cure(name, cause))


def install_words(name: str) -> str:
    """The command that installs a library under test, or what its installation guide says."""
    return DETECTRON2_INSTALL if name == "detectron2" else f"pip install {name}"


def cure(name: str, cause: str) -> str:
    """What to do about a library that is installed but fails to import with ``cause`` (the last line of its traceback)."""
    if "pkg_resources" in cause:
        return "pkg_resources left setuptools at version 81: pip install 'setuptools<81'"
    if name == "detectron2" and any(sign in cause for sign in ("undefined symbol", "_C", "libtorch", "libc10")):
        torch = installed("torch") or "(absent)"
        return f"Its extension was built for another torch than {torch}; build it again: {DETECTRON2_INSTALL}"
    if name == "torchvision":
        return "torch and torchvision are not a pair: pip install --force-reinstall torch torchvision"
    return _reinstall(name)


def probe_devices(cache: Path) -> dict[str, list[str]]:
    """Ask every runtime for its devices, in a fresh process, and keep the answer in ``cache``; empty where that process fails."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _DEVICE_PROBE], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        return {}
    devices: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    cache.mkdir(parents=True, exist_ok=True)
    _device_file(cache).write_text(json.dumps(devices, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return devices


def devices_cached(cache: Path) -> dict[str, list[str]] | None:
    """What `probe_devices` last found for this machine and these versions; None where nobody has asked yet."""
    try:
        found: dict[str, list[str]] = json.loads(_device_file(cache).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _device_file(cache: Path) -> Path:
    return cache / f"devices-{digest([machine().fingerprint, versions()])[:16]}.json"


def _cause(returncode: int, stderr: str) -> str:
    if returncode < 0:
        return f"importing it ends the process with signal {-returncode}"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"importing it exits with {returncode} and says nothing"


def _reinstall(name: str) -> str:
    return f"Install it again: {install_words(name)}" if name == "detectron2" else f"pip install --force-reinstall {name}"
