"""A model that went through BentoML's model store: saved, found by tag, loaded.

The artifact folder is the ``BENTOML_HOME``. Detectron2 takes the documented ``bentoml.detectron`` route with the module or with a
`DefaultPredictor`, torchvision ``bentoml.pytorch``, and ``bentoml.torchscript`` and ``bentoml.onnx`` with its traced graph; what
these lose is lost here too. ``plain`` is the store itself, with files of our own (`harness.serving.store`). The ``..._mended``
variants add the one line that a user needs where the documented route does not do.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from harness.adapters import Restored
from harness.adapters.detectron2_predictor import predict_each
from harness.adapters.onnxruntime_session import OrtSession, quiet_onnxruntime
from harness.adapters.torch_eager import effective_of, full_fp32, read_spec
from harness.adapters.torchscript_module import TorchscriptSession
from harness.errors import Unavailable
from harness.families import family
from harness.families.detectron2_configs import lazy_spec
from harness.serving.bentoml_home import bentoml_home
from harness.tracing import Signature, expected_warnings, export_onnx
from harness.types import Effective, Variant

if TYPE_CHECKING:
    from harness.adapters import GraphSession
    from harness.detections import Detections, Pixels, Tensors
    from harness.families import Model
    from harness.types import ModelSpec

_RECEIPT = "receipt.json"
SPEC = "spec.json"
WEIGHTS = "saved_model.pth"
CONFIG = "config"
PREDICTOR_FLAG = "_is_predictor"
"""What `bentoml.detectron` itself puts into the metadata."""
_FAMILY_OF_ROUTE = {
    "module": "detectron2",
    "predictor": "detectron2",
    "pytorch": "torchvision",
    "torchscript": "torchvision",
    "onnx": "torchvision",
}
_BESIDE = ("labels", "metadata", "signatures", "custom_objects", "versions")
_GRAPHS = ("torchscript", "onnx")
_ONNX_OPSET = 17
_METHOD = {"onnx": "run"}
"""What a route calls the method of a signature that is its only one; `Model.attached` says ``__call__``."""


class StoreSession:
    """The live object that the store gave back: a module or a `DefaultPredictor`."""

    def __init__(self, spec: ModelSpec, loaded: Any, config: Any, attached: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        self._spec, self._attached, self._versions = spec, attached, versions
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
        return Restored(self._module, self._config, self._attached, native, versions=self._versions)

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


class StoredGraphSession:
    """A traced graph that the store gave back, and what lay beside it."""

    batching = "a loop over the images"

    def __init__(self, graph: GraphSession, attached: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        self._graph, self.attached, self.versions = graph, attached, versions

    @property
    def module(self) -> Any:
        """The graph's own, where it has its tensors."""
        return getattr(self._graph, "module", None)

    @property
    def effective(self) -> Effective:
        """The graph's own."""
        found = self._graph.effective
        return replace(
            found, provider=f"BentoML model store, {found.provider}", versions={**found.versions, "bentoml": version("bentoml")}
        )

    def run(self, tensors: Tensors) -> Tensors:
        """The graph's own."""
        return self._graph.run(tensors)

    def run_many(self, batch: Sequence[Tensors]) -> list[Tensors]:
        """The graph's own."""
        return self._graph.run_many(batch)


class BentomlStore:
    """`save_model`, `get` and `load_model` of the module that BentoML has for the family."""

    name = "bentoml_store"
    requires = ("bentoml", "torch")
    variants = (
        Variant("module", build={"route": "module"}),
        Variant("predictor", build={"route": "predictor"}),
        Variant(
            "predictor_mended",
            build={"route": "predictor", "mended": True},
            open={"weights_from_store": True},
            mends="predictor",
        ),
        Variant("pytorch", build={"route": "pytorch"}),
        Variant("pytorch_mended", build={"route": "pytorch"}, open={"weights_only": False}, mends="pytorch"),
        Variant("torchscript", build={"route": "torchscript"}, base=False),
        Variant("onnx", build={"route": "onnx"}, base=False),
        Variant("plain", build={"route": "plain"}, base=False),
    )

    def declines(self, model: ModelSpec, variant: Variant, device: str) -> str | None:
        """Each route is for one family, and Detectron2's for models of a ``CfgNode``."""
        route = variant.build["route"]
        if route == "plain":
            return None
        if model.family == _FAMILY_OF_ROUTE[route]:
            lazy = model.family == "detectron2" and lazy_spec(model)
            return "bentoml.detectron rebuilds a model from a CfgNode; this one is made from a LazyConfig." if lazy else None
        return f"BentoML's {route} route is for {_FAMILY_OF_ROUTE[route]} models, this one is {model.family}'s."

    def keeps(self, variant: Variant) -> tuple[str, ...]:
        """All of it, but that no module of the library's for torchvision knows of a configuration."""
        configured = variant.build["route"] in ("plain", "module", "predictor")
        return (*_BESIDE, *((CONFIG,) if configured else ()))

    def archives(self, variant: Variant) -> tuple[str, ...]:
        """Those of `harness.archives`, and BentoML's own ``.bentomodel`` where BentoML makes them."""
        from harness.archives import FORMATS

        return FORMATS if variant.build["route"] == "plain" else (".bentomodel", *FORMATS)

    def export(self, artifact: Path, variant: Variant, archive: Path) -> None:
        """``bentoml.models.export_model``, or the plain store's; our own notes lie beside the archive."""
        tag = stored_tag(artifact)
        if variant.build["route"] == "plain":
            from harness.serving.store import PlainStore

            PlainStore(artifact).export(tag, archive)
        else:
            with bentoml_home(artifact):
                import bentoml

                bentoml.models.export_model(tag, str(archive))
        for note in artifact.glob("*.json"):
            shutil.copy(note, archive.with_name(f"{archive.name}.{note.name}"))

    def take(self, archive: Path, variant: Variant, artifact: Path) -> None:
        """``bentoml.models.import_model``, or the plain store's."""
        if variant.build["route"] == "plain":
            from harness.serving.store import PlainStore

            PlainStore(artifact).take(archive)
        else:
            with bentoml_home(artifact):
                import bentoml

                bentoml.models.import_model(str(archive))
        for note in archive.parent.glob(f"{archive.name}.*.json"):
            shutil.copy(note, artifact / note.name.removeprefix(f"{archive.name}."))

    def build(self, model: Model, variant: Variant, artifact: Path) -> None:
        """Save the model into a store in ``artifact``, with exactly the objects of `Model.attached`; ``mended`` with copies."""
        name = model.spec.id.lower()
        if variant.build["route"] == "plain":
            from harness.serving.store import PlainStore

            tag = str(PlainStore(artifact).save(name, model))
        else:
            with _left_alone(model) if variant.build.get("mended") else nullcontext(model) as given:
                tag = _saved(name, given, variant.build["route"], artifact)
        (artifact / _RECEIPT).write_text(json.dumps({"tag": tag}))
        (artifact / SPEC).write_text(json.dumps(asdict(model.spec), default=dict, indent=1))

    @contextmanager
    def open(self, artifact: Path, variant: Variant, device: str) -> Iterator[StoreSession | StoredGraphSession]:
        """Get the model by its tag and load it for ``device``."""
        tag = stored_tag(artifact)
        spec = read_spec(artifact / SPEC)
        with full_fp32():
            if variant.build["route"] == "plain":
                yield _from_plain(artifact, tag, device)
            elif variant.build["route"] in _GRAPHS:
                yield _graph_from_library(artifact, tag, variant, device)
            else:
                yield _from_library(artifact, tag, variant, device, spec)


def stored_tag(artifact: Path) -> str:
    """The tag that `BentomlStore.build` gave what is in its artifact."""
    return str(json.loads((artifact / _RECEIPT).read_text())["tag"])


@contextmanager
def _left_alone(model: Model) -> Iterator[Model]:
    """The model with dictionaries of its own, its modules' modes as they were once it is saved: the library changes both."""
    modes = {module: module.training for module in model.module.modules()}
    try:
        yield replace(model, attached={key: dict(value) for key, value in model.attached.items()})
    finally:
        for module, training in modes.items():
            module.training = training


def _saved(name: str, model: Model, route: str, home: Path) -> str:
    """The library's own `save_model`; returns the tag."""
    with bentoml_home(home):
        import bentoml

        match route:
            case "module":
                stored = bentoml.detectron.save_model(name, model.module, config=model.config, **model.attached)
            case "predictor":
                stored = bentoml.detectron.save_model(name, model.native["predictor"], **model.attached)
            case "torchscript":
                with expected_warnings():
                    stored = bentoml.torchscript.save_model(name, _traced(model, home), **model.attached)
            case "onnx":
                signatures = {_METHOD["onnx"]: model.attached["signatures"]["__call__"]}
                stored = bentoml.onnx.save_model(name, _exported(model, home), **{**model.attached, "signatures": signatures})
            case _:
                stored = bentoml.pytorch.save_model(name, model.module, **model.attached)
    return str(stored.tag)


def _from_plain(home: Path, tag: str, device: str) -> StoreSession:
    """An entry of `PlainStore`; its labels and metadata as BentoML itself tells them."""
    from harness.serving.store import PlainStore

    entry = PlainStore(home).get(tag)
    module, config = entry.load(device)
    with bentoml_home(home):
        import bentoml

        info = bentoml.models.get(tag).info
    attached = {**entry.attached, "labels": dict(info.labels), "metadata": dict(info.metadata)}
    return StoreSession(entry.spec, module, config, attached, entry.versions)


def _from_library(home: Path, tag: str, variant: Variant, device: str, spec: ModelSpec) -> StoreSession:
    """The library's own `get` and `load_model`."""
    with bentoml_home(home):
        import bentoml

        backend = bentoml.pytorch if variant.build["route"] == "pytorch" else bentoml.detectron
        stored = backend.get(tag)
        options: dict[str, Any] = {"device_id": device}
        if "weights_only" in variant.open:
            options["weights_only"] = variant.open["weights_only"]
        if variant.open.get("weights_from_store"):
            stored.custom_objects[CONFIG].MODEL.WEIGHTS = stored.path_of(WEIGHTS)
        loaded = backend.load_model(stored, **options)
        attached = attached_of(stored)
        if variant.build.get("mended"):
            attached["metadata"].pop(PREDICTOR_FLAG)
        return StoreSession(spec, loaded, stored.custom_objects.get(CONFIG), attached, _versions(stored))


def _traced(model: Model, artifact: Path) -> Any:
    """The graph as a ``ScriptModule``; the names of its tensors, which TorchScript does not keep, go beside the store."""
    import torch

    with torch.no_grad():
        traced = torch.jit.trace(model.graph.module, tuple(model.graph.example.values()), strict=False, check_trace=False)
    Signature.of(model.graph, f"torch.jit.trace {version('torch')}").write(artifact)
    return traced


def _exported(model: Model, artifact: Path) -> Any:
    """The graph as an ``onnx.ModelProto``."""
    import onnx

    with TemporaryDirectory() as folder:
        exporter = export_onnx(model.graph, Path(folder) / "model.onnx", _ONNX_OPSET)
        found = onnx.load(str(Path(folder) / "model.onnx"))
    Signature.of(model.graph, exporter).write(artifact)
    return found


def _graph_from_library(home: Path, tag: str, variant: Variant, device: str) -> StoredGraphSession:
    """The library's own `get` and `load_model` of a graph."""
    route, signature = variant.build["route"], Signature.read(home)
    graph: GraphSession
    with bentoml_home(home), expected_warnings():
        import bentoml

        backend = getattr(bentoml, route)
        stored = backend.get(tag)
        if route == "onnx":
            options = quiet_onnxruntime().SessionOptions()
            options.intra_op_num_threads = variant.open.get("threads", 0)
            providers = ["CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"]
            session = backend.load_model(stored, session_options=options, providers=providers)
            graph = OrtSession(session, Path(stored.path_of("saved_model.onnx")), signature)
        else:
            import torchvision  # noqa: F401 - whoever loads a trace imports the library whose operators it calls by name

            graph = TorchscriptSession(backend.load_model(stored, device_id=device), device, signature)
        attached, versions = attached_of(stored), _versions(stored)
    method = _METHOD.get(route, "__call__")
    signatures = {"__call__" if name == method else name: value for name, value in attached["signatures"].items()}
    return StoredGraphSession(graph, {**attached, "signatures": signatures}, versions)


def attached_of(stored: Any) -> dict[str, Any]:
    """What the store holds beside the model, under the keys of `Model.attached`.

    The configuration, which `bentoml.detectron` documents to keep among the custom objects, is `Restored.config` instead.
    """
    return {
        "labels": dict(stored.info.labels),
        "metadata": dict(stored.info.metadata),
        "custom_objects": {name: value for name, value in stored.custom_objects.items() if name != CONFIG},
        "signatures": {name: _signature(signature) for name, signature in stored.info.signatures.items()},
    }


def _versions(stored: Any) -> dict[str, str]:
    """What the store says the model was saved with."""
    context = stored.info.context
    return {**context.framework_versions, "bentoml": context.bentoml_version, "python": context.python_version}


def _signature(signature: Any) -> dict[str, Any]:
    """A stored signature as a user writes one; ``batch_dim`` only where it means something, which is with ``batchable``."""
    fields = {"batchable": signature.batchable}
    if signature.batchable:
        fields["batch_dim"] = signature.batch_dim
    return fields


ADAPTER = BentomlStore()
