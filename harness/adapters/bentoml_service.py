"""A detector behind BentoML's HTTP server: stored, served in processes of its own, asked over loopback.

``service`` is the `@bentoml.service` class of `harness.serving.service` over the plain store, which ``harness serve`` starts too;
``batched`` the same with BentoML's adaptive batching, requests that come together answered in one call;
``bento`` is the same, built, exported, imported into another home and served from there. ``legacy`` is the service that BentoML's
guides write over its own routes, with what these lose; ``legacy_mended`` adds the lines that a user needs, ``legacy_batched`` to
these a signature that says ``batchable``, so that the runner batches.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from harness.adapters.bentoml_store import ADAPTER as STORE
from harness.adapters.bentoml_store import SPEC, stored_tag
from harness.adapters.torch_eager import read_spec
from harness.errors import HarnessError
from harness.serving.client import Client
from harness.types import Effective, Variant

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels
    from harness.families import Model
    from harness.serving.settings import Settings
    from harness.types import ModelSpec

_TOKEN = "of-a-server-on-loopback"  # noqa: S105 - it guards nothing: the server lives for one job
_PATIENCE_S = 120
_BENTO = "detector.bento"


class HttpSession:
    """A server that answers on loopback."""

    batching = "requests one after the other"
    restored = None

    def __init__(self, client: Client, spec: ModelSpec, token: str | None) -> None:
        self._client, self._spec, self.token = client, spec, token

    @cached_property
    def effective(self) -> Effective:
        """What the serving process read back of its module."""
        status, _, body = self.post("about", b"{}", "application/json", self.token)
        if status != 200:
            raise HarnessError(f"the service does not say what it serves: {status} {body[:200]!r}")
        told = Effective(**json.loads(body)["effective"])
        return Effective(
            told.precision,
            told.device,
            f"BentoML service, {told.provider}",
            told.threads,
            told.streams,
            {**told.versions, "bentoml": version("bentoml")},
        )

    def predict(self, images: Sequence[Pixels]) -> list[Detections]:
        """A PNG each to ``/detect``."""
        from harness.serving.pictures import encoded

        return [self._detected(encoded(image)) for image in images]

    def post(self, route: str, body: bytes, kind: str, token: str | None) -> tuple[int, str, bytes]:
        """One request; whatever status comes back is told, not raised. Any number of threads may ask at once."""
        headers = {"Content-Type": kind} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        return self._client.post(route, body, headers)

    def read(self, body: bytes, picture: bytes) -> Detections:
        """`harness.serving.answers.from_json`."""
        from harness.serving.answers import from_json

        return from_json(json.loads(body), self._spec)

    def _detected(self, content: bytes) -> Detections:
        status, _, body = self.post("detect", content, "image/png", self.token)
        if status != 200:
            raise HarnessError(f"the service answered {status}: {body.decode('utf-8', 'replace')[:500]}")
        return self.read(body, content)


class BentomlService:
    """Stored, served, asked."""

    name = "bentoml_service"
    requires = ("bentoml", "torch", "safetensors")
    serves = True
    variants = (
        Variant("service", base=False),
        Variant("batched", open={"batch": 16}, base=False),
        Variant("bento", build={"bento": True}, base=False),
        Variant("legacy", build={"legacy": True}, base=False),
        Variant("legacy_mended", build={"legacy": True, "mended": True}, open={"mended": True}, base=False, mends="legacy"),
        Variant("legacy_batched", build={"legacy": True, "mended": True, "batched": True}, open={"mended": True}, base=False),
    )

    def declines(self, model: ModelSpec, variant: Variant, device: str) -> str | None:
        """What the store holds is served; the library's own routes know no ``LazyConfig``."""
        if variant.build.get("bento") and not (find_spec("uv") or shutil.which("uv")):
            return "`bentoml build` needs uv and would install it: pip install -c constraints.txt 'detection-harness[serve]'"
        if variant.build.get("batched") and model.family == "detectron2":
            return "The runner is of a DefaultPredictor, which takes one picture a call: there is nothing to batch."
        return STORE.declines(model, _route(model), device) if variant.build.get("legacy") else None

    def build(self, model: Model, variant: Variant, artifact: Path) -> None:
        """Store the model; the artifact is the store, or an archive with the Bento."""
        from harness.serving.bento import build_bento
        from harness.serving.store import PlainStore

        if variant.build.get("batched"):
            model = replace(model, attached={**model.attached, "signatures": {"__call__": {"batchable": True, "batch_dim": 0}}})
        if variant.build.get("legacy"):
            STORE.build(model, _route(model.spec, mended=variant.build.get("mended", False)), artifact)
            return
        with TemporaryDirectory() as folder:
            store = PlainStore(Path(folder) if variant.build.get("bento") else artifact)
            tag = str(store.save(model.spec.id.lower(), model))
            if variant.build.get("bento"):
                build_bento(store, tag, artifact / _BENTO)
                (artifact / SPEC).write_text(json.dumps(asdict(model.spec), default=dict, indent=1))

    @contextmanager
    def open(self, artifact: Path, variant: Variant, device: str) -> Iterator[HttpSession]:
        """Start the server; raises `harness.serving.server.NotServing` where it does not come up."""
        from harness.serving.server import serving

        with TemporaryDirectory() as folder:
            target, settings, spec = _served(artifact.resolve(), variant, device, Path(folder) / "home")
            with serving(target, settings, Path(folder) / "log") as server, closing(Client(server.url, _PATIENCE_S)) as client:
                yield HttpSession(client, spec, settings.token)


def _served(artifact: Path, variant: Variant, device: str, home: Path) -> tuple[str, Settings, ModelSpec]:
    """What ``bentoml serve`` is told, and the specification of what it serves; ``home`` is where a Bento is imported to."""
    from harness.serving.bento import take_bento
    from harness.serving.server import DETECTOR, LEGACY
    from harness.serving.settings import Settings
    from harness.serving.store import PlainStore

    if variant.build.get("legacy"):
        tag, mended = stored_tag(artifact), bool(variant.open.get("mended"))
        return LEGACY, Settings(tag, artifact, None, device, mended=mended), read_spec(artifact / SPEC)
    if variant.build.get("bento"):
        bento = take_bento(artifact / _BENTO, home)
        return bento, Settings("", home, _TOKEN, device), read_spec(artifact / SPEC)
    store = PlainStore(artifact)
    (listed,) = store.list()
    entry = store.get(str(listed.tag))
    batch = int(variant.open.get("batch", 0))
    return DETECTOR, Settings(str(entry.tag), store.home, _TOKEN, device, batch=batch), entry.spec


def _route(spec: ModelSpec, *, mended: bool = False) -> Variant:
    """The variant of `bentoml_store` whose guide makes a service of it."""
    wanted = ("predictor" if spec.family == "detectron2" else "pytorch") + ("_mended" if mended else "")
    return next(variant for variant in STORE.variants if variant.id == wanted)


ADAPTER = BentomlService()
