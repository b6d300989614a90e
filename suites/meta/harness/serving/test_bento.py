"""A Bento of a stored detector: built without a network, imported elsewhere, served from there; its faults are told."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.checks.differences import unequal
from harness.errors import HarnessError, UsageError
from harness.families import Model
from harness.serving.answers import from_json
from harness.serving.bento import build_bento, service_of, take_bento
from harness.serving.pictures import encoded
from harness.serving.server import serving
from harness.serving.settings import Settings
from harness.serving.store import NotStored, PlainStore
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, changed_in_memory, expected, pictures
from harness.suites.meta.harness.serving.test_service import post

pytest.importorskip("bentoml")
pytestmark = [
    pytest.mark.covers("M1", "M5"),
    pytest.mark.skipif(
        not (find_spec("uv") or shutil.which("uv")), reason="uv is not installed, and bentoml build would install it"
    ),
    *THEIR_WARNINGS,
]
TAG = "packed:v1"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return changed_in_memory("tv_retinanet_tiny", tmp_path_factory.mktemp("model") / "source")


@pytest.fixture(scope="module")
def store(model: Model, tmp_path_factory: pytest.TempPathFactory) -> PlainStore:
    found = PlainStore(tmp_path_factory.mktemp("store"))
    found.save(TAG, model)
    return found


@pytest.fixture(scope="module")
def archive(store: PlainStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("out") / "detector.bento"
    before = sorted(path for path in store.home.rglob("*") if path.is_file())
    build_bento(store, TAG, file)
    assert sorted(path for path in store.home.rglob("*") if path.is_file()) == before
    return file


def test_what_was_imported_elsewhere_answers_as_the_stored_model(model: Model, archive: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    bento = take_bento(archive, home)
    assert [str(found.tag) for found in PlainStore(home).list() if found.ours and not found.damage] == [TAG]
    with serving(bento, Settings("", home, "secret", threads=1), tmp_path / "log") as server:
        assert post(f"{server.url}/detect", encoded(pictures()[0]), token=None).status == 401
        for picture, wanted in zip(pictures(), expected(model), strict=True):
            reply = post(f"{server.url}/detect", encoded(picture), token="secret")  # noqa: S106 - of a server on loopback
            assert reply.status == 200
            assert not unequal(wanted, from_json(json.loads(reply.body), model.spec))
    assert server.processes() == []


# BentoML's own classes, as pydantic sees them.
@pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__`")
def test_in_a_container_the_model_lies_in_the_bento(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    name, version = take_bento(archive, home).split(":")
    bento = home / "bentos" / name / version
    shutil.move(home / "models", bento / "models")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "elsewhere"))
    served = service_of(str(bento / "src" / "service.py"), TAG).inner()
    assert served.about()["tag"] == TAG


def test_an_image_can_install_this_package_from_the_bento(
    store: PlainStore, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What this shell says of a server is not for the service that is built.
    monkeypatch.setenv("HARNESS_SERVE_TOKEN", "")
    build_bento(store, TAG, tmp_path / "detector.bento", wheel)
    home = tmp_path / "home"
    name, version = take_bento(tmp_path / "detector.bento", home).split(":")
    bento = home / "bentos" / name / version
    asked = (bento / "env/python/requirements.txt").read_text().splitlines()
    assert f"./wheels/{wheel.name}" in asked
    assert not [line for line in asked if line.startswith("detection-harness")]
    steps = (bento / "env/docker/Dockerfile").read_text()
    copied = re.search(r"^COPY .*\./src/wheels \./src/wheels$", steps, re.MULTILINE)
    installed = re.search(r"uv --directory \$INSTALL_ROOT pip install -r \$BENTO_PATH/env/python/requirements.txt", steps)
    assert copied
    assert installed
    assert copied.start() < installed.start()
    # As the image does, with nothing to ask and in a folder of its own.
    (tmp_path / "asked").write_text(f"./wheels/{wheel.name}\n")
    uv = [sys.executable, "-m", "uv"] if find_spec("uv") else ["uv"]
    words = ["--directory", str(bento / "src"), "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*uv, *words, "--target", str(tmp_path / "site"), "-r", str(tmp_path / "asked")], check=True)
    assert (tmp_path / "site/harness/serving/bento.py").is_file()


def test_what_is_no_wheel_of_this_package_is_told(store: PlainStore, tmp_path: Path) -> None:
    (tmp_path / "torch-2.0-py3-none-any.whl").write_text("")
    for file in ("torch-2.0-py3-none-any.whl", "detection_harness-0.1.0-py3-none-any.whl"):
        with pytest.raises(UsageError, match="is no wheel of detection-harness\n  Make one in its checkout"):
            build_bento(store, TAG, tmp_path / "out.bento", tmp_path / file)


@pytest.mark.parametrize(
    ("tag", "name", "error", "words"),
    [
        (TAG, "detector.rar", UsageError, "names no format of a Bento"),
        (TAG, "there.bento", UsageError, "is there already"),
        ("absent", "out.bento", NotStored, "the store has no absent"),
    ],
)
def test_what_cannot_be_built_is_told(
    store: PlainStore, tmp_path: Path, tag: str, name: str, error: type[HarnessError], words: str
) -> None:
    (tmp_path / "there.bento").write_text("")
    with pytest.raises(error, match=words):
        build_bento(store, tag, tmp_path / name)


def test_what_is_no_bento_is_told(tmp_path: Path) -> None:
    (tmp_path / "text.bento").write_text("no archive")
    with pytest.raises(HarnessError, match="bentoml import ended with status"):
        take_bento(tmp_path / "text.bento", tmp_path / "home")
