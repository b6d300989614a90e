"""What BentoML's own routes make of hostile archives, of damaged files and of evil pickles: observed as it is, and told.

Told in docs/findings.md, bentoml-no-integrity; what the harness's own store makes of the same is `test_store` and `test_archives`.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.serving.bentoml_home import bentoml_home
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS
from harness.suites.meta.harness.test_archives import HOSTILE, MARK
from harness.tracing import expected_warnings

bentoml = pytest.importorskip("bentoml")
pytestmark = [pytest.mark.covers("M1", "M3", "M21"), *THEIR_WARNINGS]

REFUSED = {
    "parent": ValueError,
    "deeper parent": ValueError,
    "parent in zip": ValueError,
    "absolute in zip": ValueError,
    "soft link": KeyError,
    "soft link, then through it": KeyError,
    "hard link": KeyError,
    "device": AttributeError,
    "block device": AttributeError,
    "pipe": AttributeError,
    "no name": IsADirectoryError,
}
"""Hostile archives that `bentoml.models.import_model` refuses, none of them in words of its own; all others it takes."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "home").mkdir()
    with bentoml_home(tmp_path / "home"):
        yield tmp_path / "home"


def with_an_entry(archive: Path, description: bytes) -> None:
    """``model.yaml`` as the last member, without which nothing would be imported."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "a") as found:
            found.writestr("model.yaml", description)
        return
    with tarfile.open(archive, "a") as tar:
        info = tarfile.TarInfo("model.yaml")
        info.size = len(description)
        tar.addfile(info, io.BytesIO(description))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_leaves_no_mark_outside_the_store(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bentoml.models.create("good:v1"):
        pass
    description = Path(bentoml.models.get("good:v1").path_of("model.yaml")).read_bytes().replace(b"good", b"hostile")
    place = tmp_path / "deep" / "place"
    place.mkdir(parents=True)
    archive = HOSTILE[name][0](place)
    with_an_entry(archive, description)
    (tmp_path / "deep" / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "deep" / "scratch"))
    if name in REFUSED:
        with pytest.raises(REFUSED[name]):
            bentoml.models.import_model(str(archive))
        assert [str(found.tag) for found in bentoml.models.list()] == ["good:v1"]
    else:
        bentoml.models.import_model(str(archive))
        assert [str(found.tag) for found in bentoml.models.list()] == ["good:v1", "hostile:v1"]
    inside = {home / "models" / "hostile", tmp_path / "deep" / "scratch"}
    marks = [path for path in (*tmp_path.rglob("*marked*"), MARK) if path.exists() and not inside & {*path.parents}]
    assert marks == []
    assert not [path for path in (home / "models").rglob("*") if path.is_symlink()]


def of_detectron(tag: str) -> tuple[str, Any]:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    config = get_cfg()
    config.MODEL.DEVICE = "cpu"
    net = config.MODEL.RESNETS
    net.STEM_OUT_CHANNELS, net.WIDTH_PER_GROUP, net.RES2_OUT_CHANNELS = 8, 4, 16
    stored = bentoml.detectron.save_model(tag, build_model(config), config=config)
    return "saved_model.pth", lambda: bentoml.detectron.load_model(stored.tag).state_dict()


def of_pytorch(tag: str) -> tuple[str, Any]:
    import torch

    stored = bentoml.pytorch.save_model(tag, torch.nn.Linear(100, 100))
    return "saved_model.pt", lambda: bentoml.pytorch.load_model(stored.tag, weights_only=False).state_dict()


def of_torchscript(tag: str) -> tuple[str, Any]:
    import torch

    stored = bentoml.torchscript.save_model(tag, torch.jit.trace(torch.nn.Linear(100, 100), torch.ones(1, 100)))
    return "saved_model.pt", lambda: bentoml.torchscript.load_model(stored.tag).state_dict()


def of_onnx(tag: str) -> tuple[str, Any]:
    import numpy as np
    import onnx
    import torch
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(1).normal(size=(100, 100)).astype(np.float32)
    given, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [100, 100]) for name in ("x", "y"))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [given], [out], [numpy_helper.from_array(weight, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    stored = bentoml.onnx.save_model(tag, model)

    def answer() -> dict[str, Any]:
        session = bentoml.onnx.load_model(stored.tag, providers=["CPUExecutionProvider"])
        return {"y": torch.tensor(session.run(None, {"x": np.eye(100, dtype=np.float32)})[0])}

    return "saved_model.onnx", answer


ROUTES: dict[str, Callable[[str], tuple[str, Any]]] = {
    "bentoml.pytorch": of_pytorch,
    "bentoml.torchscript": of_torchscript,
    "bentoml.onnx": of_onnx,
    "bentoml.detectron": of_detectron,
}


def flipped(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x40
    path.write_bytes(raw)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "flipped": flipped,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "missing": lambda path: path.unlink(),
    "extra": lambda path: path.with_name("more.bin").write_bytes(b"more"),
}
SAID = {
    "bentoml.pytorch": {"flipped": "other", "cut off": "OSError", "missing": "FileNotFoundError", "extra": "same"},
    "bentoml.torchscript": {"flipped": "other", "cut off": "RuntimeError", "missing": "ValueError", "extra": "same"},
    "bentoml.onnx": {"flipped": "other", "cut off": "InvalidProtobuf", "missing": "NoSuchFile", "extra": "same"},
    "bentoml.detectron": {"flipped": "other", "cut off": "RuntimeError", "missing": "AssertionError", "extra": "same"},
}
"""What is raised, by route and damage; "other" where it is loaded without a word and is another, "same" where it is the same."""


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("route", ROUTES)
def test_what_each_route_makes_of_each_damage(route: str, damage: str, home: Path) -> None:
    import torch

    if route == "bentoml.detectron":
        pytest.importorskip("detectron2")
    with expected_warnings():
        name, load = ROUTES[route]("small:v1")
        before = load()
        DAMAGES[damage](home / "models" / "small" / "v1" / name)
        try:
            after = load()
        except Exception as error:  # noqa: BLE001 - whatever is raised is what is told
            found = type(error).__name__
        else:
            equal = before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
            found = "same" if equal else "other"
    assert found == SAID[route][damage]
    # Nothing of it is seen before it is loaded.
    assert [str(one.tag) for one in bentoml.models.list()] == ["small:v1"]


class Marks:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("suffix", [".bentomodel", ".tar", ".zip"])
def test_listing_getting_exporting_and_importing_unpickle_nothing_and_opening_does(home: Path, tmp_path: Path, suffix: str) -> None:
    name, load = of_pytorch("evil:v1")
    folder, mark = home / "models" / "evil" / "v1", tmp_path / "marked"
    for file in (name, "custom_objects.pkl"):
        (folder / file).write_bytes(pickle.dumps(Marks(mark)))
    archive = str(tmp_path / f"evil{suffix}")
    bentoml.models.list()
    bentoml.models.get("evil:v1")
    bentoml.models.export_model("evil:v1", archive)
    bentoml.models.delete("evil:v1")
    bentoml.models.import_model(archive)
    bentoml.pytorch.get("evil:latest")
    assert [str(one.tag) for one in bentoml.models.list()] == ["evil:v1"]
    assert not mark.exists()
    for opened in (lambda: bentoml.models.get("evil:v1").custom_objects, load):
        with suppress(Exception):
            opened()
        assert mark.is_dir()
        shutil.rmtree(mark)
