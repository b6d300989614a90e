"""A detector behind BentoML's HTTP server: stored, served in processes of its own, asked over loopback.

``service`` is the `@bentoml.service` class of `harness.serving.service` over the plain store, which ``harness serve`` starts too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.types import Effective, Variant

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels
    from harness.families import Model
    from harness.types import ModelSpec

_TOKEN = "of-a-server-on-loopback"  # noqa: S105 - it guards nothing: the server lives for one job
_PATIENCE_S = 120


class HttpSession:
    """A server that answers on loopback."""

    batching = "requests one after the other"
    restored = None

    def __init__(self, url: str, spec: ModelSpec, token: str | None) -> None:
        self._url, self._spec, self.token = url, spec, token

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
        """One request; whatever status comes back is told, not raised."""
        import urllib.error
        import urllib.request

        headers = {"Content-Type": kind} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        request = urllib.request.Request(f"{self._url}/{route}", body, headers, method="POST")  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_S) as reply:  # noqa: S310
                return reply.status, str(reply.headers["Content-Type"]), reply.read()
        except urllib.error.HTTPError as error:
            return error.code, str(error.headers["Content-Type"]), error.read()

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
    variants = (Variant("service", base=False),)

    def declines(self, model: ModelSpec, variant: Variant, device: str) -> str | None:
        """Nothing: what the store holds is served."""
        return None

    def build(self, model: Model, variant: Variant, artifact: Path) -> None:
        """Store the model; the artifact is the store."""
        from harness.serving.store import PlainStore

        PlainStore(artifact).save(model.spec.id.lower(), model)

    @contextmanager
    def open(self, artifact: Path, variant: Variant, device: str) -> Iterator[HttpSession]:
        """Start the server; raises `harness.serving.server.NotServing` where it does not come up."""
        from tempfile import TemporaryDirectory

        from harness.serving.server import DETECTOR, serving
        from harness.serving.settings import Settings
        from harness.serving.store import PlainStore

        store = PlainStore(artifact.resolve())
        (listed,) = store.list()
        entry = store.get(str(listed.tag))
        settings = Settings(str(entry.tag), store.home, _TOKEN, device)
        with TemporaryDirectory() as folder, serving(DETECTOR, settings, Path(folder) / "log") as server:
            yield HttpSession(server.url, entry.spec, _TOKEN)


ADAPTER = BentomlService()
