"""An entry of `bentoml.detectron` becomes plain files, with the weights that were saved; nothing is unpickled unasked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from click.testing import CliRunner

from harness.cli import main
from harness.errors import HarnessError, UsageError
from harness.families import Model, family
from harness.serving.adopted import Untrusted, adopt
from harness.serving.bentoml_home import bentoml_home
from harness.serving.frames import DetectorFrames
from harness.serving.store import NotPlain, PlainStore
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, assert_bit_equal, changed_in_memory, expected, pictures
from harness.tracing import expected_warnings

bentoml = pytest.importorskip("bentoml")
pytest.importorskip("detectron2")
pytestmark = [pytest.mark.covers("M1", "M2", "M3"), *THEIR_WARNINGS]
SERVING = Path(__file__).parents[4] / "docs" / "serving.md"
MODELS = ("d2_maskrcnn_tiny", "d2_retinanet_tiny", "d2_keypointrcnn_tiny", "d2_panoptic_fpn_tiny")


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return changed_in_memory(request.param, tmp_path_factory.mktemp("model") / "source")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PlainStore]:
    (tmp_path / "home").mkdir()
    with bentoml_home(tmp_path / "home"):
        yield PlainStore(tmp_path / "home")


def kept(model: Model) -> dict[str, Any]:
    """What is stored beside it, in dictionaries of its own: the library writes into them."""
    return {key: dict(value) for key, value in model.attached.items()}


@pytest.mark.parametrize("kind", ["module", "predictor"])
def test_it_answers_as_the_model_that_was_saved(store: PlainStore, model: Model, kind: str) -> None:
    saved = model.module if kind == "module" else model.native["predictor"]
    config = {"config": model.config} if kind == "module" else {}
    tag = str(bentoml.detectron.save_model("theirs", saved, **config, **kept(model)).tag)
    adopted = adopt(store, tag, trust_pickle=True)
    assert str(adopted) != tag
    entry = store.get("theirs")
    assert entry.tag == adopted
    assert entry.spec.task == model.spec.task
    assert entry.spec.classes == model.spec.classes
    assert (entry.spec.score_threshold, entry.spec.detection_cap) == (model.spec.score_threshold, model.spec.detection_cap)
    assert entry.attached["metadata"] == model.attached["metadata"]
    assert entry.attached["custom_objects"].keys() == model.attached["custom_objects"].keys()
    module, config_back = entry.load()
    found = [family("detectron2").predict(module, config_back, [picture])[0] for picture in pictures()]
    assert_bit_equal(found, expected(model))
    assert {str(listed.tag) for listed in store.list()} == {tag, str(adopted)}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return changed_in_memory("d2_fasterrcnn_tiny", tmp_path_factory.mktemp("small") / "source")


def test_nothing_is_unpickled_unasked(store: PlainStore, small: Model, tmp_path: Path) -> None:
    tag = str(bentoml.detectron.save_model("theirs", small.module, config=small.config).tag)
    mark = tmp_path / "mark"
    _, folder = store.find(tag)
    (folder / "custom_objects.pkl").write_bytes(cloudpickle.dumps({"config": Evil(str(mark))}))
    store.list()
    with pytest.raises(NotPlain, match=r"a route of BentoML's own(.|\n)*harness store adopt"):
        store.get(tag)
    with pytest.raises(Untrusted, match=r"runs whatever they say\n.*--trust-pickle"):
        adopt(store, tag)
    done = CliRunner().invoke(main, ["store", "adopt", tag, "--store", str(store.home)])
    assert done.exit_code == 2
    assert "--trust-pickle" in done.output
    assert not mark.exists()
    # It would have left one.
    with pytest.raises(HarnessError, match="has no CfgNode"):
        adopt(store, tag, trust_pickle=True)
    assert mark.exists()


def test_classes_may_be_named_and_are_numbered_otherwise(store: PlainStore, small: Model) -> None:
    bentoml.detectron.save_model("theirs:v1", small.module, config=small.config)
    assert store.get(str(adopt(store, "theirs:v1", trust_pickle=True))).spec.classes == ("class 0", "class 1", "class 2")
    done = CliRunner().invoke(
        main, ["store", "adopt", "theirs:v1", "--store", str(store.home), "--trust-pickle", "--classes", "a, b,c"]
    )
    assert done.exit_code == 0, done.output
    assert store.get("theirs").spec.classes == ("a", "b", "c")
    with pytest.raises(UsageError, match="has 3 classes, 2 names were given"):
        adopt(store, "theirs:v1", trust_pickle=True, classes=["a", "b"])


def test_what_cannot_be_adopted_is_told(store: PlainStore, small: Model) -> None:
    with bentoml.models.create("others:v1"):
        pass
    with pytest.raises(UsageError, match=r"others:v1 was stored by (?!bentoml\.detectron)"):
        adopt(store, "others:v1", trust_pickle=True)
    tag = str(bentoml.detectron.save_model("theirs", small.module, config=small.config).tag)
    weights = store.find(tag)[1] / "saved_model.pth"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(HarnessError, match=r"the weights of theirs:.* cannot be read"):
        adopt(store, tag, trust_pickle=True)
    weights.unlink()
    with pytest.raises(HarnessError, match=r"the weights of theirs:.* cannot be read"):
        adopt(store, tag, trust_pickle=True)


def test_a_batch_dimension_of_the_librarys_is_adopted(store: PlainStore, small: Model) -> None:
    asked = {"__call__": {"batchable": True, "batch_dim": 1}}
    bentoml.detectron.save_model("theirs:v1", small.module, config=small.config, signatures=asked)
    found = store.get(str(adopt(store, "theirs:v1", trust_pickle=True))).attached["signatures"]
    assert found == {"__call__": {"batchable": True, "batch_dim": (1, 1)}}


def test_the_cure_for_an_entry_of_another_route_is_one(store: PlainStore, tmp_path: Path) -> None:
    model = changed_in_memory("tv_ssdlite_tiny", tmp_path / "source")
    bentoml.pytorch.save_model("theirs:v1", model.module)
    for refused in (lambda: store.get("theirs:v1"), lambda: adopt(store, "theirs:v1", trust_pickle=True)):
        with pytest.raises(UsageError, match=r"Load it with bentoml\.pytorch .* anew: docs/serving\.md") as caught:
            refused()
        assert "harness store adopt" not in str(caught.value)
    blocks = (block.partition("```")[0] for block in SERVING.read_text().split("```python\n")[1:])
    (cured,) = (block for block in blocks if "bentoml.pytorch" in block)
    names = {"store": store, "model": model, "DetectorFrames": DetectorFrames}
    exec(cured, names)  # noqa: S102 - the page's own lines
    entry = store.get(str(names["tag"]))
    found = [family("torchvision").predict(*entry.load(), [picture])[0] for picture in pictures()]
    assert_bit_equal(found, expected(model))


def test_a_graph_and_an_entry_of_ours_are_not_told_to_be_loaded(store: PlainStore, tmp_path: Path) -> None:
    import torch

    with expected_warnings():
        bentoml.torchscript.save_model("graph:v1", torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)))
    with pytest.raises(NotPlain, match="this store keeps live models: store the model that it was traced from"):
        store.get("graph:v1")
    ours = store.save("ours:v1", changed_in_memory("tv_ssdlite_tiny", tmp_path / "source"))
    with pytest.raises(UsageError, match="plain files already"):
        adopt(store, str(ours), trust_pickle=True)
