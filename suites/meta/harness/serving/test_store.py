"""The harness's own store: what is kept comes back, nothing half-written is served, nothing hostile is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from harness.archives import FORMATS, RefusedArchive, pack, unpack
from harness.cli import main
from harness.digests import comparable
from harness.errors import UsageError
from harness.families import Model
from harness.integrity import Damaged, seal
from harness.serving.store import NotStored, PlainStore, TagTaken
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, came_back, changed_in_memory, state

pytest.importorskip("bentoml")
pytestmark = [pytest.mark.covers("M1", "M3"), *THEIR_WARNINGS]
NAME = "detector"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return changed_in_memory("tv_ssdlite_tiny", tmp_path_factory.mktemp("model") / "source")


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    return PlainStore(tmp_path / "home")


@pytest.fixture(scope="module")
def saved(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two versions of one name and one of another; copied, never changed."""
    home = tmp_path_factory.mktemp("saved") / "home"
    for tag in (f"{NAME}:v1", f"{NAME}:v2", "other:abc"):
        PlainStore(home).save(tag, model)
    return home


@pytest.fixture
def filled(saved: Path, tmp_path: Path) -> tuple[PlainStore, Path]:
    shutil.copytree(saved, tmp_path / "filled")
    return PlainStore(tmp_path / "filled"), tmp_path / "filled" / "models"


def tags(store: PlainStore) -> list[str]:
    return [str(found.tag) for found in store.list()]


def test_everything_comes_back(store: PlainStore, model: Model) -> None:
    before = state(model)
    tag = store.save(NAME, model)
    entry = store.get(str(tag))
    module, config = entry.load()

    class Back:
        attached = entry.attached

    Back.module, Back.config = module, config  # type: ignore[attr-defined]
    back = came_back(model, Back)
    assert back == before
    assert entry.spec == model.spec
    assert entry.differing() == []
    assert state(model) == before


def test_bentoml_itself_finds_it(store: PlainStore, model: Model, tmp_path: Path) -> None:
    tag = store.save(f"{NAME}:v1", model)
    code = (
        "import bentoml, json, sys\n"
        "found = bentoml.models.get(sys.argv[1])\n"
        "print(json.dumps([str(m.tag) for m in bentoml.models.list()]), json.dumps(dict(found.info.labels)),"
        " json.dumps(dict(found.info.metadata)), sep='\\n')"
    )
    home = {"BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, f"{NAME}:latest"],
        env={**os.environ, **home},
        capture_output=True,
        text=True,
        check=True,
    )
    listed, labels, metadata = map(json.loads, done.stdout.splitlines())
    assert listed == [str(tag)]
    assert labels == model.attached["labels"]
    assert metadata == model.attached["metadata"]


def test_tags_are_resolved(filled: tuple[PlainStore, Path]) -> None:
    store, _ = filled
    assert tags(store) == [f"{NAME}:v1", f"{NAME}:v2", "other:abc"]
    for asked, found in {NAME: "v2", f"{NAME}:latest": "v2", f"{NAME}:v1": "v1", "DETECTOR:V1": "v1", "other:a": "abc"}.items():
        assert store.get(asked).tag.version == found
    with pytest.raises(NotStored, match="may be detector:v1 or detector:v2"):
        store.get(f"{NAME}:v")
    for asked in ("nobody", f"{NAME}:v3"):
        with pytest.raises(NotStored, match="It has: detector:v1, detector:v2, other:abc"):
            store.get(asked)
    with pytest.raises(UsageError, match="not a version"):
        store.save("a:latest", None)  # type: ignore[arg-type]


def test_a_tag_is_never_written_over(filled: tuple[PlainStore, Path], model: Model) -> None:
    store, _ = filled
    before = store.get(f"{NAME}:v1")
    with pytest.raises(TagTaken, match="has detector:v1 already"):
        store.save(f"{NAME}:v1", model)
    assert store.get(f"{NAME}:v1").created == before.created
    assert store.get(NAME).tag.version == "v2"


def test_what_is_deleted_is_gone_and_the_newest_left_is_the_latest(filled: tuple[PlainStore, Path]) -> None:
    store, models = filled
    assert str(store.delete(NAME)) == f"{NAME}:v2"
    assert store.get(NAME).tag.version == "v1"
    assert (models / NAME / "latest").read_text() == "v1"
    store.delete(f"{NAME}:v1")
    assert tags(store) == ["other:abc"]
    assert not (models / NAME).exists()
    with pytest.raises(NotStored):
        store.delete(NAME)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_carries_an_entry_to_another_store(filled: tuple[PlainStore, Path], tmp_path: Path, suffix: str) -> None:
    store, models = filled
    archive = tmp_path / f"out{suffix}"
    store.export(f"{NAME}:v1", archive)
    other = PlainStore(tmp_path / "other")
    assert str(other.take(archive)) == f"{NAME}:v1"
    assert other.get(NAME).folder.joinpath("manifest.json").read_bytes() == (models / NAME / "v1" / "manifest.json").read_bytes()
    with pytest.raises(TagTaken):
        other.take(archive)
    other.get(NAME).load()


def test_an_old_entry_that_is_taken_does_not_become_the_latest(filled: tuple[PlainStore, Path], tmp_path: Path) -> None:
    store, _ = filled
    store.export(f"{NAME}:v1", tmp_path / "old.tar")
    store.delete(f"{NAME}:v1")
    store.take(tmp_path / "old.tar")
    assert store.get(NAME).tag.version == "v2"


FILES = ("tensors.safetensors", "detector.json", "objects.npz", "model.yaml", "manifest.json")


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "attack",
    [flip, lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.unlink()],
    ids=["flipped", "cut off", "missing"],
)
def test_every_damage_of_every_file_is_named_and_nothing_is_loaded(filled: tuple[PlainStore, Path], name: str, attack: Any) -> None:
    store, models = filled
    attack(models / NAME / "v1" / name)
    # A flipped bit may turn one digest of the manifest into another: then it is the file that does not fit.
    with pytest.raises(Damaged, match="|".join(FILES) if name == "manifest.json" else name):
        store.get(f"{NAME}:v1")
    assert store.get(f"{NAME}:v2").tag.version == "v2"
    assert tags(store) == [f"{NAME}:v1", f"{NAME}:v2", "other:abc"]


def test_an_extra_file_is_named(filled: tuple[PlainStore, Path]) -> None:
    store, models = filled
    (models / NAME / "v1" / "custom_objects.pkl").write_bytes(b"")
    with pytest.raises(Damaged, match=r"custom_objects.pkl is not in the manifest"):
        store.get(f"{NAME}:v1")


def test_an_entry_that_was_moved_by_hand_is_not_taken_for_another(filled: tuple[PlainStore, Path]) -> None:
    store, models = filled
    shutil.rmtree(models / "other" / "abc")
    (models / NAME / "v1").rename(models / "other" / "abc")
    with pytest.raises(Damaged, match="was saved as detector:v1"):
        store.get("other:abc")


def test_a_torn_entry_of_somebody_else_hides_nothing(filled: tuple[PlainStore, Path]) -> None:
    """What a killed `bentoml` save leaves makes BentoML's own listing fail for everybody; not this one."""
    import bentoml
    from bentoml._internal.models import ModelStore

    store, models = filled
    (models / NAME / "torn").mkdir()
    (models / NAME / "torn" / "saved_model.pth").write_bytes(b"half")
    (models / NAME / "latest").write_text("torn")
    with pytest.raises(bentoml.exceptions.BentoMLException, match="does not contain"):
        ModelStore(models).list()
    assert tags(store) == [f"{NAME}:torn", f"{NAME}:v1", f"{NAME}:v2", "other:abc"]
    assert [found.damage for found in store.list()] == ["it has no whole model.yaml: a save was interrupted", "", "", ""]
    assert store.get(NAME).tag.version == "v2"
    with pytest.raises(Damaged, match="has no manifest"):
        store.get(f"{NAME}:torn")
    store.delete(f"{NAME}:torn")
    assert store.get(NAME).tag.version == "v2"
    assert len(ModelStore(models).list()) == 3


class Marks:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_a_pickle_in_an_archive_is_never_run(filled: tuple[PlainStore, Path], tmp_path: Path) -> None:
    store, _ = filled
    store.export(f"{NAME}:v1", tmp_path / "good.tar")
    unpack(tmp_path / "good.tar", tmp_path / "evil")
    mark = tmp_path / "marked"
    (tmp_path / "evil" / "custom_objects.pkl").write_bytes(pickle.dumps(Marks(mark)))
    np.savez(tmp_path / "evil" / "objects.npz", array0=np.array([Marks(mark)], dtype=object))
    # It says of itself that it is whole: a manifest proves nothing about who wrote it.
    seal(tmp_path / "evil")
    pack(tmp_path / "evil", tmp_path / "evil.tar")
    other = PlainStore(tmp_path / "other")
    with pytest.raises(Damaged, match=r"objects.npz of .* cannot be read: ValueError: .*pickle"):
        other.take(tmp_path / "evil.tar")
    assert other.list() == []
    assert not mark.exists()
    pickle.loads((tmp_path / "evil" / "custom_objects.pkl").read_bytes())  # noqa: S301 - it would have run
    assert mark.exists()


def without(key: str) -> Callable[[Path], None]:
    """``detector.json`` as a writer leaves it that forgot one key."""
    return lambda folder: edited(folder, lambda document: {name: value for name, value in document.items() if name != key})


def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "detector.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def saying(**changed: Any) -> Callable[[Path], None]:
    return lambda folder: edited(folder, lambda document: {**document, **changed})


def arrays(write: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda folder: write(folder / "objects.npz")


def of_an_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


KEPT = ("labels", "metadata", "signatures", "custom_objects")
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    **{
        f"no {key}": (without(key), "detector.json")
        for key in (
            "spec",
            "tag",
            "created",
            "config",
            "config_text",
            "labels",
            "metadata",
            "signatures",
            "custom_objects",
            "versions",
        )
    },
    "a list": (lambda folder: edited(folder, lambda document: [document]), "detector.json"),
    "versions that are text": (saying(versions="1.0"), "detector.json"),
    "a configuration that is a number": (saying(config=3), "detector.json"),
    "a tag that is none": (saying(tag="../up"), "detector.json"),
    "an array that is not there": (saying(custom_objects={"a": {"\0array": "array77"}}), "array77"),
    "an array of no name": (saying(custom_objects={"a": {"\0array": []}}), "detector.json"),
    "arrays of objects": (arrays(lambda path: np.savez(path, array0=np.array([print], dtype=object))), "objects.npz"),
    "one array": (arrays(of_an_array), "objects.npz"),
    "no arrays": (arrays(lambda path: path.write_bytes(b"")), "objects.npz"),
    "text for arrays": (arrays(lambda path: path.write_bytes(b"PK\3\4 and nothing else")), "objects.npz"),
}
"""What an archive may hold that says of itself that it is whole, and the file that is to blame."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_archive_that_is_whole_and_makes_no_sense_is_told_in_words(
    filled: tuple[PlainStore, Path], tmp_path: Path, damage: str
) -> None:
    store, models = filled
    spoil, names = DAMAGES[damage]
    spoil(models / NAME / "v1")
    seal(models / NAME / "v1")
    pack(models / NAME / "v1", tmp_path / "in.tar")
    done = CliRunner().invoke(main, ["store", "import", str(tmp_path / "in.tar"), "--store", str(tmp_path / "other")])
    assert (done.exit_code, type(done.exception)) == (Damaged.exit_code, SystemExit), done.exception
    assert names in done.output
    assert "\n  Nothing of it was loaded." in done.output or "\n  Save" in done.output
    assert PlainStore(tmp_path / "other").list() == []
    # Nor does it hide the others where it lies.
    assert tags(store) == [f"{NAME}:v1", f"{NAME}:v2", "other:abc"]


def test_tensors_that_cannot_be_read_are_named(filled: tuple[PlainStore, Path]) -> None:
    store, models = filled
    (models / NAME / "v1" / "tensors.safetensors").write_bytes(b"\xff" * 100)
    seal(models / NAME / "v1")
    with pytest.raises(Damaged, match=r"tensors.safetensors of v1 cannot be read(.|\n)*Save the model again"):
        store.get(f"{NAME}:v1").load()


def test_an_entry_of_ours_without_its_document_is_damaged_and_not_the_librarys(filled: tuple[PlainStore, Path]) -> None:
    store, models = filled
    (models / NAME / "v2" / "detector.json").unlink()
    listed = {found.tag.version: found for found in store.list() if found.tag.name == NAME}
    assert listed["v2"].ours
    assert "detector.json" in listed["v2"].damage
    assert (models / NAME / "latest").read_text() == "v2"
    assert store.get(NAME).tag.version == "v1"


def test_a_batch_dimension_is_a_pair_and_stays_one(store: PlainStore, model: Model) -> None:
    signatures = {"__call__": {"batchable": True, "batch_dim": (1, 0)}, "other": {"batchable": True, "batch_dim": 0}}
    store.save(NAME, replace(model, attached={"signatures": signatures}))
    assert comparable(store.get(NAME).attached["signatures"]) == comparable(signatures)
    # A list would come back as the tuple that it was not.
    with pytest.raises(UsageError, match="batch_dim of '__call__' comes back as a tuple"):
        store.save(NAME, replace(model, attached={"signatures": {"__call__": {"batch_dim": [0, 0]}}}))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("custom_objects", {"fine": [1], "live": object()}, "custom object 'live', a object"),
        ("custom_objects", {"code": print}, "'code'"),
        ("custom_objects", {"pair": (1, 2)}, "'pair', a tuple"),
        ("custom_objects", {"keys": {1: "a"}}, "'keys', a dict"),
        ("custom_objects", {"nested": {"deep": [np.array([None])]}}, "'nested'"),
        ("custom_objects", {"trick": {"\0array": "array0"}}, "'trick'"),
        ("metadata", {"set": {1}}, "metadata: 'set'"),
        ("labels", {"pair": (1,)}, "labels: 'pair'"),
        ("signatures", {"__call__": {"batch_dim": ({1}, 0)}}, "signatures: '__call__'"),
        ("signatures", {"__call__": {"other": (0, 0)}}, "signatures: '__call__'"),
    ],
)
def test_what_would_not_come_back_equal_is_refused_and_named(
    store: PlainStore, model: Model, key: str, value: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        store.save(NAME, replace(model, attached={**model.attached, key: value}))
    assert store.list() == []


def test_objects_of_every_kept_kind_come_back_equal(store: PlainStore, model: Model) -> None:
    objects = {
        "array": np.arange(6, dtype=np.int16).reshape(2, 3),
        "nested": {"deep": [np.zeros((0, 4), np.float32), "text", 1.5, None, True, {"empty": {}}]},
        "scalar": np.array(7.5),
        "nan": float("nan"),
    }
    store.save(NAME, replace(model, attached={"custom_objects": objects}))
    back = store.get(NAME).attached
    assert comparable(back["custom_objects"]) == comparable(objects)
    assert back["labels"] == back["metadata"] == back["signatures"] == {}


def test_another_version_of_a_package_is_named(filled: tuple[PlainStore, Path]) -> None:
    store, models = filled
    path = models / NAME / "v1" / "detector.json"
    document = json.loads(path.read_text())
    document["versions"] |= {"torch": "1.0", "gone": "3"}
    path.write_text(json.dumps(document))
    seal(path.parent)
    torch, gone = store.get(f"{NAME}:v1").differing()
    assert torch.startswith("torch 1.0 when it was saved, ")
    assert gone == "gone 3 when it was saved, not installed here"


def test_a_newer_schema_is_said(filled: tuple[PlainStore, Path]) -> None:
    store, models = filled
    path = models / NAME / "v1" / "detector.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9', 1))
    seal(path.parent)
    with pytest.raises(Damaged, match="schema version 9"):
        store.get(f"{NAME}:v1")


def test_a_foreign_archive_is_refused_in_words(store: PlainStore, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model.yaml").write_text("name: a")
    pack(tmp_path / "in", tmp_path / "foreign.tar.xz")
    with pytest.raises(Damaged, match="was not written by this project"):
        store.take(tmp_path / "foreign.tar.xz")
    (tmp_path / "none.zip").write_bytes(b"PK")
    with pytest.raises(RefusedArchive):
        store.take(tmp_path / "none.zip")
    assert store.list() == []
