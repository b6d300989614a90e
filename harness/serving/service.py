"""A `@bentoml.service` class that serves one detector of the plain store, as ``bentoml serve`` and ``bentoml build`` take it.

Routes, all by POST: ``/detect``, a picture in, `harness.serving.answers` out; ``/draw``, a picture in, a PNG with the detections
drawn out; ``/predict``, ``{"df": [{"image_data": base64}, ...]}`` in, the rows of `harness.serving.frames` out; ``/about``, what is
served. What a client does wrong is answered with a 4xx and ``{"error": sentence}``. With ``Settings.batch`` BentoML answers those
requests to ``/detect`` that come together in one call (adaptive batching), and each answer says in ``batch`` how many that were.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import bentoml
from starlette.responses import JSONResponse, Response

from harness.drawing import drawn
from harness.errors import Unavailable, UsageError
from harness.serving.answers import to_json
from harness.serving.detector import Served
from harness.serving.gate import Gate
from harness.serving.marked import Marked
from harness.serving.pictures import encoded
from harness.serving.settings import Settings
from harness.serving.unbatched import Unbatched

PICTURE_ROUTES = ("/detect", "/draw")


def detector_service(settings: Settings, image: Any = None) -> Any:
    """The service class for these settings; ``image`` is a `bentoml.images.Image` for ``bentoml containerize``."""

    # The annotations are BentoML's input and output; what is answered are responses made here, which it passes on as they are.
    class DetectorService:
        def __init__(self) -> None:
            self._served = Served(settings)

        @bentoml.api
        def detect(self, image: Path) -> dict[str, Any]:
            return _answered(lambda: JSONResponse(to_json(*self._served.detections(image.read_bytes()), self._served.spec)))

        @bentoml.api
        def draw(self, image: Path) -> Annotated[Path, bentoml.validators.ContentType("image/png")]:
            def work() -> Response:
                answer, picture = self._served.detections(image.read_bytes())
                return Response(encoded(drawn(picture, answer, self._served.spec)), media_type="image/png")

            return _answered(work)

        @bentoml.api
        def predict(self, df: list[dict[str, Any]]) -> list[dict[str, str]]:
            return _answered(lambda: JSONResponse(self._served.predict(df)))

        @bentoml.api
        def about(self) -> dict[str, Any]:
            return self._served.about()

    class BatchedDetectorService(DetectorService):
        @bentoml.api(batchable=True, max_batch_size=max(settings.batch, 2), max_latency_ms=settings.latency_ms)
        def detect(self, image: list[Path]) -> list[dict[str, Any]]:
            return self._served.together([one.read_bytes() for one in image])

    kind = BatchedDetectorService if settings.batch else DetectorService
    service = bentoml.service(name="detector", traffic={"timeout": 300}, image=image)(kind)
    if settings.batch:
        service.add_asgi_middleware(Unbatched, routes=("/detect",))
    service.add_asgi_middleware(Gate, token=settings.token, pictures=PICTURE_ROUTES)
    service.add_asgi_middleware(Marked, mark=settings.mark)
    return service


def _answered(work: Callable[[], Response]) -> Any:
    try:
        return work()
    except Unavailable as error:
        return JSONResponse({"error": f"{error.what}. {error.cure}".strip()}, status_code=501)
    except UsageError as error:
        return JSONResponse({"error": f"{error.what}. {error.cure}".strip()}, status_code=400)


def from_environment() -> Any:
    """The service that the environment of this process describes: for the module that ``bentoml serve`` loads."""
    return detector_service(Settings.of(os.environ))
