"""The legacy service that BentoML's guides write: a runner of the stored model, a picture in, JSON or a picture out.

`bentoml.legacy.Service` with `bentoml.io.Image` and `bentoml.io.JSON`, over an entry of `bentoml.detectron` (a
`DefaultPredictor`) or `bentoml.pytorch`. Errors, decoding and loading are the library's own. ``mended`` adds the lines without
which it does not do: the stored weights are loaded, and pictures are read as `harness.serving.pictures` reads them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.adapters.bentoml_store import CONFIG, SPEC, WEIGHTS
from harness.adapters.detectron2_predictor import predict_each
from harness.adapters.torch_eager import effective_of, read_spec
from harness.drawing import drawn
from harness.families import family
from harness.serving.answers import to_json
from harness.serving.gate import Gate
from harness.serving.marked import Marked
from harness.serving.pictures import BadPicture, pixels_of
from harness.serving.settings import Settings

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels


class StoredDetector:
    """An entry of the library's own routes and its runner; the model's specification lies in the store's folder."""

    def __init__(self, settings: Settings) -> None:
        import bentoml

        self.spec = read_spec(settings.home / SPEC)
        self._mended = settings.mended
        self._largest_px = settings.largest_px
        self._mark = settings.mark
        stored = (bentoml.detectron if self.spec.family == "detectron2" else bentoml.pytorch).get(settings.tag)
        if self._mended:
            self._mend(stored)
        runnable = stored.to_runnable()
        provider, packages = "PyTorch eager", ("torch", self.spec.family)
        # The library's runnable has the model's own methods alone: this one reads back what computes in its process.
        runnable.add_method(lambda own: asdict(effective_of(_module(own.model), provider, packages)), name="effective")
        self.runner = bentoml.legacy.Runner(runnable, name=stored.tag.name, models=[stored])

    def add_apis(self, service: Any) -> None:
        """``/detect``, ``/draw`` and ``/about``, as `harness.serving.service` has them."""
        import bentoml

        picture, text = bentoml.io.Image(), bentoml.io.JSON()

        def detect(image: Any) -> dict[str, Any]:
            pixels = self._pixels(image)
            return to_json(self._answer(pixels), pixels, self.spec)

        def draw(image: Any) -> Any:
            pixels = self._pixels(image)
            return drawn(pixels, self._answer(pixels), self.spec)

        def about(_: Any) -> dict[str, Any]:
            return {"effective": self.runner.effective.run()}

        service.add_asgi_middleware(Marked, mark=self._mark)
        if self._mended:
            # `bentoml.io.Image` takes whatever file a form has, in any field.
            service.add_asgi_middleware(Gate, token=None, pictures=("/detect", "/draw"))
        service.api(input=picture, output=text)(detect)
        service.api(input=picture, output=bentoml.io.Image(mime_type="image/png"))(draw)
        service.api(input=text, output=text)(about)

    def _mend(self, stored: Any) -> None:
        from PIL import Image

        # `pixels_of` has a limit of its own; Pillow's is met inside the library, which answers it with a 500.
        Image.MAX_IMAGE_PIXELS = None
        if self.spec.family == "detectron2":
            stored.custom_objects[CONFIG].MODEL.WEIGHTS = stored.path_of(WEIGHTS)
        else:
            os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

    def _pixels(self, image: Any) -> Pixels:
        if not self._mended:
            # As the guides have it. A grey picture has one channel then, whatever mode `bentoml.io.Image` was told.
            return np.asarray(image)
        from bentoml.exceptions import BadInput

        try:
            return pixels_of(image, self._largest_px)
        except BadPicture as error:
            raise BadInput(f"{error.what}. {error.cure}".strip()) from error

    def _answer(self, picture: Pixels) -> Detections:
        if self.spec.family == "detectron2":
            return predict_each(self.runner.run, [picture])[0]
        return family(self.spec.family).predict(_Distant(self.runner), None, [picture])[0]


class _Distant:
    """What a family asks of a module, of one behind a runner: to be called, and where its tensors go, which is here."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def __call__(self, tensors: Any) -> Any:
        return self._runner.run(tensors)

    def parameters(self) -> Iterator[Any]:
        import torch

        yield torch.empty(0)


def _module(loaded: Any) -> Any:
    """The module of a `DefaultPredictor`, or itself."""
    return loaded.model if hasattr(loaded, "cfg") and hasattr(loaded, "model") else loaded
