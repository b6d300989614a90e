"""Detectron2's `DefaultPredictor` from a configuration file and a checkpoint, as its users keep a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.adapters import Restored
from harness.adapters.torch_eager import effective_of, full_fp32
from harness.families.detectron2_configs import lazy_spec
from harness.types import Effective, Variant

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels
    from harness.families import Model
    from harness.types import ModelSpec

_CONFIG = "config.yaml"
_CHECKPOINT = "model_final.pth"


class PredictorSession:
    """A live `DefaultPredictor`, fed as its documentation says: one BGR picture a call."""

    batching = "a loop over the images"

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor

    @property
    def effective(self) -> Effective:
        """Read back from the predictor's model and PyTorch's switches."""
        return effective_of(self._predictor.model, "Detectron2 DefaultPredictor", ("torch", "detectron2"))

    @property
    def restored(self) -> Restored:
        """The model inside the predictor, and the predictor's configuration."""
        return Restored(self._predictor.model, self._predictor.cfg, native={"predictor": self._predictor})

    def predict(self, images: Sequence[Pixels]) -> list[Detections]:
        """One call an image. The predictor gives finished masks, so that pixels on the threshold are unknown."""
        return predict_each(self._predictor, images)


def predict_each(predictor: Any, images: Sequence[Pixels]) -> list[Detections]:
    """Answers of a `DefaultPredictor`, which takes BGR whatever the model takes."""
    from harness.families.detectron2_instances import detections_of, panoptic_of

    found = []
    for image in images:
        answer = predictor(image[:, :, ::-1])
        panoptic = panoptic_of(*answer["panoptic_seg"]) if "panoptic_seg" in answer else None
        found.append(detections_of(answer["instances"], panoptic=panoptic))
    return found


class Detectron2Predictor:
    """`DetectionCheckpointer` writes, `DefaultPredictor` reads."""

    name = "detectron2_predictor"
    requires = ("torch", "detectron2")
    variants = (Variant("fp32"),)

    def declines(self, model: ModelSpec, variant: Variant, device: str) -> str | None:
        """Only Detectron2's models have a `DefaultPredictor`, and of these only those of a ``CfgNode``."""
        if model.family != "detectron2":
            return "DefaultPredictor runs Detectron2's models only."
        return "DefaultPredictor takes a CfgNode; this model is made from a LazyConfig." if lazy_spec(model) else None

    def keeps(self, variant: Variant) -> tuple[str, ...]:
        """The predictor's configuration."""
        return ("config",)

    def build(self, model: Model, variant: Variant, artifact: Path) -> None:
        """Write ``model_final.pth`` and ``config.yaml``, whose ``MODEL.WEIGHTS`` is relative to the artifact."""
        from detectron2.checkpoint import DetectionCheckpointer

        config = model.config.clone()
        config.defrost()
        config.MODEL.WEIGHTS = _CHECKPOINT
        (artifact / _CONFIG).write_text(config.dump())
        DetectionCheckpointer(model.module, save_dir=str(artifact)).save(Path(_CHECKPOINT).stem)

    @contextmanager
    def open(self, artifact: Path, variant: Variant, device: str) -> Iterator[PredictorSession]:
        """A `DefaultPredictor` of the artifact's configuration, on ``device``."""
        from detectron2.config import get_cfg
        from detectron2.engine import DefaultPredictor

        config = get_cfg()
        config.merge_from_file(str(artifact / _CONFIG), allow_unsafe=False)
        config.MODEL.WEIGHTS = str(artifact / config.MODEL.WEIGHTS)
        config.MODEL.DEVICE = device
        with full_fp32():
            yield PredictorSession(DefaultPredictor(config))


ADAPTER = Detectron2Predictor()
