"""Stores through the command line: BentoML's own commands on entries of its routes, `harness store` on ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.archives import FORMATS
from harness.cli import main
from harness.digests import restoration
from harness.families import Model, family
from harness.serving.bentoml_home import bentoml_home
from harness.serving.store import PlainStore
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, changed_in_memory
from harness.tracing import expected_warnings

pytest.importorskip("bentoml")
pytestmark = [pytest.mark.covers("M1", "M3"), *THEIR_WARNINGS]
TAGS = ("graph:v1", "mine:v1", "theirs:v1", "theirs:v2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return changed_in_memory("tv_ssdlite_tiny", tmp_path_factory.mktemp("model") / "source")


@pytest.fixture(scope="module")
def filled(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Entries of two routes of the library's and one of ours; copied, never changed."""
    import torch

    home = tmp_path_factory.mktemp("filled") / "home"
    PlainStore(home).save("mine:v1", model)
    with bentoml_home(home), expected_warnings():
        import bentoml

        for version in ("v1", "v2"):
            bentoml.pytorch.save_model(f"theirs:{version}", torch.nn.Linear(2, 2), labels={"team": version}, metadata={"a": [1]})
        bentoml.torchscript.save_model("graph:v1", torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)))
    return home


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Path:
    shutil.copytree(filled, tmp_path / "home")
    return tmp_path / "home"


def librarys(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``bentoml models ...`` as a user types it."""
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-W", "ignore", "-m", "bentoml", "models", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def ours(home: Path, *words: str) -> Result:
    """``harness store ...``."""
    return CliRunner().invoke(main, ["store", *words, "--store", str(home)])


def listed(home: Path) -> list[str]:
    done = librarys(home, "list", "-o", "json")
    assert done.returncode == 0, done.stderr
    return sorted(found["tag"] for found in json.loads(done.stdout))


def test_the_librarys_commands_list_get_and_delete_entries_of_every_route(home: Path) -> None:
    assert listed(home) == list(TAGS)
    got = librarys(home, "get", "theirs:latest", "-o", "json")
    told = json.loads(got.stdout)
    assert (told["name"], told["version"], told["labels"], told["metadata"]) == ("theirs", "v2", {"team": "v2"}, {"a": [1]})
    assert told["module"] == "bentoml.pytorch"
    for tag in ("theirs:v2", "graph:v1", "mine:v1"):
        assert librarys(home, "delete", "-y", tag).returncode == 0
    assert listed(home) == ["theirs:v1"]
    assert json.loads(librarys(home, "get", "theirs", "-o", "json").stdout)["version"] == "v1"
    gone = librarys(home, "get", "graph:v1")
    assert gone.returncode != 0
    assert "not found" in gone.stdout + gone.stderr


def test_ours_lists_them_all_and_says_whose_they_are(home: Path) -> None:
    done = ours(home, "list")
    assert done.exit_code == 0
    lines = {line.split()[0]: line for line in done.output.splitlines()}
    assert tuple(lines) == TAGS
    assert [tag for tag in TAGS if "of BentoML's own routes" in lines[tag]] == ["graph:v1", "theirs:v1", "theirs:v2"]
    assert lines["mine:v1"].endswith("detection")
    found = {one["tag"]: one for one in json.loads(ours(home, "list", "--json").output)}
    assert [found[tag]["ours"] for tag in TAGS] == [False, True, False, False]
    assert not any(one["damage"] for one in found.values())
    assert ours(home / "nothing", "list").output == "the store is empty\n"


def test_an_entry_is_shown_by_each_of_its_names(home: Path, model: Model) -> None:
    for asked in ("mine", "mine:v1", "mine:latest", "MINE:V"):
        told = json.loads(ours(home, "show", asked).output)
        assert (told["tag"], told["task"], told["differs_here"]) == ("mine:v1", "detection", [])
        assert told["labels"] == model.attached["labels"]
        assert told["custom_objects"] == ["classes", "thresholds"]
    for asked, words in {
        "nobody": "the store has no nobody",
        "theirs:v1": "a route of BentoML's own",
        "a b": "cannot be the name or version",
        "mine:": "ends in a colon",
    }.items():
        refused = ours(home, "show", asked)
        assert refused.exit_code == 2
        assert words in refused.output


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_entry_goes_to_another_store_and_back(home: Path, tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"mine{suffix}"
    assert ours(home, "export", "mine", str(archive)).output == f"mine:v1 is in {archive}\n"
    assert ours(tmp_path / "other", "import", str(archive)).output == "stored mine:v1\n"
    taken = ours(home, "import", str(archive))
    assert (taken.exit_code, "the store has mine:v1 already" in taken.output) == (2, True)
    assert ours(home, "delete", "mine:v1").output == "deleted mine:v1\n"
    assert ours(home, "show", "mine").exit_code == 2
    assert ours(home, "import", str(archive)).output == "stored mine:v1\n"
    assert json.loads(ours(home, "show", "mine").output)["tag"] == "mine:v1"


def test_what_cannot_be_exported_or_imported_is_told(home: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"PK")
    for words, said in {
        ("export", "mine", str(tmp_path / "mine.rar")): "no ending that says its format",
        ("export", "theirs", str(tmp_path / "theirs.tar")): "a route of BentoML's own",
        ("import", str(tmp_path / "nothing.tar")): "there is no file",
        ("import", str(tmp_path / "bad.zip")): "cannot be read",
    }.items():
        refused = ours(home, *words)
        assert refused.exit_code in (2, 3)
        assert said in refused.output
    assert tuple(found["tag"] for found in json.loads(ours(home, "list", "--json").output)) == TAGS


def test_entries_of_any_route_are_deleted_and_the_librarys_commands_see_it(home: Path) -> None:
    assert ours(home, "delete", "theirs").output == "deleted theirs:v2\n"
    assert ours(home, "delete", "graph:v1").exit_code == 0
    assert listed(home) == ["mine:v1", "theirs:v1"]
    assert json.loads(librarys(home, "get", "theirs:latest", "-o", "json").stdout)["version"] == "v1"


@pytest.mark.skipif(not (find_spec("uv") or shutil.which("uv")), reason="uv is not installed, and bentoml build would install it")
def test_a_bento_is_made(home: Path, tmp_path: Path) -> None:
    archive = tmp_path / "mine.bento"
    done = ours(home, "bento", "mine", str(archive))
    assert done.exit_code == 0, done.output
    assert done.output.endswith(f" is in {archive}\n")
    assert archive.is_file()


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_configuration_of_detectron2_comes_back_frozen_and_another_does_not(frozen: bool, tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    small: Any = changed_in_memory("d2_fasterrcnn_tiny", tmp_path / "source")
    (small.config.freeze if frozen else small.config.defrost)()
    store = PlainStore(tmp_path / "home")
    store.save("small", small)
    module, config = store.get("small").load()
    assert config.is_frozen() is frozen
    text = family("detectron2").config_text
    assert restoration(module, text(config), {}).tensors == restoration(small.module, text(small.config), {}).tensors
    assert text(config) == text(small.config)
    if frozen:
        with pytest.raises(AttributeError, match="immutable"):
            config.MODEL.DEVICE = "cuda"
