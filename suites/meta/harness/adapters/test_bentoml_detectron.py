"""What `bentoml.detectron` does with each argument, for a module and for a predictor: observed, not wished for.

A row that changes with a new BentoML is a line of ``docs/findings.md`` to be looked at again.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.families import Model, family
from harness.serving.bentoml_home import bentoml_home
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, changed_in_memory

bentoml = pytest.importorskip("bentoml")
pytest.importorskip("detectron2")
pytestmark = [pytest.mark.covers("M1", "M2", "M3"), *THEIR_WARNINGS]
KINDS = ("module", "predictor")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return changed_in_memory("d2_fasterrcnn_tiny", tmp_path_factory.mktemp("model") / "source")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    with bentoml_home(home) as models:
        yield models


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def save(model: Model, kind: str, name: Any = "given", **changed: Any) -> Any:
    """`save_model` as its documentation has it, some arguments changed; what the store then tells of it."""
    given = {
        "checkpointables": model.module if kind == "module" else model.native["predictor"],
        "config": model.config if kind == "module" else None,
    } | changed
    stored = bentoml.detectron.save_model(name, given.pop("checkpointables"), given.pop("config"), **given)
    return bentoml.models.get(stored.tag)


@pytest.mark.usefixtures("store")
def test_all_arguments_left_out(model: Model, kind: str) -> None:
    found = save(model, kind)
    assert dict(found.info.labels) == {}
    assert dict(found.info.metadata) == {"_is_predictor": kind == "predictor"}
    assert {name: (one.batchable, one.batch_dim) for name, one in found.info.signatures.items()} == {"__call__": (False, (0, 0))}
    assert set(found.custom_objects) == {"config"}
    config_text = family("detectron2").config_text
    assert config_text(found.custom_objects["config"]) == config_text(model.config)
    assert found.info.context.framework_name == "detectron2"
    assert set(found.info.context.framework_versions) == {"detectron2"}
    assert found.info.context.bentoml_version == bentoml.__version__


TAKEN = {
    "labels": ({"labels": {"a b": "ü"}}, lambda found: dict(found.info.labels), {"a b": "ü"}),
    "labels, a number": ({"labels": {"a": 3}}, lambda found: dict(found.info.labels), {"a": "3"}),
    "labels, nothing": ({"labels": {"a": None}}, lambda found: dict(found.info.labels), {"a": "None"}),
    "metadata": ({"metadata": {"a": [1.5, {"b": True}]}}, lambda found: found.info.metadata["a"], [1.5, {"b": True}]),
    "metadata, a tuple": ({"metadata": {"a": (1, 2)}}, lambda found: found.info.metadata["a"], [1, 2]),
    "metadata, a number of numpy": ({"metadata": {"a": np.float32(1.5)}}, lambda found: type(found.info.metadata["a"]), float),
    "custom objects": ({"custom_objects": {"x": [1]}}, lambda found: found.custom_objects["x"], [1]),
    "signatures, batched": (
        {"signatures": {"__call__": {"batchable": True, "batch_dim": 0}}},
        lambda found: (found.info.signatures["__call__"].batchable, found.info.signatures["__call__"].batch_dim),
        (True, (0, 0)),
    ),
    "signatures, two dimensions": (
        {"signatures": {"__call__": {"batchable": True, "batch_dim": (0, 1)}}},
        lambda found: found.info.signatures["__call__"].batch_dim,
        (0, 1),
    ),
    "signatures, none": ({"signatures": {}}, lambda found: dict(found.info.signatures), {}),
    # The rest is taken without a word, and should not be: docs/findings.md, bentoml-arguments-unchecked.
    "signatures, a misspelt key": (
        {"signatures": {"__call__": {"batchabel": True}}},
        lambda found: found.info.signatures["__call__"].batchable,
        False,
    ),
    "signatures, a method that is none": ({"signatures": {"nope": {}}}, lambda found: list(found.info.signatures), ["nope"]),
    "custom objects, a key of the caller's": (
        {"custom_objects": {"config": "mine"}},
        lambda found: type(found.custom_objects["config"]).__name__,
        "CfgNode",
    ),
    "metadata, a key of the caller's": (
        {"metadata": {"_is_predictor": "mine"}},
        lambda found: found.info.metadata["_is_predictor"] != "mine",
        True,
    ),
}


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("name", TAKEN)
def test_what_is_given_and_how_it_comes_back(model: Model, kind: str, name: str) -> None:
    changed, read, wanted = TAKEN[name]
    assert read(save(model, kind, **changed)) == wanted


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "name, nothing": ({"name": None}, TypeError, "NoneType"),
    "name, a number": ({"name": 3}, TypeError, "int"),
    "name, empty": ({"name": ""}, ValueError, "not a valid BentoML tag"),
    "name, a path": ({"name": "../x"}, ValueError, "not a valid BentoML tag"),
    "name, a slash": ({"name": "a/b"}, ValueError, "not a valid BentoML tag"),
    "labels, a list": ({"labels": ["a"]}, AttributeError, "'list' object has no attribute 'values'"),
    "metadata, nothing": ({"metadata": {"a": None}}, ValueError, "must be basic python types"),
    "metadata, an object": ({"metadata": {"a": object()}}, ValueError, "must be basic python types"),
    "metadata, a list": ({"metadata": [1]}, TypeError, "list indices"),
    "custom objects, a list": ({"custom_objects": [1]}, TypeError, "list indices"),
    "custom objects, a generator": ({"custom_objects": {"x": (i for i in ())}}, TypeError, "cannot pickle"),
    "signatures, a list": ({"signatures": ["__call__"]}, AttributeError, "'list' object has no attribute 'items'"),
    "signatures, a number": ({"signatures": {"__call__": 3}}, AttributeError, "batchable"),
    "external modules, a name": ({"external_modules": ["torch"]}, AttributeError, "__name__"),
    "external modules, not imported": ({"external_modules": [types.ModuleType("loose")]}, ValueError, "not imported correctly"),
    "checkpointables, nothing": ({"checkpointables": None}, AttributeError, "'model'"),
    "checkpointables, a state_dict": ({"checkpointables": {"a": 1}}, AttributeError, "'model'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_of_the_wrong_type_is_refused_and_leaves_nothing(store: Path, model: Model, kind: str, name: str) -> None:
    changed, error, words = REFUSED[name]
    before = sorted(store.rglob("*"))
    with pytest.raises(error, match=words):
        save(model, kind, **changed)
    assert sorted(store.rglob("*")) == before


@pytest.mark.usefixtures("store")
def test_a_module_without_a_config_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="config is required"):
        save(model, "module", config=None)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("config", [{"a": 1}, "config.yaml"])
def test_a_config_of_the_wrong_type_is_found_when_it_is_too_late(model: Model, config: Any) -> None:
    found = save(model, "module", config=config)
    with pytest.raises((AttributeError, KeyError), match=r"MODEL|'str'|'dict'"):
        bentoml.detectron.load_model(found)


@pytest.mark.usefixtures("store")
def test_another_config_beside_a_predictor_is_ignored_with_a_warning(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    other = model.config.clone()
    other.defrost()
    other.TEST.DETECTIONS_PER_IMAGE = 3
    with caplog.at_level("WARNING"):
        found = save(model, "predictor", config=other)
    assert "config is ignored when 'checkpointables' is a 'DefaultPredictor'" in caplog.text
    assert found.custom_objects["config"].TEST.DETECTIONS_PER_IMAGE == model.config.TEST.DETECTIONS_PER_IMAGE


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_config_comes_back_frozen_and_cannot_be_loaded(model: Model, frozen: bool) -> None:
    config = model.config.clone()
    config.freeze() if frozen else config.defrost()
    found = save(model, "module", config=config)
    assert found.custom_objects["config"].is_frozen() is frozen
    if frozen:
        with pytest.raises(AttributeError, match="immutable"):
            bentoml.detectron.load_model(found)
    else:
        bentoml.detectron.load_model(found)


@pytest.mark.usefixtures("store")
def test_a_model_is_found_by_text_tag_and_object(model: Model, kind: str) -> None:
    found = save(model, kind, name="found")
    wanted = "GeneralizedRCNN" if kind == "module" else "DefaultPredictor"
    version = str(found.tag.version)
    for asked in (str(found.tag), found.tag, "found", "found:latest", f"found:{version[:-4]}", str(found.tag).upper()):
        assert bentoml.detectron.get(asked).tag == found.tag
        assert type(bentoml.detectron.load_model(asked)).__name__ == wanted
    assert type(bentoml.detectron.load_model(found)).__name__ == wanted
    assert type(found.load_model()).__name__ == wanted
    with pytest.raises(TypeError, match="Model"):
        bentoml.detectron.get(found)
    for asked in ("nobody", "found:nothing"):
        with pytest.raises(bentoml.exceptions.NotFound):
            bentoml.detectron.load_model(asked)
    for asked in ("found:*", "found:"):
        with pytest.raises(bentoml.exceptions.BentoMLException):
            bentoml.detectron.load_model(asked)


@pytest.mark.usefixtures("store")
def test_a_model_is_listed_and_deleted(model: Model, kind: str) -> None:
    names = [f"listed_{kind}:{version}" for version in ("v1", "v2")]
    for name in names:
        save(model, kind, name=name)
    assert [str(one.tag) for one in bentoml.models.list(f"listed_{kind}")] == names
    bentoml.models.delete(f"listed_{kind}:v2")
    assert str(bentoml.detectron.get(f"listed_{kind}:latest").tag) == names[0]
    bentoml.models.delete(names[0])
    with pytest.raises(bentoml.exceptions.NotFound):
        bentoml.models.list(f"listed_{kind}")
    with pytest.raises(bentoml.exceptions.NotFound):
        bentoml.models.delete(names[0])


@pytest.mark.usefixtures("store")
def test_a_version_is_never_written_over(model: Model, kind: str) -> None:
    save(model, kind, name=f"once_{kind}:v1")
    with pytest.raises(bentoml.exceptions.BentoMLException, match="already exists"):
        save(model, kind, name=f"once_{kind}:v1")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("suffix", ["bentomodel", "tar", "tar.gz", "tar.xz", "tar.bz2", "zip"])
def test_every_archive_brings_the_same_content_back(model: Model, suffix: str, tmp_path: Path) -> None:
    found = save(model, "module", name="packed", labels={"a": "b"}, custom_objects={"x": [1]})
    before = {path.name: path.read_bytes() for path in Path(found.path).iterdir()}
    archive = bentoml.models.export_model(str(found.tag), str(tmp_path / f"out.{suffix}"))
    bentoml.models.delete(str(found.tag))
    back = bentoml.models.import_model(archive)
    assert {path.name: path.read_bytes() for path in Path(back.path).iterdir()} == before
    assert back.tag == found.tag
    bentoml.models.delete(str(found.tag))


CODE = """
import torch
from detectron2.modeling import META_ARCH_REGISTRY

class Helper:
    def __init__(self, number):
        self.number = number
"""


@pytest.mark.parametrize("external", [False, True])
def test_a_class_that_cannot_be_imported_travels_as_an_external_module_alone(
    store: Path, model: Model, external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_helpers.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    import my_helpers  # type: ignore[import-not-found]

    objects = {"helper": my_helpers.Helper(7)}
    found = save(
        model,
        "module",
        name=f"external_{external}".lower(),
        custom_objects=objects,
        external_modules=[my_helpers] if external else None,
    )
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "my_helpers", raising=False)
    again = bentoml.models.get(found.tag)
    if external:
        assert again.custom_objects["helper"].number == 7
    else:
        with pytest.raises(ModuleNotFoundError, match="my_helpers"):
            _ = again.custom_objects
    assert store.is_dir()


ARCHITECTURE = """
import torch
from detectron2.modeling import META_ARCH_REGISTRY

@META_ARCH_REGISTRY.register()
class MyArch(torch.nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, images):
        return self.layer(images)
"""
ELSEWHERE = """
import importlib, sys, warnings
warnings.simplefilter("ignore")
import bentoml
for name in sys.argv[2:]:
    importlib.import_module(name)
print(type(bentoml.detectron.load_model(sys.argv[1])).__name__)
"""


@pytest.mark.parametrize("external", [False, True])
def test_a_registered_architecture_is_found_elsewhere_only_by_whoever_imports_it(
    store: Path, external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detectron2.config import get_cfg
    from detectron2.modeling import META_ARCH_REGISTRY, build_model

    name = f"my_arch_{external}".lower()
    (tmp_path / f"{name}.py").write_text(ARCHITECTURE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(META_ARCH_REGISTRY, "_obj_map", dict(META_ARCH_REGISTRY._obj_map))
    module = importlib.import_module(name)
    config = get_cfg()
    config.MODEL.DEVICE, config.MODEL.META_ARCHITECTURE = "cpu", "MyArch"
    options = {"external_modules": [module]} if external else {}
    tag = str(bentoml.detectron.save_model(f"registered_{external}".lower(), build_model(config), config=config, **options).tag)

    def loaded(*imports: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", ELSEWHERE, tag, *imports]
        environment = {**os.environ, "BENTOML_HOME": str(store.parent), "BENTOML_DO_NOT_TRACK": "True", **variables}
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=store, env=environment)

    assert "No object named 'MyArch' found in 'META_ARCH' registry" in loaded().stderr
    beside = loaded(name, PYTHONPATH=str(tmp_path))
    assert beside.stdout.strip() == "MyArch", beside.stderr


def test_a_module_that_is_being_trained_is_left_in_eval_mode(store: Path, model: Model) -> None:
    """What the check of the caller's model sees as well, behind the dictionaries."""
    model.module.train()
    found = save(model, "module", name="training")
    assert not model.module.training
    assert not bentoml.detectron.load_model(found.tag).training
    assert store.is_dir()
