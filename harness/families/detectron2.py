"""Detectron2: `DefaultPredictor`'s preprocessing, `GeneralizedRCNN` traced without postprocessing, postprocessing on the host.

What ``ModelSpec.config`` may hold is said in `harness.families.detectron2_configs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.detections import Detections
from harness.errors import Broken, HarnessError, Unavailable
from harness.families import Graph, Model, detectron2_configs
from harness.families.attached import attached_for
from harness.families.checkpoints import float32_tensors, weights_file
from harness.families.detectron2_configs import input_format, shortest_and_longest_px
from harness.families.detectron2_instances import (
    OUTPUTS,
    Combining,
    detections_in_frame,
    detections_of,
    raw_instances,
    to_instances,
)

if TYPE_CHECKING:
    import torch

    from harness.detections import Pixels, Tensors
    from harness.families.torchvision import Truth
    from harness.ledger import Ledger
    from harness.stages import Stage
    from harness.types import ModelSpec

__all__ = ["FAMILY", "prepare_pixels", "read_config", "require", "to_instances"]

TESTED_COMMIT = "02b5c4e2"
INSTALL = (
    "Detectron2 is not on the package index. Beside torch and setuptools<81, as its install guide says: "
    f"python -m pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git@{TESTED_COMMIT}'"
)
REBUILD = f"Build it again beside the installed torch. {INSTALL}"


def require() -> None:
    """Detectron2 can be used. Raises `Unavailable` when it is not installed, `Broken` when it is and does not work."""
    try:
        for module in ("detectron2", "detectron2._C", "detectron2.model_zoo"):
            import_module(module)
    except ModuleNotFoundError as error:
        if error.name == "detectron2":
            raise Unavailable("Detectron2 is not installed", INSTALL) from error
        if error.name == "pkg_resources":
            cure = "setuptools 81 dropped it: python -m pip install 'setuptools<81'"
            raise Broken("Detectron2 is installed, but its model zoo imports pkg_resources, which is gone", cure) from error
        raise Broken(f"Detectron2 is installed, but {error.name} is not", f"Install it. {REBUILD}") from error
    except (ImportError, OSError) as error:
        raise Broken(f"Detectron2 is installed, but its compiled part does not load: {error}", REBUILD) from error


def read_config(spec: ModelSpec) -> Any:
    """The spec's configuration, a ``CfgNode`` or a LazyConfig, on the CPU, without weights. Raises `UnreadableConfig`."""
    require()
    return detectron2_configs.read(spec)


def _resize(config: Any, height: int, width: int) -> Any:
    """`DefaultPredictor`'s transform for a picture of this size."""
    from detectron2.data.transforms import ResizeShortestEdge

    shortest, longest = shortest_and_longest_px(config)
    # The transform reads the shape only; an empty array of it costs nothing.
    return ResizeShortestEdge([shortest, shortest], longest).get_transform(np.empty((height, width, 3), np.uint8))


def prepare_pixels(config: Any, image: Pixels) -> torch.Tensor:
    """``float32 [3, h, w]`` in 0..255, as `DefaultPredictor` feeds it: channels as the model's format, shortest edge resized."""
    import torch

    pixels = image if input_format(config) == "RGB" else image[:, :, ::-1]
    resized = _resize(config, image.shape[0], image.shape[1]).apply_image(pixels)
    return torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))


def _without_postprocess(module: Any, inputs: Any) -> Any:
    return [{"instances": one} for one in module.inference(inputs, do_postprocess=False)]


def _without_combining(module: Any, inputs: Any) -> Any:
    """A `PanopticFPN` answers in two: the detections, and what its semantic head makes of every pixel."""
    instances, semantic = module.inference(inputs, do_postprocess=False)
    return [{"instances": one, "sem_seg": logits} for one, logits in zip(instances, semantic, strict=True)]


def _graph(spec: ModelSpec, module: Any, image: torch.Tensor) -> Graph:
    """The model as Detectron2's own exporter traces it."""
    from detectron2.export import TracingAdapter
    from detectron2.modeling import GeneralizedRCNN

    inference: Any = None
    if isinstance(module, GeneralizedRCNN):
        inference = _without_combining if "panoptic" in spec.outputs else _without_postprocess
    # Other architectures are called as they are, as Detectron2's export script does.
    # In eval mode itself: exporters put the module they are given back into the mode it had, and all that is in it.
    adapter = TracingAdapter(module, [{"image": image}], inference).eval()
    outputs = OUTPUTS[spec.task]
    axes: dict[str, Mapping[int, str]] = {name: {0: "detections"} for name in outputs if name not in ("image_size", "sem_seg")}
    if "sem_seg" in outputs:
        axes["sem_seg"] = {1: "height_padded", 2: "width_padded"}
    return Graph(adapter, {"image": image}, outputs, {"image": {1: "height", 2: "width"}, **axes})


def _truth_instances(config: Any, truth: Truth) -> Any:
    """What a scene holds, in the resized frame."""
    import torch
    from detectron2.structures import BitMasks, Boxes, Instances, Keypoints

    height, width = truth.masks.shape[1:]
    resize = _resize(config, height, width)
    masks = [resize.apply_segmentation(mask.astype(np.uint8)) for mask in truth.masks]
    stacked = np.stack(masks) if masks else np.zeros((0, resize.new_h, resize.new_w), np.uint8)
    return Instances(
        (resize.new_h, resize.new_w),
        gt_boxes=Boxes(torch.from_numpy(resize.apply_box(truth.boxes_xyxy_px).astype(np.float32))),
        gt_classes=torch.from_numpy(truth.labels.copy()),
        gt_masks=BitMasks(torch.from_numpy(stacked.astype(np.bool_))),
        gt_keypoints=Keypoints(torch.from_numpy(_resized_keypoints(resize, truth.keypoints))),
    )


def _resized_keypoints(resize: Any, keypoints: NDArray[np.float32]) -> NDArray[np.float32]:
    places = resize.apply_coords(keypoints[:, :, :2].reshape(-1, 2).copy())
    return np.concatenate([places.reshape(*keypoints.shape[:2], 2), keypoints[:, :, 2:]], axis=2).astype(np.float32)


def _training_input(config: Any, image: Pixels, truth: Truth) -> dict[str, Any]:
    """One image with its truth, as Detectron2's `DatasetMapper` makes it."""
    import torch

    semantic = _resize(config, *truth.semantic.shape).apply_segmentation(truth.semantic.astype(np.uint8))
    return {
        "image": prepare_pixels(config, image),
        "instances": _truth_instances(config, truth),
        "sem_seg": torch.from_numpy(semantic.astype(np.int64)),
    }


def _demand_all(module: Any, checkpoint: Path) -> None:
    """Raises `HarnessError` unless the checkpoint has every tensor and no other: Detectron2 itself only logs it."""
    import torch

    stored, wanted = torch.load(checkpoint, weights_only=True)["model"], module.state_dict()
    reshaped = {name for name in stored.keys() & wanted.keys() if stored[name].shape != wanted[name].shape}
    wrong = sorted(stored.keys() ^ wanted.keys() | reshaped)
    if wrong:
        cure = "Use a checkpoint with the configuration that it was trained with."
        raise HarnessError(f"{checkpoint} does not fit its configuration, at {', '.join(wrong[:5])}", cure)


class _Processor:
    """`DefaultPredictor`'s preprocessing before the graph, `detector_postprocess` behind it."""

    def __init__(self, spec: ModelSpec) -> None:
        self._config = read_config(spec)
        self._combining = Combining.of(self._config) if "panoptic" in spec.outputs else None

    def prepare(self, image: Pixels) -> Tensors:
        """``{"image": float32 [3, h, w]}``."""
        return {"image": prepare_pixels(self._config, image).numpy()}

    def finish(self, outputs: Tensors, image: Pixels) -> Detections:
        """The traced outputs as detections of the original image."""
        height, width = image.shape[:2]
        if self._combining is None:
            return detections_in_frame(raw_instances(outputs), height, width)
        return self._combining.detections(raw_instances(outputs), outputs["sem_seg"], height, width)


class _Detectron2:
    """The family; every method imports Detectron2 itself and raises `Unavailable` or `Broken` where that fails."""

    name = "detectron2"
    requires = ("torch", "detectron2")
    first_label = 0

    def materialise(self, spec: ModelSpec, folder: Path) -> Path:
        """``model_final.pth`` as Detectron2's trainers leave it: ``{"model": state_dict}``, fp32."""
        import torch

        tensors = float32_tensors(weights_file(spec.weights))
        path = folder / "model_final.pth"
        torch.save({"model": {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}}, path)
        return path

    def build(self, spec: ModelSpec, checkpoint: Path, sample: Pixels) -> Model:
        """The model of the spec's configuration, from ``checkpoint``: out of a `DefaultPredictor`, where that can be.

        ``native`` is then the predictor; a LazyConfig is instantiated and its checkpoint read as Detectron2's own tools do.
        """
        config = read_config(spec)
        native = {}
        if detectron2_configs.is_lazy(config):
            from detectron2.checkpoint import DetectionCheckpointer

            module = detectron2_configs.build_module(config).eval()
            DetectionCheckpointer(module).load(str(checkpoint))
        else:
            from detectron2.engine import DefaultPredictor

            config.MODEL.WEIGHTS = str(checkpoint)
            native["predictor"] = DefaultPredictor(config)
            module = native["predictor"].model
        _demand_all(module, checkpoint)
        graph = _graph(spec, module, prepare_pixels(config, sample))
        return Model(spec, module, config, sample, graph, native, attached_for(spec))

    def construct(self, spec: ModelSpec) -> tuple[Any, Any]:
        """The untrained module and its configuration; the random numbers are torch's own, seed them before."""
        config = read_config(spec)
        return detectron2_configs.build_module(config), config

    def processor(self, spec: ModelSpec) -> _Processor:
        """`_Processor` of the spec's configuration."""
        return _Processor(spec)

    def predict(
        self, module: Any, config: Any, images: Sequence[Pixels], margins: bool = False, *, mixed: bool = False
    ) -> list[Detections]:
        """Answer with the live module, on the device where it is; images of equal size, ``mixed`` all, go in as one batch."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(() if mixed else image.shape, []).append(index)
        answers: dict[int, Detections] = {}
        for indices in by_size.values():
            batch = [images[i] for i in indices]
            answers.update(zip(indices, self._predict_batch(module, config, batch, margins), strict=True))
        return [answers[index] for index in range(len(images))]

    def _predict_batch(self, module: Any, config: Any, images: Sequence[Pixels], margins: bool) -> list[Detections]:
        import torch
        from detectron2.modeling import GeneralizedRCNN, PanopticFPN

        sizes = [image.shape[:2] for image in images]
        inputs = [
            {"image": prepare_pixels(config, image), "height": height, "width": width}
            for image, (height, width) in zip(images, sizes, strict=True)
        ]
        with torch.no_grad():
            if not isinstance(module, GeneralizedRCNN):
                return [detections_of(answer["instances"]) for answer in module(inputs)]
            # The two halves of what calling the module does, so that the masks' probabilities can be seen in between.
            raw = module.inference(inputs, do_postprocess=False)
            if isinstance(module, PanopticFPN):
                combining = Combining.of(config)
                parts = zip(*raw, sizes, strict=True)
                return [combining.detections(one, seen, height, width, margins) for one, seen, (height, width) in parts]
            return [detections_in_frame(one, height, width, margins) for one, (height, width) in zip(raw, sizes, strict=True)]

    def losses(self, module: Any, config: Any, images: Sequence[Pixels], truths: Sequence[Truth]) -> dict[str, torch.Tensor]:
        """The training losses by name, scalars with gradients, of ``uint8 [H, W, 3]`` images and their truths."""
        inputs = [_training_input(config, image, truth) for image, truth in zip(images, truths, strict=True)]
        from detectron2.utils.events import EventStorage

        # Detectron2's heads write statistics into a storage that must be open; nothing here reads them.
        with EventStorage(0):
            found: dict[str, torch.Tensor] = module(inputs)
        return found

    def stages(self, spec: ModelSpec, module: Any) -> tuple[Stage, ...]:
        """`harness.families.detectron2_stages.stages`."""
        from harness.families import detectron2_stages

        return detectron2_stages.stages(spec, module)

    def ledger(self, module: Any, config: Any, image: Pixels) -> Ledger | None:
        """`harness.families.detectron2_ledger.record`."""
        from harness.families import detectron2_ledger

        return detectron2_ledger.record(module, lambda: self.predict(module, config, [image]), image.shape[:2])

    def config_text(self, config: Any) -> str:
        """`harness.families.detectron2_configs.text`."""
        return detectron2_configs.text(config)

    written_config = staticmethod(detectron2_configs.written)
    config_of = staticmethod(detectron2_configs.reread)
    module_of = staticmethod(detectron2_configs.build_module)


FAMILY = _Detectron2()
