"""The machine, the installed versions, and whether they are the tested ones. Imports no library under test.

What takes a process of its own to find out (does a library work, which devices does it see) is in `harness.doctor`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from harness.registry import checkout_root
from harness.types import digest

UNDER_TEST = ("torch", "torchvision", "detectron2", "bentoml", "openvino", "onnx", "onnxruntime")
"""Distributions whose versions decide what a run says, in the order of the page."""
BESIDE = ("numpy", "scipy", "faster-coco-eval", "nncf", "onnxscript", "setuptools", "pytest", "detection-harness")
"""Distributions that can change an answer or a verdict without being under test."""
_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve")
_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a run took place. ``cores`` are those this process may use, ``memory_bytes`` is the machine's, ``gpus`` are names.

    ``gpu_note`` says in words why ``gpus`` is empty. ``fingerprint`` is equal for machines that this description cannot tell
    apart; it holds no host name and no address.
    """

    cpu: str
    instruction_sets: tuple[str, ...]
    cores: int
    memory_bytes: int
    system: str
    python: str
    gpus: tuple[str, ...]
    gpu_note: str

    @property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of a SHA-256 over the description, memory in whole GiB."""
        facts = asdict(self) | {"memory_bytes": round(self.memory_bytes / _GIB)}
        return digest(facts)[:16]


@dataclass(frozen=True, slots=True)
class Tested:
    """How the installed versions stand to those of constraints.txt. ``inside`` is None where that file cannot be found."""

    inside: bool | None
    differences: tuple[str, ...]

    def __str__(self) -> str:
        if self.inside is None:
            return "unknown: constraints.txt was not found"
        return "inside the tested versions" if self.inside else f"outside the tested versions: {'; '.join(self.differences)}"


def machine() -> Machine:
    """The machine this process runs on; takes a few milliseconds."""
    import psutil

    model, flags = _processor()
    gpus, note = _gpus()
    return Machine(
        cpu=model,
        instruction_sets=tuple(name for name in _INSTRUCTION_SETS if name in flags),
        cores=usable_cores(),
        memory_bytes=int(psutil.virtual_memory().total),
        system=_system(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        gpus=gpus,
        gpu_note=note,
    )


def usable_cores() -> int:
    """How many logical cores this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed(name: str) -> str | None:
    """The version of an installed distribution, read from its metadata; None where it is absent."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions(modules: Iterable[str] = ()) -> dict[str, str]:
    """The installed ones among `UNDER_TEST` and `BESIDE`, in that order, then those of the distributions of these modules."""
    found = {name: installed(name) for name in (*UNDER_TEST, *BESIDE)}
    unknown = sorted({module.partition(".")[0] for module in modules} - found.keys())
    owners = packages_distributions() if any(installed(module) is None for module in unknown) else {}
    others = {name for module in unknown for name in owners.get(module, [module])}
    found |= {name: installed(name) for name in sorted(others)}
    return {name: value for name, value in found.items() if value is not None}


def constraints() -> dict[str, str]:
    """The tested versions by canonical distribution name; empty where constraints.txt cannot be found."""
    path = constraints_file()
    if path is None:
        return {}
    pins: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text:
            requirement = Requirement(text)
            pins[canonicalize_name(requirement.name)] = next(iter(requirement.specifier)).version
    return pins


def constraints_file() -> Path | None:
    """The checkout's constraints.txt, else the copy that the wheel carries beside this module, else None."""
    root = checkout_root()
    candidates = ([] if root is None else [root / "constraints.txt"]) + [Path(__file__).with_name("constraints.txt")]
    return next((path for path in candidates if path.is_file()), None)


def tested() -> Tested:
    """Compare the installed `versions` with constraints.txt."""
    return compared(versions(), constraints())


def compared(found: Mapping[str, str], pins: Mapping[str, str]) -> Tested:
    """Compare versions with pinned ones; local parts such as ``+cu130`` do not count.

    A distribution that is not pinned (Detectron2, this project itself) is left out; without any pin the answer is unknown.
    """
    if not pins:
        return Tested(None, ())
    differences = []
    for name, value in found.items():
        pin = pins.get(canonicalize_name(name))
        if pin is not None and _public(value) != _public(pin):
            differences.append(f"{name} {value} (tested: {pin})")
    return Tested(not differences, tuple(differences))


def _public(text: str) -> str:
    try:
        return Version(text).public
    except InvalidVersion:
        return text


def _processor() -> tuple[str, frozenset[str]]:
    """The processor's name and its instruction-set flags. Linux lists both in /proc; elsewhere the flags stay empty."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    # one block a core, all alike: the first is enough
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.split("\n\n")[0].splitlines())}
    name = facts.get("model name") or facts.get("Model") or platform.processor() or platform.machine()
    return name, frozenset((facts.get("flags") or facts.get("Features") or "").split())


def _system() -> str:
    try:
        release = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        release = ""
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{release} ({kernel})" if release else kernel


def _gpus() -> tuple[tuple[str, ...], str]:
    """The names of NVIDIA GPUs as their driver tells, and in words why there are none."""
    try:
        import pynvml
    except ImportError:
        return (), "nvidia-ml-py is not installed, so no GPU was looked for"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return (), f"no NVIDIA GPU: {error}"
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        names = tuple(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
        driver = str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError as error:
        return (), f"the NVIDIA driver does not answer: {error}"
    finally:
        pynvml.nvmlShutdown()
    return names, f"driver {driver}" if names else "the NVIDIA driver sees no GPU"
