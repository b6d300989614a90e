"""A manifest finds every change of a folder, names the file, and is never half written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.integrity import MANIFEST, Damaged, Manifest, demand_whole, seal, write_whole

pytestmark = pytest.mark.covers("M21")

NAMES = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name not in {".", "..", MANIFEST}
)
FOLDERS = st.dictionaries(NAMES, st.binary(max_size=40), min_size=1, max_size=4)


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / "below" / name).parent.mkdir(exist_ok=True)
        (folder / "below" / name).write_bytes(content)
    seal(folder)
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return written(tmp_path, {"model.bin": bytes(range(100)), "config.json": b"{}"})


@given(FOLDERS)
def test_what_was_sealed_is_whole_and_the_manifest_reads_back(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = written(Path(place), files)
        demand_whole(folder)
        assert Manifest.read(folder) == Manifest.of(folder)
        assert set(Manifest.read(folder).files) == {f"below/{name}" for name in files}


@given(FOLDERS, st.data())
def test_one_changed_byte_anywhere_is_found_and_its_file_alone_is_named(files: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name] or b"\0")
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as root:
        folder = written(Path(root), {**files, name: files[name] or b"\0"})
        (folder / "below" / name).write_bytes(content)
        assert list(Manifest.read(folder).faults(folder)) == [f"below/{name} holds other bytes than were saved"]


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "below/model.bin is cut off: 99 of 100 bytes"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "below/model.bin has 101 bytes instead of 100"),
        (lambda path: path.unlink(), "below/model.bin is missing"),
        (lambda path: path.with_name("more").touch(), "below/more is not in the manifest (extra)"),
        (lambda path: path.with_name(MANIFEST).touch(), f"below/{MANIFEST} is not in the manifest (extra)"),
    ],
)
def test_every_attack_is_named(whole: Path, attack: object, words: str) -> None:
    attack(whole / "below" / "model.bin")  # type: ignore[operator]
    with pytest.raises(Damaged) as caught:
        demand_whole(whole)
    assert words in str(caught.value)
    assert "config.json" not in str(caught.value)


def test_a_link_in_place_of_a_file_is_named_even_where_it_points_to_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    model = whole / "below" / "model.bin"
    model.rename(tmp_path.parent / "elsewhere.bin")
    model.symlink_to(tmp_path.parent / "elsewhere.bin")
    with pytest.raises(Damaged, match=r"below/model.bin is a link and no file"):
        demand_whole(whole)
    with pytest.raises(Damaged, match=r"below/model.bin is a link"):
        seal(whole)


def test_a_link_to_a_folder_is_extra(whole: Path, tmp_path: Path) -> None:
    (whole / "linked").symlink_to(tmp_path / "below", target_is_directory=True)
    with pytest.raises(Damaged, match=r"linked is not in the manifest"):
        demand_whole(whole)


def test_many_faults_are_counted(whole: Path) -> None:
    for index in range(9):
        (whole / f"extra{index}").touch()
    with pytest.raises(Damaged, match=r"extra4 is not .* and 4 more"):
        demand_whole(whole)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "has no manifest.json"),
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ('{"files": {}, "schema_version": 2}', "schema_version"),
        ('{"files": {}, "signed": true}', "signed"),
        ('{"files": {"a": {"size_bytes": -1, "sha256": "' + "0" * 64 + '"}}}', "size_bytes"),
        ('{"files": {"a": {"size_bytes": 1, "sha256": "short"}}}', "sha256"),
    ],
)
def test_a_manifest_that_is_none_is_said(whole: Path, text: str | None, words: str) -> None:
    (whole / MANIFEST).unlink()
    if text is not None:
        (whole / MANIFEST).write_text(text)
    with pytest.raises(Damaged, match=words):
        demand_whole(whole)


@pytest.mark.parametrize("name", ["/etc/passwd", "../out", "a/../../out", "a//b", "./a", "", "a\\..\\b", "a\0b"])
def test_a_manifest_that_names_what_lies_outside_is_refused(whole: Path, name: str) -> None:
    content = {"files": {name: {"size_bytes": 1, "sha256": "0" * 64}}}
    (whole / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(Damaged, match="no path below the folder"):
        demand_whole(whole)


def test_a_reader_beside_a_writer_that_is_killed_never_sees_a_part(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_whole(target, "a" * 100_000)
    code = (
        "import sys; from pathlib import Path; from harness.integrity import write_whole\n"
        "while True:\n for c in 'ab': write_whole(Path(sys.argv[1]), c * 100_000)"
    )
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", code, str(target)])
        seen = set()
        until = time.monotonic() + 20
        while seen != {"a", "b"} and time.monotonic() < until:
            text = target.read_text()
            assert len(text) == 100_000
            assert len(set(text)) == 1
            seen.add(text[0])
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        assert seen == {"a", "b"}
        assert len(set(target.read_text())) == 1


def test_a_write_that_fails_leaves_the_old_content_and_no_rest(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "file", "\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
