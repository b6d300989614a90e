"""A model that went through BentoML's model store: saved, found by tag, loaded.

The artifact folder is the ``BENTOML_HOME``. Detectron2 takes the documented ``bentoml.detectron`` route with the module or with a
`DefaultPredictor`, torchvision ``bentoml.pytorch``; what these lose is lost here too. The ``..._mended`` variants add the one
line that a user needs where the documented route does not do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.adapters import Restored
from harness.adapters.detectron2_predictor import predict_each
from harness.adapters.torch_eager import effective_of, full_fp32, read_spec
from harness.errors import Unavailable
from harness.families import family
from harness.families.detectron2_configs import lazy_spec
from harness.types import Effective, Variant

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels
    from harness.families import Model
    from harness.types import ModelSpec

_RECEIPT = "receipt.json"
_SPEC = "spec.json"
_WEIGHTS = "saved_model.pth"
_CONFIG = "config"
_FAMILY_OF_ROUTE = {"module": "detectron2", "predictor": "detectron2", "pytorch": "torchvision"}
_ENVIRONMENT = {"BENTOML_DO_NOT_TRACK": "True"}


@contextmanager
def _store(home: Path) -> Iterator[None]:
    """BentoML with its store in ``home``, telemetry off.

    ``BENTOML_HOME`` does for a process that imports BentoML only now. One that holds a store already (a second artifact) is
    pointed to this one as BentoML's own tests do it: the library has no public way.
    """
    before = {name: os.environ.get(name) for name in ("BENTOML_HOME", *_ENVIRONMENT)}
    os.environ.update({"BENTOML_HOME": str(home), **_ENVIRONMENT})
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    models = home / "models"
    models.mkdir(exist_ok=True)
    try:
        BentoMLContainer.model_store.set(ModelStore(models))
        yield
    finally:
        BentoMLContainer.model_store.reset()
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


class StoreSession:
    """The live object that the store gave back: a module or a `DefaultPredictor`."""

    def __init__(self, spec: ModelSpec, loaded: Any, config: Any, attached: Mapping[str, Any]) -> None:
        self._spec, self._attached = spec, attached
        self._predictor = loaded if hasattr(loaded, "cfg") and hasattr(loaded, "model") else None
        self._module = loaded if self._predictor is None else self._predictor.model
        self._config = config

    @property
    def batching(self) -> str:
        """How several images in one call are run."""
        return "one tensor of equally sized images" if self._predictor is None else "a loop over the images"

    @property
    def effective(self) -> Effective:
        """Read back from the loaded module's tensors and PyTorch's switches."""
        return effective_of(self._module, "BentoML model store, PyTorch eager", ("bentoml", "torch", self._spec.family))

    @property
    def restored(self) -> Restored:
        """The loaded object, and everything that the store keeps beside it, as it was stored."""
        native = {} if self._predictor is None else {"predictor": self._predictor}
        return Restored(self._module, self._config, self._attached, native)

    def predict(self, images: Sequence[Pixels]) -> list[Detections]:
        """A predictor is called as a predictor; a module is fed by its family, from the configuration that came with it."""
        if self._predictor is not None:
            return predict_each(self._predictor, images)
        return family(self._spec.family).predict(self._module, self._settings, images)

    def predict_mixed(self, images: Sequence[Pixels]) -> list[Detections]:
        """All images in one call of a module; a predictor takes one."""
        if self._predictor is not None:
            raise Unavailable("A DefaultPredictor takes one image a call.")
        return family(self._spec.family).predict(self._module, self._settings, images, mixed=True)

    @cached_property
    def _settings(self) -> Any:
        """`bentoml.pytorch` keeps no configuration; the family's own is made from the spec, as a user's code would, once."""
        return family(self._spec.family).construct(self._spec)[1] if self._config is None else self._config


class BentomlStore:
    """`save_model`, `get` and `load_model` of the module that BentoML has for the family."""

    name = "bentoml_store"
    requires = ("bentoml", "torch")
    variants = (
        Variant("module", build={"route": "module"}),
        Variant("predictor", build={"route": "predictor"}),
        Variant("predictor_mended", build={"route": "predictor"}, open={"weights_from_store": True}, mends="predictor"),
        Variant("pytorch", build={"route": "pytorch"}),
        Variant("pytorch_mended", build={"route": "pytorch"}, open={"weights_only": False}, mends="pytorch"),
    )

    def declines(self, model: ModelSpec, variant: Variant, device: str) -> str | None:
        """Each route is for one family, and Detectron2's for models of a ``CfgNode``."""
        route = variant.build["route"]
        if model.family == _FAMILY_OF_ROUTE[route]:
            lazy = model.family == "detectron2" and lazy_spec(model)
            return "bentoml.detectron rebuilds a model from a CfgNode; this one is made from a LazyConfig." if lazy else None
        return f"BentoML's {route} route is for {_FAMILY_OF_ROUTE[route]} models, this one is {model.family}'s."

    def build(self, model: Model, variant: Variant, artifact: Path) -> None:
        """Save the model into a store in ``artifact``, with exactly the objects of `Model.attached`."""
        name = model.spec.id.lower()
        with _store(artifact):
            import bentoml

            match variant.build["route"]:
                case "module":
                    stored = bentoml.detectron.save_model(name, model.module, config=model.config, **model.attached)
                case "predictor":
                    stored = bentoml.detectron.save_model(name, model.native["predictor"], **model.attached)
                case _:
                    stored = bentoml.pytorch.save_model(name, model.module, **model.attached)
        (artifact / _RECEIPT).write_text(json.dumps({"tag": str(stored.tag)}))
        (artifact / _SPEC).write_text(json.dumps(asdict(model.spec), default=dict, indent=1))

    @contextmanager
    def open(self, artifact: Path, variant: Variant, device: str) -> Iterator[StoreSession]:
        """Get the model by its tag and load it for ``device``."""
        tag = json.loads((artifact / _RECEIPT).read_text())["tag"]
        spec = read_spec(artifact / _SPEC)
        with full_fp32():
            with _store(artifact):
                import bentoml

                backend = bentoml.pytorch if variant.build["route"] == "pytorch" else bentoml.detectron
                stored = backend.get(tag)
                options: dict[str, Any] = {"device_id": device}
                if "weights_only" in variant.open:
                    options["weights_only"] = variant.open["weights_only"]
                if variant.open.get("weights_from_store"):
                    stored.custom_objects[_CONFIG].MODEL.WEIGHTS = stored.path_of(_WEIGHTS)
                loaded = backend.load_model(stored, **options)
                attached = _attached(stored)
                session = StoreSession(spec, loaded, stored.custom_objects.get(_CONFIG), attached)
            yield session


def _attached(stored: Any) -> dict[str, Any]:
    """What the store holds beside the model, under the keys of `Model.attached`.

    The configuration, which `bentoml.detectron` documents to keep among the custom objects, is `Restored.config` instead.
    """
    return {
        "labels": dict(stored.info.labels),
        "metadata": dict(stored.info.metadata),
        "custom_objects": {name: value for name, value in stored.custom_objects.items() if name != _CONFIG},
        "signatures": {name: _signature(signature) for name, signature in stored.info.signatures.items()},
    }


def _signature(signature: Any) -> dict[str, Any]:
    """A stored signature as a user writes one; ``batch_dim`` only where it means something, which is with ``batchable``."""
    fields = {"batchable": signature.batchable}
    if signature.batchable:
        fields["batch_dim"] = signature.batch_dim
    return fields


ADAPTER = BentomlStore()
