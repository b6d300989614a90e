"""The detector behind every route of a service: found whole in the store, asked in one thread at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from threading import Lock
from typing import TYPE_CHECKING, Any

from harness.adapters.torch_eager import effective_of, full_fp32
from harness.families import family
from harness.serving.answers import to_json
from harness.serving.frames import DetectorFrames
from harness.serving.pictures import BadPicture, decoded
from harness.serving.store import PlainStore

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels
    from harness.serving.settings import Settings
    from harness.types import Json


class Served:
    """The detector behind every route; one call at a time, in whatever thread asks."""

    def __init__(self, settings: Settings) -> None:
        if settings.threads:
            import torch

            torch.set_num_threads(settings.threads)
        self._entry = PlainStore(settings.home).get(settings.tag)
        self.spec = self._entry.spec
        # TF32, autotuning and autocast stay off for as long as this process serves.
        self._precision = ExitStack()
        self._precision.enter_context(full_fp32())
        module, config = self._entry.load(settings.device)
        self.frames = DetectorFrames(self.spec, module, config, self._entry.attached, settings.largest_px)
        self._largest_px = settings.largest_px
        self._lock = Lock()

    def detections(self, content: bytes) -> tuple[Detections, Pixels]:
        """The answer to a picture file, and the picture. Raises `harness.serving.pictures.BadPicture`."""
        picture = decoded(content, self._largest_px)
        with self._lock:
            return family(self.spec.family).predict(self.frames.module, self.frames.config, [picture])[0], picture

    def together(self, contents: Sequence[bytes]) -> list[dict[str, Json]]:
        """Of each picture file its answer as JSON, with the size of this batch, or its own ``error``: a wrong one spoils none.

        Pictures of one size go through the detector as one batch; none is padded to another's size, so that no answer depends on
        who else asked.
        """
        pictures: dict[int, Pixels] = {}
        found: dict[int, dict[str, Json]] = {}
        for index, content in enumerate(contents):
            try:
                pictures[index] = decoded(content, self._largest_px)
            except BadPicture as error:
                found[index] = {"error": f"{error.what}. {error.cure}".strip()}
        with self._lock:
            answers = family(self.spec.family).predict(self.frames.module, self.frames.config, list(pictures.values()))
        for (index, picture), answer in zip(pictures.items(), answers, strict=True):
            found[index] = {**to_json(answer, picture, self.spec), "batch": len(contents)}
        return [found[index] for index in range(len(contents))]

    def predict(self, rows: list[dict[str, Any]]) -> list[dict[str, str]]:
        """`DetectorFrames.predict` of the rows. Raises `harness.serving.frames.BadFrame`."""
        import pandas as pd

        with self._lock:
            answers = self.frames.predict(pd.DataFrame(rows, dtype=object))
        found: list[dict[str, str]] = answers.to_dict(orient="records")
        return found

    def about(self) -> dict[str, Any]:
        """What is served: its tag, task, classes, threshold, and where this place differs from the one it was saved in."""
        return {
            "tag": str(self._entry.tag),
            "task": self.spec.task,
            "family": self.spec.family,
            "classes": list(self.spec.classes),
            "score_threshold": self.spec.score_threshold,
            "labels_of_predict": {str(label): name for label, name in self.frames.label_names.items()},
            "versions_differ": self._entry.differing(),
            "effective": asdict(effective_of(self.frames.module, "PyTorch eager", ("torch", self.spec.family))),
        }
