"""Detectron2: zoo configurations, `DefaultPredictor`'s preprocessing, `GeneralizedRCNN` traced without postprocessing.

``ModelSpec.config`` is ``{"zoo": name}`` or ``{"file": path}``, the configuration to start from, and ``{"opts": {key: value}}``,
what is changed in it. ``score_threshold`` and ``detection_cap`` of the spec become ``SCORE_THRESH_TEST`` and
``DETECTIONS_PER_IMAGE``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import Broken, HarnessError, Unavailable, UnreadableConfig
from harness.families import Graph, Model
from harness.families.attached import attached_for
from harness.families.checkpoints import float32_tensors, weights_file
from harness.families.detectron2_instances import (
    OUTPUTS,
    OUTPUTS_WITH_MASKS,
    detections_in_frame,
    detections_of,
    raw_instances,
    to_instances,
)
from harness.types import Detections

if TYPE_CHECKING:
    import torch

    from harness.families.torchvision import Truth
    from harness.types import ModelSpec, Pixels, Tensors

__all__ = ["FAMILY", "prepare_pixels", "read_config", "require", "to_instances"]

TESTED_COMMIT = "02b5c4e2"
INSTALL = (
    "Detectron2 is not on the package index. Beside torch and setuptools<81, as its install guide says: "
    f"python -m pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git@{TESTED_COMMIT}'"
)
REBUILD = f"Build it again beside the installed torch. {INSTALL}"
_PLACES = ("MODEL.WEIGHTS", "MODEL.DEVICE", "OUTPUT_DIR")


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
    """The spec's configuration as a ``CfgNode`` on the CPU, without weights. Raises `UnreadableConfig` naming the key."""
    require()
    unknown = set(spec.config) - {"zoo", "file", "opts"}
    if unknown or ("zoo" in spec.config) == ("file" in spec.config):
        keys = ", ".join(sorted(spec.config)) or "nothing"
        raise UnreadableConfig(f"{spec.id}: the configuration has {keys}", "Give one of 'zoo' and 'file', and 'opts' if need be.")
    config = _start(spec)
    for key, value in spec.config.get("opts", {}).items():
        _change(config, key, value, spec.id)
    config.MODEL.DEVICE = "cpu"
    config.MODEL.WEIGHTS = ""
    config.TEST.DETECTIONS_PER_IMAGE = spec.detection_cap
    config.MODEL.ROI_HEADS.NUM_CLASSES = config.MODEL.RETINANET.NUM_CLASSES = len(spec.classes)
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = config.MODEL.RETINANET.SCORE_THRESH_TEST = spec.score_threshold
    return config


def _start(spec: ModelSpec) -> Any:
    from detectron2 import model_zoo
    from detectron2.config import get_cfg

    config = get_cfg()
    try:
        if "zoo" in spec.config:
            config.merge_from_file(model_zoo.get_config_file(spec.config["zoo"]))
        else:
            # A user's own file is read as plain YAML: Detectron2's default would run code that the file names.
            config.merge_from_file(str(spec.config["file"]), allow_unsafe=False)
    except Exception as error:  # yacs and yaml raise a dozen types for a file they cannot read
        name = spec.config.get("zoo", spec.config.get("file"))
        cure = "Name an entry of Detectron2's model zoo as 'zoo', or a configuration file as 'file'."
        raise UnreadableConfig(f"{spec.id}: Detectron2 cannot read {name}: {error}", cure) from error
    return config


def _change(config: Any, key: str, value: Any, model: str) -> None:
    try:
        config.merge_from_list([key, value])
    except (AssertionError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UnreadableConfig(
            f"{model}: Detectron2 cannot set {key} to {value!r}: {error}", "Correct this key in the configuration's 'opts'."
        ) from error


def _resize(config: Any, height: int, width: int) -> Any:
    """`DefaultPredictor`'s transform for a picture of this size."""
    from detectron2.data.transforms import ResizeShortestEdge

    shortest = [config.INPUT.MIN_SIZE_TEST, config.INPUT.MIN_SIZE_TEST]
    # The transform reads the shape only; an empty array of it costs nothing.
    return ResizeShortestEdge(shortest, config.INPUT.MAX_SIZE_TEST).get_transform(np.empty((height, width, 3), np.uint8))


def prepare_pixels(config: Any, image: Pixels) -> torch.Tensor:
    """``float32 [3, h, w]`` in 0..255, as `DefaultPredictor` feeds it: channels as ``INPUT.FORMAT``, shortest edge resized."""
    import torch

    pixels = image if config.INPUT.FORMAT == "RGB" else image[:, :, ::-1]
    resized = _resize(config, image.shape[0], image.shape[1]).apply_image(pixels)
    return torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))


def _without_postprocess(module: Any, inputs: Any) -> Any:
    return [{"instances": module.inference(inputs, do_postprocess=False)[0]}]


def _graph(module: Any, image: torch.Tensor) -> Graph:
    """The model as Detectron2's own exporter traces it."""
    from detectron2.export import TracingAdapter
    from detectron2.modeling import GeneralizedRCNN

    # Other architectures are called as they are, as Detectron2's export script does.
    inference: Callable[..., Any] | None = _without_postprocess if isinstance(module, GeneralizedRCNN) else None
    # In eval mode itself: exporters put the module they are given back into the mode it had, and all that is in it.
    adapter = TracingAdapter(module, [{"image": image}], inference).eval()
    outputs = OUTPUTS_WITH_MASKS if len(adapter(image)) == len(OUTPUTS_WITH_MASKS) else OUTPUTS
    axes: dict[str, Mapping[int, str]] = {name: {0: "detections"} for name in outputs if name != "image_size"}
    return Graph(adapter, {"image": image}, outputs, {"image": {1: "height", 2: "width"}, **axes})


def _truth_instances(config: Any, truth: Truth) -> Any:
    """What a scene holds, in the resized frame."""
    import torch
    from detectron2.structures import BitMasks, Boxes, Instances

    height, width = truth.masks.shape[1:]
    resize = _resize(config, height, width)
    masks = [resize.apply_segmentation(mask.astype(np.uint8)) for mask in truth.masks]
    stacked = np.stack(masks) if masks else np.zeros((0, resize.new_h, resize.new_w), np.uint8)
    return Instances(
        (resize.new_h, resize.new_w),
        gt_boxes=Boxes(torch.from_numpy(resize.apply_box(truth.boxes_xyxy_px).astype(np.float32))),
        gt_classes=torch.from_numpy(truth.labels.copy()),
        gt_masks=BitMasks(torch.from_numpy(stacked.astype(np.bool_))),
    )


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

    def prepare(self, image: Pixels) -> Tensors:
        """``{"image": float32 [3, h, w]}``."""
        return {"image": prepare_pixels(self._config, image).numpy()}

    def finish(self, outputs: Tensors, image: Pixels) -> Detections:
        """The traced outputs, in their order, as detections of the original image."""
        return detections_in_frame(raw_instances(tuple(outputs.values())), image.shape[0], image.shape[1])


class _Detectron2:
    """The family; every method imports Detectron2 itself and raises `Unavailable` or `Broken` where that fails."""

    name = "detectron2"
    requires = ("torch", "detectron2")

    def materialise(self, spec: ModelSpec, folder: Path) -> Path:
        """``model_final.pth`` as Detectron2's trainers leave it: ``{"model": state_dict}``, fp32."""
        import torch

        tensors = float32_tensors(weights_file(spec.weights))
        path = folder / "model_final.pth"
        torch.save({"model": {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}}, path)
        return path

    def build(self, spec: ModelSpec, checkpoint: Path, sample: Pixels) -> Model:
        """A `DefaultPredictor` of the spec's configuration, which reads ``checkpoint``, and the model inside it."""
        config = read_config(spec)
        config.MODEL.WEIGHTS = str(checkpoint)
        from detectron2.engine import DefaultPredictor

        predictor = DefaultPredictor(config)
        _demand_all(predictor.model, checkpoint)
        return Model(
            spec=spec,
            module=predictor.model,
            config=config,
            sample=sample,
            graph=_graph(predictor.model, prepare_pixels(config, sample)),
            native={"predictor": predictor},
            attached=attached_for(spec),
        )

    def construct(self, spec: ModelSpec) -> tuple[Any, Any]:
        """The untrained module and its configuration; the random numbers are torch's own, seed them before."""
        config = read_config(spec)
        from detectron2.modeling import build_model

        return build_model(config), config

    def processor(self, spec: ModelSpec) -> _Processor:
        """`_Processor` of the spec's configuration."""
        return _Processor(spec)

    def predict(self, module: Any, config: Any, images: Sequence[Pixels], margins: bool = False) -> list[Detections]:
        """Answer with the live module, on the device where it is; images of equal size go in as one batch."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(image.shape, []).append(index)
        answers: dict[int, Detections] = {}
        for indices in by_size.values():
            batch = [images[i] for i in indices]
            answers.update(zip(indices, self._predict_batch(module, config, batch, margins), strict=True))
        return [answers[index] for index in range(len(images))]

    def _predict_batch(self, module: Any, config: Any, images: Sequence[Pixels], margins: bool) -> list[Detections]:
        import torch
        from detectron2.modeling import GeneralizedRCNN

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
            return [detections_in_frame(one, height, width, margins) for one, (height, width) in zip(raw, sizes, strict=True)]

    def losses(self, module: Any, config: Any, images: Sequence[Pixels], truths: Sequence[Truth]) -> dict[str, torch.Tensor]:
        """The training losses by name, scalars with gradients, of ``uint8 [H, W, 3]`` images and their truths."""
        pairs = zip(images, truths, strict=True)
        inputs = [{"image": prepare_pixels(config, image), "instances": _truth_instances(config, truth)} for image, truth in pairs]
        from detectron2.utils.events import EventStorage

        # Detectron2's heads write statistics into a storage that must be open; nothing here reads them.
        with EventStorage(0):
            found: dict[str, torch.Tensor] = module(inputs)
        return found

    def config_text(self, config: Any) -> str:
        """The configuration as JSON with sorted keys, without the places (of weights, device, output) that hosts differ in.

        Not Detectron2's own YAML: that writes values which share memory as references, so that equal configurations differ.
        """
        plain = config.clone()
        plain.defrost()
        plain.merge_from_list([item for key in _PLACES for item in (key, "")])
        return json.dumps(plain, sort_keys=True, indent=1)


FAMILY = _Detectron2()
