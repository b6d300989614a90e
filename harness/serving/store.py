"""The harness's own route through BentoML's model store: plain files, a manifest, nothing that runs when it is read.

An entry is one of BentoML's (``bentoml models list`` shows it) with the files of `harness.serving.entry` and a manifest. It is
made beside the store and renamed into it when it is whole, so that a kill, a full disk or another writer never leaves a part of
it; it is read only after every file was found to be what was saved.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from filelock import FileLock, Timeout

from harness.archives import Bounds, pack, unpack
from harness.errors import HarnessError, UsageError
from harness.integrity import Damaged, Manifest, demand_whole, seal, write_whole
from harness.serving.bentoml_home import bentoml_home
from harness.serving.entry import Entry, document_of, kept, read_entry
from harness.serving.routes import LIBRARYS, cure_of, is_ours, told_of
from harness.serving.tags import LATEST, Tag

if TYPE_CHECKING:
    from harness.serving.entry import Storable

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StoreFull(HarnessError):
    """There is no room for the entry; the store is as it was."""


class TagTaken(UsageError):
    """An entry of that name and version is there already."""


class NotPlain(UsageError):
    """The entry is of another kind than this store's."""


class NotStored(UsageError):
    """The store has no such entry."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry as a listing shows it: ``damage`` in words where it cannot be used, sizes in bytes; nothing of it was run."""

    tag: Tag
    size_bytes: int
    created: str = ""
    ours: bool = True
    damage: str = ""
    task: str = ""


class PlainStore:
    """A store below ``home``, which is a ``BENTOML_HOME``; any number of processes may use it at once.

    Folders are made where something is stored, not where somebody looks.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._models = home / "models"

    def save(self, name: str, model: Storable) -> Tag:
        """Store the model under ``name`` (a new version) or ``name:version``; it becomes the latest.

        Raises `TagTaken`, `StoreFull`, and `UsageError` for an attachment that cannot be kept without pickling.
        """
        asked = Tag.read(name)
        if asked.version == LATEST:
            raise UsageError(f"{name}: 'latest' is not a version", "Leave it out: a new version becomes the latest.")
        with self._staging() as staging, _room(self.home):
            keeping = kept(model)
            with bentoml_home(staging) as models:
                import bentoml

                with bentoml.models.create(str(asked), labels=keeping.labels, metadata=keeping.metadata) as made:
                    tag = Tag.read(str(made.tag))
                    keeping.write(Path(made.path), str(tag))
            folder = models / tag.name / str(tag.version)
            seal(folder)
            self._publish(folder, tag)
        return tag

    def get(self, text: str) -> Entry:
        """The entry of a tag, a tag's first letters, or the latest of a name; found whole, nothing of it run.

        Raises `NotStored`, `NotPlain`, and `Damaged` naming the files.
        """
        tag, folder = self.find(text)
        if not is_ours(folder) and (folder / LIBRARYS).is_file():
            raise NotPlain(f"{tag} was stored by a route of BentoML's own", cure_of(tag, folder))
        demand_whole(folder)
        return read_entry(tag, folder)

    def find(self, text: str) -> tuple[Tag, Path]:
        """The whole tag of a tag, a tag's first letters, or the latest of a name, and its folder, whoever stored it.

        Nothing of it is read. Raises `NotStored`.
        """
        tag = self._resolve(Tag.read(text))
        return tag, self._folder(tag)

    def list(self) -> list[Listed]:
        """Every entry, damaged and foreign ones too, by tag."""
        return sorted((self._listed(tag) for tag in self._tags()), key=lambda found: found.tag)

    def delete(self, text: str) -> Tag:
        """Remove the entry of a tag, damaged or not; the newest that is left becomes the latest."""
        tag = self._resolve(Tag.read(text))
        with self._staging() as staging, self._lock(tag.name):
            # Away in one step: whoever reads finds it whole or not at all.
            self._folder(tag).rename(staging / "gone")
            self._point(tag.name)
        return tag

    def export(self, text: str, archive: Path) -> Tag:
        """Write the entry to an archive, in the format of its name (`harness.archives.FORMATS`)."""
        entry = self.get(text)
        with _room(archive.parent):
            pack(entry.folder, archive)
        return entry.tag

    def take(self, archive: Path, bounds: Bounds | None = None) -> Tag:
        """Store what `export` wrote, under the tag that it had. Raises `RefusedArchive`, `Damaged`, `TagTaken`, `StoreFull`.

        Nothing of the archive is run.
        """
        with self._staging() as staging, _room(self.home):
            folder = staging / "taken"
            unpack(archive, folder, bounds or Bounds())
            demand_whole(folder)
            tag = Tag.read(str(document_of(folder)["tag"]))
            read_entry(tag, folder)
            self._publish(folder, tag)
        return tag

    def _publish(self, folder: Path, tag: Tag) -> None:
        """Move a whole entry into the store, and make it the latest."""
        target = self._folder(tag)
        target.parent.mkdir(exist_ok=True)
        with self._lock(tag.name):
            if target.exists():
                raise TagTaken(f"the store has {tag} already", "Choose another version, or delete that one first.")
            folder.rename(target)
            self._point(tag.name)

    def _point(self, name: str) -> None:
        """Name the newest whole version of a model as its latest, where BentoML reads it too."""
        newest = self._newest(name)
        if newest is not None:
            write_whole(self._models / name / LATEST, newest)
            return
        (self._models / name / LATEST).unlink(missing_ok=True)
        with suppress(OSError):
            # Not where a torn entry is left.
            (self._models / name).rmdir()

    def _newest(self, name: str) -> str | None:
        """The newest version of a name, entries that are torn left out."""
        listed = [self._listed(tag) for tag in self._tags(name)]
        usable = [found for found in listed if not found.damage]
        return max(usable, key=lambda found: (found.created, found.tag)).tag.version if usable else None

    def _resolve(self, tag: Tag) -> Tag:
        if tag.open:
            with suppress(OSError, UsageError):
                named = Tag(tag.name, (self._models / tag.name / LATEST).read_text(encoding="utf-8").strip())
                if not self._listed(named).damage:
                    return named
            newest = self._newest(tag.name)
            if newest is None:
                raise NotStored(f"the store has no {tag}", self._offer())
            return Tag(tag.name, newest)
        if self._folder(tag).is_dir():
            return tag
        matching = [found for found in self._tags(tag.name) if str(found.version).startswith(str(tag.version))]
        if len(matching) > 1:
            raise NotStored(f"{tag} may be {' or '.join(map(str, matching))}", "Give more of the version.")
        if not matching:
            raise NotStored(f"the store has no {tag}", self._offer())
        return matching[0]

    def _offer(self) -> str:
        return f"It has: {', '.join(sorted(map(str, self._tags()))) or 'nothing'}"

    def _tags(self, name: str | None = None) -> Iterator[Tag]:
        """All that looks like an entry."""
        folders = [self._models / name] if name else sorted(self._models.glob("*"))
        for folder in folders:
            versions = sorted(folder.iterdir()) if folder.is_dir() else []
            for below in versions:
                # A folder that could not be a tag is none of a store's.
                with suppress(UsageError):
                    if below.is_dir():
                        yield Tag(folder.name, below.name)

    def _folder(self, tag: Tag) -> Path:
        return self._models / tag.name / str(tag.version)

    def _listed(self, tag: Tag) -> Listed:
        """One entry without reading its tensors: that all files are there, of the right size, is seen; what they hold is not."""
        folder = self._folder(tag)
        try:
            size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
            if not is_ours(folder):
                created, damage = told_of(folder)
                return Listed(tag, size, created, ours=False, damage=damage)
            document = document_of(folder)
            damage = next(Manifest.read(folder).faults(folder, contents=False), "")
            return Listed(tag, size, str(document["created"]), damage=damage, task=str(document["spec"]["task"]))
        except (Damaged, OSError) as error:
            return Listed(tag, 0, damage=str(error).splitlines()[0])

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        locks = self.home / "locks"
        locks.mkdir(exist_ok=True)
        with FileLock(str(locks / name)):
            yield

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """A folder beside the store, on its disk; those of writers that were killed are removed."""
        self._models.mkdir(parents=True, exist_ok=True)
        root = self.home / "staging"
        root.mkdir(exist_ok=True)
        with FileLock(str(root / "lock")):
            for lock in root.glob("*.lock"):
                _tidy(lock)
            mine = root / f"{os.getpid()}-{uuid4().hex}"
            held = FileLock(str(mine.with_suffix(".lock")))
            held.acquire()
        try:
            mine.mkdir()
            yield mine
        finally:
            shutil.rmtree(mine, ignore_errors=True)
            Path(held.lock_file).unlink(missing_ok=True)
            held.release()


def _tidy(lock: Path) -> None:
    """Remove what a writer left that holds its lock no more."""
    with suppress(Timeout):
        found = FileLock(str(lock))
        found.acquire(timeout=0)
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
        found.release()


@contextmanager
def _room(place: Path) -> Iterator[None]:
    """A disk that is full is said so, whoever found it: safetensors and shutil raise errors of their own."""
    try:
        yield
    except Exception as error:
        why = next((os.strerror(code) for code in _NO_ROOM if os.strerror(code) in str(error)), None)
        if why is None:
            raise
        raise StoreFull(f"there is no room in {place}: {why}", "Free some space; the store is as it was.") from error
