"""A Bento of one stored detector: the model, and a service for it, as ``bentoml serve`` and ``bentoml containerize`` take them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, UsageError
from harness.serving.settings import Settings, without_settings

if TYPE_CHECKING:
    from harness.serving.store import PlainStore

NAME = "detector"
"""What every Bento made here is called; its version is BentoML's."""

_ENDINGS = (".bento", ".tar.gz", ".tar", ".zip")
_THIS = "detection-harness"
_WHEELS = "wheels"
"""Where BentoML, which allows no other name, looks for files to install."""

_PACKAGES = ("bentoml", "safetensors", "torch", "torchvision", "pandas", "opencv-python-headless")
_SERVICE = """\
from harness.serving.bento import service_of

DetectorService = service_of(__file__, {tag!r})
"""


def build_bento(store: PlainStore, text: str, archive: Path, wheel: Path | None = None) -> str:
    """Build a Bento of the entry of a tag and export it to ``archive``; returns the Bento's tag.

    ``wheel`` is this package's own file, put into the Bento for ``bentoml containerize`` to install, which else looks for the
    package on an index. The store is left as it was, and no package is looked up or downloaded. Raises `UsageError` where there is
    something at ``archive``, its name ends otherwise than BentoML's formats do, or ``wheel`` is no wheel of this package, and
    `HarnessError` with what BentoML said.
    """
    if not archive.name.endswith(_ENDINGS):
        raise UsageError(f"{archive.name} names no format of a Bento", f"End it in one of {', '.join(_ENDINGS)}.")
    if archive.exists():
        raise UsageError(f"{archive} is there already", "Name another file, or remove that one.")
    if wheel is not None:
        _look_at(wheel)
    entry = store.get(text)
    with TemporaryDirectory(prefix="harness-bento-") as folder:
        home, context = Path(folder) / "home", Path(folder) / "context"
        shutil.copytree(entry.folder, home / "models" / entry.tag.name / str(entry.tag.version))
        context.mkdir()
        (context / "service.py").write_text(_SERVICE.format(tag=str(entry.tag)))
        # JSON is YAML too.
        (context / "bentofile.yaml").write_text(json.dumps(_build_file(str(entry.tag), wheel), indent=1))
        if wheel is not None:
            (context / _WHEELS).mkdir()
            shutil.copy(wheel, context / _WHEELS)
        # In its folder: BentoML reads no build file outside of the one that it is started in.
        tag = _bentoml(home, "build", "--output", "tag", folder=context).strip().splitlines()[-1].removeprefix("__tag__:")
        archive.parent.mkdir(parents=True, exist_ok=True)
        _bentoml(home, "export", tag, str(archive.resolve()))
    return tag


def take_bento(archive: Path, home: Path) -> str:
    """Import what `build_bento` exported into the ``BENTOML_HOME`` ``home``; returns its tag. What is in it is not run.

    Raises `HarnessError` with what BentoML said.
    """
    before = _bentos(home)
    _bentoml(home, "import", str(archive.resolve()))
    (tag,) = _bentos(home) - before
    return tag


def service_of(file: str, tag: str) -> Any:
    """The service class of a Bento whose service stands in ``file``: its model lies in the Bento, or where it was imported to."""
    import bentoml

    from harness.serving.service import detector_service

    root = Path(file).resolve().parents[1]
    inside = {"BENTOML_HOME": str(root)} if (root / "models").is_dir() else {}
    # An image is built of what it is told to include before packages are installed, and of the rest after.
    image = bentoml.images.Image().build_include(_WHEELS) if (Path(file).parent / _WHEELS).is_dir() else None
    return detector_service(Settings.of({**os.environ, "HARNESS_SERVE_TAG": tag, **inside}), image)


def _look_at(wheel: Path) -> None:
    wanted = f"{_THIS.replace('-', '_')}-"
    if not (wheel.is_file() and wheel.name.startswith(wanted) and wheel.suffix == ".whl"):
        raise UsageError(f"{wheel} is no wheel of {_THIS}", "Make one in its checkout: pip wheel --no-deps --wheel-dir dist .")


def _build_file(tag: str, wheel: Path | None) -> dict[str, Any]:
    packages = [f"{name}=={found}" for name in _PACKAGES if (found := _installed(name))]
    packages.append(f"{_THIS}=={_installed(_THIS)}" if wheel is None else f"./{_WHEELS}/{wheel.name}")
    return {
        "service": "service:DetectorService",
        "name": NAME,
        "include": ["service.py", f"{_WHEELS}/*"],
        "models": [tag],
        "python": {"packages": packages, "lock_packages": False},
    }


def _installed(package: str) -> str:
    try:
        # A local label (+cpu) names a build that an index need not have.
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return ""


def _bentos(home: Path) -> set[str]:
    return {f"{path.parent.name}:{path.name}" for path in (home / "bentos").glob("*/*") if path.is_dir()}


def _bentoml(home: Path, *words: str, folder: Path | None = None) -> str:
    """BentoML's own command; what it printed."""
    # `build` makes the service once: what this shell says of another one is not for it.
    environment = {**without_settings(os.environ), "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    home.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", *words], capture_output=True, text=True, env=environment, cwd=folder or home, check=False
    )
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-500:]
        raise HarnessError(f"bentoml {words[0]} ended with status {done.returncode}: {said}")
    return done.stdout
