"""A folder as one file, and back again; what comes from outside is unpacked whole or refused whole.

Only plain files and folders are ever written, by this module itself: a link, a device, a path that leads out, a second file of
the same name or a bomb ends it before anything appears under the name that was asked for. Nothing that is unpacked is run.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, Literal
from uuid import uuid4

from harness.errors import HarnessError, UsageError

_OPENERS: dict[str, Callable[[Path, Literal["rb", "wb"]], Any]] = {
    ".tar": lambda path, mode: path.open(mode),
    ".tar.gz": gzip.open,
    ".tar.xz": lzma.open,
    ".tar.bz2": bz2.open,
}
FORMATS = (*_OPENERS, ".zip")
"""By the end of the archive's name."""

_CHUNK_BYTES = 2**20
_HEADERS_BYTES = 2**20
"""So much a tar file may say of one member: names of any length are read whole before anybody can look at them."""

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
"""What Python's readers raise for a file that is no archive, is cut off or uses what they do not know."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RefusedArchive(UsageError):
    """An archive of which nothing was unpacked; the message names the member that is to blame."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an archive may unpack to, at most: bytes in all its files, files and folders in number, parts of a path."""

    total_bytes: int = 8 * 2**30
    members: int = 10_000
    depth: int = 32


def pack(folder: Path, archive: Path) -> None:
    """Write all of ``folder`` to ``archive``, in the format of its name, replacing nothing that is not whole.

    The same content gives the same members in the same order. Raises `RefusedArchive` for a name of no format, and for a folder
    that holds a link or a special file; `HarnessError` where it cannot be written.
    """
    suffix = _format(archive)
    files = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    for path in files:
        if path.is_symlink() or not path.is_file():
            raise RefusedArchive(f"{path.relative_to(folder)} is no plain file", "Store what it points to.")
    part = archive.with_name(f".{archive.name}.{uuid4().hex}{suffix}")
    try:
        (_write_zip if suffix == ".zip" else _write_tar)(folder, files, part)
        part.replace(archive)
    except OSError as error:
        raise HarnessError(
            f"{archive} cannot be written: {error.strerror or error}", "Free some space, or name another place."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def unpack(archive: Path, folder: Path, bounds: Bounds = Bounds()) -> None:
    """Make ``folder``, which must not be there yet, of what ``archive`` holds.

    Raises `RefusedArchive`, and leaves nothing behind, for an archive that is hostile, damaged or too large.
    """
    suffix = _format(archive)
    if not archive.is_file():
        raise RefusedArchive(f"there is no file {archive}", "Name an archive that is there.")
    if folder.exists():
        raise UsageError(f"{folder} is there already", "Name a folder that is not.")
    staging = folder.with_name(f".{folder.name}.{uuid4().hex}")
    staging.mkdir()
    try:
        with _explained(archive):
            _write_members(_zip_members(archive) if suffix == ".zip" else _tar_members(archive, suffix), staging, bounds)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Member:
    """One file or folder of an archive before it is believed: ``declared_bytes`` is what its header says."""

    name: str
    is_folder: bool
    declared_bytes: int
    open: Callable[[], IO[bytes]]
    fault: str = ""


def _write_members(members: Iterator[_Member], staging: Path, bounds: Bounds) -> None:
    left, seen = bounds.total_bytes, set[str]()
    for number, member in enumerate(members, start=1):
        if number > bounds.members:
            raise RefusedArchive(f"it holds more than {bounds.members:,} files", "Ask whoever made it.")
        fault = member.fault or _leads_out(member.name, bounds)
        name = PurePosixPath(member.name).as_posix()
        if fault:
            raise RefusedArchive(f"{member.name!r} {fault}", "It was not made by an export; do not trust where it comes from.")
        if member.is_folder:
            (staging / name).mkdir(parents=True, exist_ok=True)
            continue
        # Two names that differ in case alone are one file on some systems.
        if name.casefold() in seen:
            raise RefusedArchive(f"{member.name!r} is in it twice", "It was not made by an export.")
        seen.add(name.casefold())
        if member.declared_bytes > left:
            raise _too_large(bounds)
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, (staging / name).open("xb") as target:
            while chunk := source.read(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise _too_large(bounds)
                target.write(chunk)


def _too_large(bounds: Bounds) -> RefusedArchive:
    return RefusedArchive(
        f"it unpacks to more than {bounds.total_bytes / 2**30:.3g} GiB", "No detector is so large: it may be a bomb."
    )


def _leads_out(name: str, bounds: Bounds) -> str:
    """What is wrong with a member's path; nothing where it stays below the folder, on every system."""
    path, foreign = PurePosixPath(name), PureWindowsPath(name)
    if not path.parts or not name.isprintable():
        return "is no path that can be written"
    if path.is_absolute() or foreign.drive or foreign.root:
        return "is an absolute path"
    if ".." in path.parts or ".." in foreign.parts:
        return "leads out of the folder"
    if "\\" in name:
        return "has a backslash in its name"
    return "lies too deep" if len(path.parts) > bounds.depth else ""


def _tar_members(archive: Path, suffix: str) -> Iterator[_Member]:
    """In one pass, so that no more is decompressed than is looked at."""
    with _OPENERS[suffix](archive, "rb") as plain:
        capped: Any = _Capped(plain)
        with tarfile.open(fileobj=capped, mode="r|") as tar:
            for info in tar:
                capped.allow(info.size)
                fault = "" if (info.isreg() and not info.issparse()) or info.isdir() else f"is a {_tar_kind(info)}"
                yield _Member(info.name, info.isdir(), info.size, _opener(tar, info), fault)


def _opener(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        found = tar.extractfile(info)
        if found is None:
            raise tarfile.ReadError(f"{info.name} has no content")
        return found

    return opened


def _tar_kind(info: tarfile.TarInfo) -> str:
    return "link" if info.issym() or info.islnk() else "device or pipe" if info.isdev() else "member of an unknown kind"


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as found:
        for info in found.infolist():
            mode = info.external_attr >> 16
            special = stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR)
            fault = f"is a {'link' if stat.S_ISLNK(mode) else 'device or pipe'}" if special else ""
            yield _Member(
                # Python's own reader turns backslashes into slashes on Windows alone.
                info.orig_filename,
                info.is_dir(),
                info.file_size,
                partial(found.open, info),
                fault or ("is encrypted" if info.flag_bits & 1 else ""),
            )


class _Capped:
    """A stream of which no more is read than the member before declared, and the next one's header."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.allow(0)

    def allow(self, size_bytes: int) -> None:
        """From here on so much, and a header."""
        self._left = size_bytes + _HEADERS_BYTES

    def read(self, size: int) -> bytes:
        """As a file does."""
        found = self._source.read(size)
        self._left -= len(found)
        if self._left < 0:
            raise RefusedArchive(f"a member's header is larger than {_HEADERS_BYTES:,} bytes", "It may be a bomb.")
        return found


def _write_tar(folder: Path, files: list[Path], target: Path) -> None:
    with _OPENERS[_format(target)](target, "wb") as plain, tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in files:
            info = tar.gettarinfo(path, path.relative_to(folder).as_posix())
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = ""
            with path.open("rb") as content:
                tar.addfile(info, content)


def _write_zip(folder: Path, files: list[Path], target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as found:
        for path in files:
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix())
            info.external_attr, info.compress_type = (stat.S_IFREG | 0o644) << 16, zipfile.ZIP_DEFLATED
            with path.open("rb") as source, found.open(info, "w", force_zip64=True) as member:
                shutil.copyfileobj(source, member, _CHUNK_BYTES)


def _format(archive: Path) -> str:
    for suffix in FORMATS:
        if archive.name.endswith(suffix) and archive.name != suffix:
            return suffix
    raise RefusedArchive(f"{archive.name} has no ending that says its format", f"Valid: {', '.join(FORMATS)}")


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    """Whatever a reader raises names the archive and says that nothing was unpacked."""
    try:
        yield
    except RefusedArchive as error:
        raise RefusedArchive(f"{archive} is refused: {error.what}", f"Nothing of it was unpacked. {error.cure}") from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise HarnessError(f"there is no room to unpack {archive}: {error.strerror}", "Free some space.") from error
        cure = "Nothing of it was unpacked. Fetch it again."
        raise RefusedArchive(f"{archive} cannot be read: {type(error).__name__}: {error}", cure) from error
