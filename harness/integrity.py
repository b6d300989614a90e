"""Manifests: every file of a folder with its size and SHA-256, so that damage is named before anything of it is used.

A manifest says what was written, not who wrote it: it finds accidents, and whoever can change a file can change the manifest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath
from typing import Annotated
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from harness.errors import HarnessError

MANIFEST = "manifest.json"
"""The file's name, beside what it lists."""

_NAMED = 5
"""So many faults stand in a message; of the others their number."""


class Damaged(HarnessError):
    """A folder is not what its manifest says; the message names the files."""


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or path.as_posix() != name or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is no path below the folder")
    return name


class FileEntry(BaseModel):
    """One file: its size in bytes and its ``sha256`` in hexadecimal; of a ``link`` those of the path that it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    link: bool = False

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """The entry of a file, or of a link, as it lies there."""
        if path.is_symlink():
            held = os.fsencode(path.readlink())
            return cls(sha256=sha256(held).hexdigest(), size_bytes=len(held), link=True)
        with path.open("rb") as file:
            return cls(sha256=file_digest(file, "sha256").hexdigest(), size_bytes=file.tell())


class Manifest(BaseModel):
    """What a folder holds: files by their path relative to it, with ``/`` between the parts. Empty folders do not count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Annotated[int, Field(ge=1, le=1)] = 1
    files: Mapping[Annotated[str, AfterValidator(_inside)], FileEntry]

    @classmethod
    def of(cls, folder: Path, *, links: bool = False) -> Manifest:
        """The manifest of a folder as it is, a manifest in it left out.

        Raises `Damaged` for what is no plain file; with ``links``, a link is listed by what it says, wherever that leads.
        """
        files = {}
        for path in _below(folder):
            name = path.relative_to(folder).as_posix()
            if not (links if path.is_symlink() else path.is_file()):
                raise Damaged(f"{folder.name}/{name} is a {_kind(path)}", "A manifest lists plain files; store what it points to.")
            files[name] = FileEntry.of(path)
        return cls(files=files)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in ``folder``. Raises `Damaged` where there is none that can be read."""
        try:
            return cls.model_validate_json((folder / MANIFEST).read_bytes())
        except FileNotFoundError as error:
            raise Damaged(
                f"{folder.name} has no {MANIFEST}", "What wrote it was interrupted, or it was not written by this project."
            ) from error
        except (ValidationError, OSError) as error:
            raise Damaged(f"{MANIFEST} of {folder.name} cannot be read: {_first_line(error)}", "Save it again.") from error

    def write(self, folder: Path) -> None:
        """Write it into ``folder``, all of it or nothing."""
        write_whole(folder / MANIFEST, self.text)

    @property
    def text(self) -> str:
        """What `write` writes."""
        return self.model_dump_json(indent=1)

    def faults(self, folder: Path, *, contents: bool = True) -> Iterator[str]:
        """What of ``folder`` is not as listed, a sentence a file, in the order of their names.

        Without ``contents`` no file is read: names and sizes alone are compared.
        """
        found = {path.relative_to(folder).as_posix(): path for path in _below(folder)}
        for name in sorted(self.files.keys() | found.keys()):
            entry, path = self.files.get(name), found.get(name)
            if entry is None:
                yield f"{name} is not in the manifest (extra)"
            elif path is None:
                yield f"{name} is missing"
            else:
                words = _unlike(entry, path, contents=contents)
                if words:
                    yield f"{name} {words}"

    def demand(self, folder: Path) -> None:
        """Raises `Damaged`, naming the files, unless ``folder`` is exactly what is listed."""
        faults = list(self.faults(folder))
        if faults:
            more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
            cure = "It was changed after it was saved: nothing of it was loaded. Save it again, or take a whole copy."
            raise Damaged(f"{folder.name} is damaged: {'; '.join(faults[:_NAMED])}{more}", cure)


def seal(folder: Path, *, links: bool = False) -> None:
    """Write the manifest of all that lies in ``folder`` now, as `Manifest.of` makes it."""
    Manifest.of(folder, links=links).write(folder)


def demand_whole(folder: Path) -> None:
    """Raises `Damaged` unless ``folder`` has a manifest and is exactly what that lists."""
    Manifest.read(folder).demand(folder)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, and whoever comes after a kill, finds the old content or the new, never a part."""
    part = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with part.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _below(folder: Path) -> list[Path]:
    """All that is no folder, links to folders included, but the manifest."""
    return [path for path in folder.rglob("*") if (path.is_symlink() or not path.is_dir()) and path != folder / MANIFEST]


def _unlike(entry: FileEntry, path: Path, *, contents: bool) -> str:
    if path.is_symlink() != entry.link or not (path.is_symlink() or path.is_file()):
        return f"is a {_kind(path)} and no {'link' if entry.link else 'file'}"
    size = path.lstat().st_size
    if size < entry.size_bytes:
        return f"is cut off: {size} of {entry.size_bytes} bytes"
    if size > entry.size_bytes:
        return f"has {size} bytes instead of {entry.size_bytes}"
    return "" if not contents or FileEntry.of(path) == entry else "holds other bytes than were saved"


def _kind(path: Path) -> str:
    if path.is_symlink():
        return "link"
    return "file" if path.is_file() else "special file"


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".lstrip(": ")
    return str(error)
