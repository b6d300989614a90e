"""The cache of built artifacts, by content: weights, spec, build options, adapter's source, versions of everything they use.

An entry holds ``artifact/`` (what the adapter wrote), ``source/`` (the checkpoint the model was read from) and ``build/`` (the
build's observation). `harness.integrity` lists every file of it, and the list is written last: an entry without one was never
finished, one that does not fit is damaged, and both are built again. So is one that this user did not build on this machine: an
artifact may hold pickles, which run whatever they say, and a list can be made by anybody. `harness.signing` tells.
"""

from __future__ import annotations

import inspect
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
from filelock import FileLock, Timeout

from harness.errors import HarnessError, InvalidRun
from harness.integrity import MANIFEST, Damaged, Manifest, demand_whole, write_whole
from harness.observations import read_observation, write_observation
from harness.signing import is_signed, signature, user_key
from harness.types import digest

if TYPE_CHECKING:
    from harness.plan import PlannedCell
    from harness.types import Observation

_HARNESS = Path(__file__).resolve().parent
_MAKERS = (
    "perturb.py",
    "orders.py",
    "building.py",
    "worker.py",
    "sessions.py",
    "digests.py",
    "tracing.py",
    "integrity.py",
    "archives.py",
)
_ROOMS = ("families", "serving")
"""Files of this project, beside the adapter, that decide what an artifact and its build observation hold."""

_PATIENCE_S = 0.5


class Foreign(HarnessError):
    """An entry that somebody else made, or that was brought here from elsewhere."""


class Artifacts:
    """The cache under ``root``; ``versions`` are the installed versions of every package that could matter.

    ``key`` signs entries; by default it is the user's own, in the user's cache folder, wherever ``root`` is.
    """

    def __init__(
        self,
        root: Path,
        versions: Mapping[str, str],
        adapters: Mapping[str, Any],
        seed: int,
        deck_sha256: str,
        key: bytes | None = None,
    ) -> None:
        self._root = root
        self._given = key
        self._versions = dict(versions)
        self._adapters = adapters
        self._seed = seed
        self._deck_sha256 = deck_sha256

    @contextmanager
    def held(self, planned: PlannedCell, stop: threading.Event) -> Iterator[Path | None]:
        """The entry's folder, locked against every other run; None when ``stop`` was set before another let go."""
        folder = self._root / self.key(planned)
        self._root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(folder) + ".lock")
        while not lock.is_locked:
            if stop.is_set():
                yield None
                return
            with suppress(Timeout):
                lock.acquire(timeout=_PATIENCE_S)
        try:
            folder.mkdir(exist_ok=True)
            self._put_back(folder)
            yield folder
        finally:
            lock.release()

    def key(self, planned: PlannedCell) -> str:
        """The entry's name: readable, then a digest of all that decides its content."""
        adapter = self._adapters[planned.cell.backend]
        # Whatever lies beside the adapter may be part of it.
        beside = Path(inspect.getfile(type(adapter))).parent.glob("*.py")
        rooms = (path for room in _ROOMS for path in sorted((_HARNESS / room).glob("*.py")))
        sources = [*sorted(beside), *(_HARNESS / name for name in _MAKERS), *rooms]
        content = {
            "spec": [planned.spec.id, planned.spec.family, dict(planned.spec.config), planned.spec.weights.sha256],
            "answers": [planned.spec.score_threshold, planned.spec.detection_cap, planned.spec.classes],
            "build": dict(planned.variant.build),
            "sources": [sha256(path.read_bytes()).hexdigest() for path in sources],
            "versions": self._versions,
            "python": sys.version,
            "seed": self._seed,
            "deck": self._deck_sha256,
        }
        return f"{planned.cell.model}-{planned.cell.backend}-{planned.variant.id}-{digest(content)[:20]}"

    def knows(self, planned: PlannedCell) -> bool:
        """Whether the cell's artifact is in the cache (not whether it is whole: that is seen when it is used)."""
        return planned.runs and self._is_ours(self._root / self.key(planned))

    @staticmethod
    def artifact(folder: Path) -> Path:
        """What the adapter wrote."""
        return folder / "artifact"

    @staticmethod
    def source(folder: Path) -> Path:
        """The checkpoint's folder."""
        return folder / "source"

    def kept_build(self, folder: Path) -> Observation | None:
        """The build's observation where the entry is whole; None where it was never finished.

        Raises `harness.integrity.Damaged`, naming the files, where it is not as it was kept, and `Foreign` where somebody else
        made it. Nothing of it is opened.
        """
        if not self.is_built(folder):
            return None
        if not self._is_ours(folder):
            raise Foreign(f"{folder.name} was not built by this user on this machine")
        demand_whole(folder)
        try:
            return read_observation(folder / "build")
        except InvalidRun as error:
            raise Damaged(f"{folder.name}/build cannot be read: {error.what}") from error

    def keep_build(self, folder: Path, observation: Observation) -> None:
        """Make the entry whole."""
        write_observation(folder / "build", observation)
        manifest = Manifest.of(folder, links=True)
        # The list is written last: an entry without one was never finished.
        write_whole(_signed(folder), signature(self._key, folder.name, manifest.text.encode()))
        manifest.write(folder)

    def is_built(self, folder: Path) -> bool:
        """Whether the entry is whole, without reading it all."""
        return (folder / MANIFEST).is_file()

    @cached_property
    def _key(self) -> bytes:
        return self._given or user_key(platformdirs.user_cache_path("detection-harness") / "artifacts.key")

    def _is_ours(self, folder: Path) -> bool:
        """Whether the entry's manifest bears this user's signature."""
        try:
            return is_signed(self._key, folder.name, (folder / MANIFEST).read_bytes(), _signed(folder).read_text())
        except (OSError, UnicodeDecodeError):
            return False

    def clear(self, folder: Path) -> None:
        """Empty the entry; whoever is killed at it leaves one that was never finished, not a damaged one."""
        (folder / MANIFEST).unlink(missing_ok=True)
        _signed(folder).unlink(missing_ok=True)
        shutil.rmtree(folder)
        folder.mkdir()

    @contextmanager
    def away(self, folder: Path, *, artifact: bool, source: bool) -> Iterator[None]:
        """Take the artifact from where it was built, and the source checkpoint, for the time of a job."""
        for place, absent in ((self.artifact(folder), artifact), (self.source(folder), source)):
            if absent:
                place.rename(_away(place))
        try:
            yield
        finally:
            self._put_back(folder)

    def _put_back(self, folder: Path) -> None:
        """Put back what was taken away, also after a run that was killed meanwhile."""
        for place in (self.artifact(folder), self.source(folder)):
            if _away(place).is_dir():
                shutil.rmtree(place, ignore_errors=True)
                _away(place).rename(place)


def _signed(folder: Path) -> Path:
    """Beside the entry, which its manifest lists whole."""
    return folder.with_name(f"{folder.name}.signature")


def _away(place: Path) -> Path:
    return place.with_name(f"{place.name}.away")
