"""What is packed comes back; what is hostile is refused whole, and leaves no mark on disk."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.archives import FORMATS, Bounds, RefusedArchive, pack, unpack
from harness.errors import HarnessError, UsageError

pytestmark = pytest.mark.covers("M21")

MARK = Path(tempfile.gettempdir()) / f"marked-by-a-hostile-archive-{os.getpid()}"

NAMES = st.text(st.characters(categories=["L", "N"], include_characters=" .-_"), min_size=1, max_size=8).filter(
    lambda name: name.strip(". ") == name and name.isprintable()
)
TREES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=30), min_size=1, max_size=4)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, held in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(held)
    return folder


def fits(files: dict[str, bytes]) -> bool:
    names = {name.casefold() for name in files}
    parents = {parent.as_posix().casefold() for name in files for parent in Path(name).parents}
    return len(names) == len(files) and not names & parents


@given(TREES.filter(fits), st.sampled_from(FORMATS))
@settings(deadline=None)
def test_every_format_brings_every_file_back(files: dict[str, bytes], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        archive = root / f"a{suffix}"
        pack(written(root / "in", files), archive)
        unpack(archive, root / "out")
        assert content(root / "out") == files


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_content_makes_the_same_members(tmp_path: Path, suffix: str) -> None:
    for name in ("one", "two"):
        folder = written(tmp_path / name, {"b/c": b"1", "a": b"2"})
        os.utime(folder / "a", (len(name), hash(name) % 1000))
        pack(folder, tmp_path / f"{name}{suffix}")
    unpack(tmp_path / f"one{suffix}", tmp_path / "back")
    pack(tmp_path / "back", tmp_path / f"three{suffix}")
    members = [listed(tmp_path / f"{name}{suffix}") for name in ("one", "two", "three")]
    assert members[0] == members[1] == members[2] == ["a", "b/c"]


def listed(archive: Path) -> list[str]:
    if archive.suffix == ".zip":
        return zipfile.ZipFile(archive).namelist()
    with tarfile.open(archive) as tar:
        return tar.getnames()


def tar_of(*members: tarfile.TarInfo, payload: bytes = b"mark") -> Callable[[Path], Path]:
    def make(place: Path) -> Path:
        with tarfile.open(place / "hostile.tar", "w") as tar:
            good = tarfile.TarInfo("good.txt")
            good.size = 4
            tar.addfile(good, io.BytesIO(b"good"))
            for info in members:
                info.size = len(payload) if info.isreg() else 0
                tar.addfile(info, io.BytesIO(payload) if info.isreg() else None)
        return place / "hostile.tar"

    return make


def zip_of(*names: str, mode: int = stat.S_IFREG | 0o644, payload: bytes = b"mark") -> Callable[[Path], Path]:
    def make(place: Path) -> Path:
        with zipfile.ZipFile(place / "hostile.zip", "w", zipfile.ZIP_DEFLATED) as found:
            found.writestr("good.txt", "good")
            for name in names:
                info = zipfile.ZipInfo("x")
                info.filename, info.external_attr = name, mode << 16
                found.writestr(info, payload, zipfile.ZIP_DEFLATED)
        return place / "hostile.zip"

    return make


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


HOSTILE = {
    "parent": (tar_of(member("../marked")), "leads out"),
    "deeper parent": (tar_of(member("a/../../marked")), "leads out"),
    "parent in zip": (zip_of("../marked"), "leads out"),
    "foreign parent": (zip_of("..\\marked"), "leads out"),
    "absolute": (tar_of(member(str(MARK))), "absolute"),
    "absolute in zip": (zip_of(str(MARK)), "absolute"),
    "drive": (zip_of("C:marked"), "absolute"),
    "backslash": (tar_of(member("a\\marked")), "backslash"),
    "soft link": (tar_of(member("link", tarfile.SYMTYPE, "..")), "is a link"),
    "soft link, then through it": (tar_of(member("link", tarfile.SYMTYPE, ".."), member("link/marked")), "is a link"),
    "hard link": (tar_of(member("link", tarfile.LNKTYPE, "/etc/passwd")), "is a link"),
    "link in zip": (zip_of("link", mode=stat.S_IFLNK | 0o777, payload=b".."), "is a link"),
    "device": (tar_of(member("null", tarfile.CHRTYPE)), "is a device or pipe"),
    "block device": (tar_of(member("disk", tarfile.BLKTYPE)), "is a device or pipe"),
    "pipe": (tar_of(member("pipe", tarfile.FIFOTYPE)), "is a device or pipe"),
    "pipe in zip": (zip_of("pipe", mode=stat.S_IFIFO | 0o644), "is a device or pipe"),
    "unknown kind": (tar_of(member("odd", b"Q")), "is a member of an unknown kind"),
    "twice": (tar_of(member("good.txt")), "is in it twice"),
    "twice, in another case": (zip_of("GOOD.txt"), "is in it twice"),
    "a file where a folder is": (tar_of(member("a/b"), member("a")), "cannot be read"),
    "too deep": (tar_of(member("/".join("a" * 40))), "too deep"),
    "escape sequences": (tar_of(member("\x1b[2Jmarked")), "no path that can be written"),
    "no name": (zip_of("."), "no path"),
    "too many": (tar_of(*(member(f"{index}") for index in range(30))), "more than 20 files"),
    "too large": (tar_of(member("large"), payload=bytes(2_000_000)), "may be a bomb"),
    "too large in all": (tar_of(*(member(str(index)) for index in range(9)), payload=bytes(150_000)), "may be a bomb"),
    "too large, deflated": (zip_of("large", payload=bytes(2_000_000)), "may be a bomb"),
}
BOUNDS = Bounds(total_bytes=1_000_000, members=20)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_whole_and_leave_no_mark(tmp_path: Path, name: str) -> None:
    make, words = HOSTILE[name]
    place = tmp_path / "deep" / "place"
    place.mkdir(parents=True)
    archive = make(place)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RefusedArchive, match=words) as caught:
        unpack(archive, place / "out", BOUNDS)
    assert "Nothing of it was unpacked" in str(caught.value)
    assert str(archive) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert not MARK.exists()


@pytest.mark.parametrize("name", ["parent", "soft link, then through it", "absolute", "parent in zip"])
def test_a_reader_that_trusts_would_have_been_marked(tmp_path: Path, name: str) -> None:
    """The attacks are real: Python's own extraction without a filter, or a naive join, writes outside."""
    place = tmp_path / "deep" / "place" / "out"
    place.mkdir(parents=True)
    archive = HOSTILE[name][0](tmp_path / "deep")
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as found:
            for info in found.infolist():
                (place / info.filename).write_bytes(found.read(info))
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(place, filter="fully_trusted")  # noqa: S202 - what must not be done
    marks = [path for path in (place.parent / "marked", MARK) if path.exists()]
    assert marks
    for path in marks:
        path.unlink()


def test_a_size_that_lies_is_found_while_it_is_read(tmp_path: Path) -> None:
    archive = zip_of("large", payload=bytes(2_000_000))(tmp_path)
    raw = archive.read_bytes()
    # In the local header and in the central directory: 2,000,000 becomes 20.
    archive.write_bytes(raw.replace((2_000_000).to_bytes(4, "little"), (20).to_bytes(4, "little")))
    with pytest.raises(RefusedArchive):
        unpack(archive, tmp_path / "out", BOUNDS)
    assert not (tmp_path / "out").exists()


def test_a_header_that_is_a_bomb_does_not_fill_the_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 300 * 2**20
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=1) as file:
        file.write(header.tobuf())
        for _ in range(300):
            file.write(bytes(2**20))
    assert (tmp_path / "bomb.tar.gz").stat().st_size < 3 * 2**20
    tracemalloc.start()
    try:
        with pytest.raises(RefusedArchive, match="header is larger"):
            unpack(tmp_path / "bomb.tar.gz", tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_archive_cut_off_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    pack(written(tmp_path / "in", {"a": os.urandom(5_000), "b": os.urandom(5_000)}), tmp_path / f"whole{suffix}")
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    for share in (0.0, 0.1, 0.3, 0.5):
        (tmp_path / f"part{suffix}").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(RefusedArchive, match="cannot be read"):
            unpack(tmp_path / f"part{suffix}", tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in", f"part{suffix}", f"whole{suffix}"]


def test_links_are_not_packed(tmp_path: Path) -> None:
    folder = written(tmp_path / "in", {"a": b"1"})
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(RefusedArchive, match="link is no plain file"):
        pack(folder, tmp_path / "out.tar")
    assert not (tmp_path / "out.tar").exists()


@pytest.mark.parametrize("name", ["model", "model.rar", ".tar.gz", "model.gz"])
def test_a_name_of_no_format_is_refused_with_those_that_are(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    for attempt in (lambda: pack(tmp_path, tmp_path / name), lambda: unpack(tmp_path / name, tmp_path / "out")):
        with pytest.raises(RefusedArchive, match=r"Valid: \.tar, "):
            attempt()


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    pack(written(tmp_path / "in", {"a": b"1"}), tmp_path / "a.tar")
    written(tmp_path / "out", {"mine": b"2"})
    with pytest.raises(UsageError, match="is there already"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert content(tmp_path / "out") == {"mine": b"2"}
    with pytest.raises(RefusedArchive, match="there is no file"):
        unpack(tmp_path / "none.tar", tmp_path / "new")


def test_an_archive_that_cannot_be_written_leaves_no_part(tmp_path: Path) -> None:
    written(tmp_path / "in", {"a": b"1"})
    (tmp_path / "taken.tar").mkdir()
    with pytest.raises(HarnessError, match="cannot be written"):
        pack(tmp_path / "in", tmp_path / "taken.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "taken.tar"]
