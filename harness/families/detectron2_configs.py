"""Detectron2's configurations of both kinds, read alike: yaml files that make a ``CfgNode``, Python files that make a LazyConfig.

``ModelSpec.config`` is ``{"zoo": name}`` or ``{"file": path}``, the configuration to start from, and ``{"opts": {key: value}}``,
what is changed in it. A LazyConfig (a name that ends in ``.py``) may also have ``{"resnet": {"stem", "bottleneck", "res2"}}``, the
channels of a narrower ResNet-50, which has no key of its own there. The spec's classes, threshold and cap are put in besides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import UnreadableConfig

if TYPE_CHECKING:
    from harness.types import ModelSpec

_KEYS = {"zoo", "file", "opts", "resnet"}
_PLACES = ("MODEL.WEIGHTS", "MODEL.DEVICE", "OUTPUT_DIR")
_FROZEN, _UNFROZEN = "# frozen", "# not frozen"
_LAZY_PLACES = ("train.init_checkpoint", "train.output_dir", "train.device")


def is_lazy(config: Any) -> bool:
    """Whether this configuration is a LazyConfig, which `DefaultPredictor` does not take."""
    from omegaconf import DictConfig

    return isinstance(config, DictConfig)


def lazy_spec(spec: ModelSpec) -> bool:
    """Whether the spec's configuration would be a LazyConfig; Detectron2 is not asked."""
    return str(spec.config.get("zoo", spec.config.get("file", ""))).endswith(".py")


def read(spec: ModelSpec) -> Any:
    """The spec's configuration, on the CPU, without weights. Raises `UnreadableConfig` naming the key."""
    unknown = set(spec.config) - _KEYS
    if unknown or ("zoo" in spec.config) == ("file" in spec.config):
        keys = ", ".join(sorted(spec.config)) or "nothing"
        raise UnreadableConfig(f"{spec.id}: the configuration has {keys}", "Give one of 'zoo' and 'file', and 'opts' if need be.")
    return _read_lazy(spec) if lazy_spec(spec) else _read_node(spec)


def spec_of(config: Any, name: str, classes: Sequence[str] = ()) -> ModelSpec:
    """What a ``CfgNode`` of one's own says of its detector.

    Names that ``classes`` does not give are those of its datasets in `MetadataCatalog`, as far as their number fits; what nobody
    names is numbered.
    Raises `UnreadableConfig` for an architecture that is not known here, or another number of classes.
    """
    from harness.types import ModelSpec, Weights

    model, architecture = config.MODEL, str(config.MODEL.META_ARCHITECTURE)
    heads = {"GeneralizedRCNN": model.ROI_HEADS, "PanopticFPN": model.ROI_HEADS, "RetinaNet": model.RETINANET}
    if architecture not in heads:
        raise UnreadableConfig(f"{name} is a {architecture}", f"These can be read: {', '.join(heads)}.")
    head, regions = heads[architecture], architecture != "RetinaNet"
    masks, keypoints = regions and bool(model.MASK_ON), regions and bool(model.KEYPOINT_ON)
    if masks and keypoints:
        raise UnreadableConfig(f"{name} answers with masks and keypoints", "Turn MODEL.MASK_ON or MODEL.KEYPOINT_ON off.")
    count = int(head.NUM_CLASSES)
    if classes and len(classes) != count:
        raise UnreadableConfig(f"{name} has {count} classes, {len(classes)} names were given", "Give one a class, in their order.")
    panoptic = architecture == "PanopticFPN"
    return ModelSpec(
        name,
        "detectron2",
        {},
        Weights("path", "", ""),
        "panoptic" if panoptic else "segmentation" if masks else "keypoints" if keypoints else "detection",
        tuple(classes) or _named(config, "thing_classes", count, "class"),
        float(head.SCORE_THRESH_TEST),
        int(config.TEST.DETECTIONS_PER_IMAGE),
        _named(config, "keypoint_names", model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, "keypoint") if keypoints else (),
        # The head's class 0 stands for all things together.
        _named(config, "stuff_classes", model.SEM_SEG_HEAD.NUM_CLASSES, "stuff")[1:] if panoptic else (),
    )


def _named(config: Any, kind: str, count: int, otherwise: str) -> tuple[str, ...]:
    """Names as a dataset of the configuration has them where there is one that has as many, numbers where there is none."""
    from detectron2.data import MetadataCatalog

    for dataset in (*config.DATASETS.TRAIN, *config.DATASETS.TEST):
        # Asked for a dataset that it does not know, the catalog would make one up.
        names = MetadataCatalog.get(dataset).get(kind, ()) if dataset in MetadataCatalog else ()
        if len(names) == count:
            return tuple(map(str, names))
    return tuple(f"{otherwise} {index}" for index in range(count))


def input_format(config: Any) -> str:
    """RGB or BGR: the channels' order that the model was trained with."""
    return str(config.dataloader.test.mapper.image_format if is_lazy(config) else config.INPUT.FORMAT)


def shortest_and_longest_px(config: Any) -> tuple[int, int]:
    """To what a picture's shorter edge is resized for the test, and how long its longer one may become."""
    if is_lazy(config):
        resize = config.dataloader.test.mapper.augmentations[0]
        return int(resize.short_edge_length), int(resize.max_size)
    return int(config.INPUT.MIN_SIZE_TEST), int(config.INPUT.MAX_SIZE_TEST)


def build_module(config: Any) -> Any:
    """The untrained module, in training mode."""
    from detectron2.config import instantiate
    from detectron2.modeling import build_model

    return instantiate(config.model) if is_lazy(config) else build_model(config)


def text(config: Any) -> str:
    """JSON with sorted keys, without the places (of weights, device, output) that hosts differ in.

    Not Detectron2's own YAML: that writes values which share memory as references, so that equal configurations differ.
    """
    if is_lazy(config):
        from omegaconf import OmegaConf

        plain: Any = OmegaConf.create(OmegaConf.to_container(config, resolve=True), flags={"allow_objects": True})
        for key in _LAZY_PLACES:
            OmegaConf.update(plain, key, "")
        return json.dumps(OmegaConf.to_container(plain), sort_keys=True, indent=1, default=_name_or_words)
    plain = config.clone()
    plain.defrost()
    plain.merge_from_list([item for key in _PLACES for item in (key, "")])
    return json.dumps(plain, sort_keys=True, indent=1)


def written(config: Any) -> str | None:
    """A ``CfgNode`` as plain YAML behind a line that says whether it was frozen; None for a LazyConfig, which holds objects."""
    if is_lazy(config):
        return None
    return f"{_FROZEN if config.is_frozen() else _UNFROZEN}\n{config.dump()}"


def reread(text: str) -> Any:
    """The ``CfgNode`` that `written` wrote, keys of the user's own included. Raises `UnreadableConfig`."""
    from detectron2.config import CfgNode, get_cfg

    config = get_cfg()
    config.set_new_allowed(True)
    try:
        # Plain YAML has no tuples: Detectron2's own defaults say which lists were some.
        config.merge_from_other_cfg(CfgNode(CfgNode.load_cfg(text)))
    except Exception as error:  # yacs and yaml raise a dozen types for what they cannot read
        raise UnreadableConfig(f"the stored configuration cannot be read: {error}", "Save the model again.") from error
    config.set_new_allowed(False)
    if text.startswith(_FROZEN):
        config.freeze()
    return config


def _name_or_words(value: Any) -> str:
    """A function or class by its name, which is the same in every process; anything else as it describes itself."""
    name = getattr(value, "__qualname__", None)
    return repr(value) if name is None else f"{value.__module__}.{name}"


def _read_node(spec: ModelSpec) -> Any:
    config = _start(spec)
    for key, value in spec.config.get("opts", {}).items():
        try:
            config.merge_from_list([key, value])
        except (AssertionError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise _cannot_set(spec, key, value, error) from error
    config.MODEL.DEVICE = "cpu"
    config.MODEL.WEIGHTS = ""
    config.TEST.DETECTIONS_PER_IMAGE = spec.detection_cap
    config.MODEL.ROI_HEADS.NUM_CLASSES = config.MODEL.RETINANET.NUM_CLASSES = len(spec.classes)
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = config.MODEL.RETINANET.SCORE_THRESH_TEST = spec.score_threshold
    if spec.keypoints:
        config.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = len(spec.keypoints)
    if spec.stuff:
        # The head's class 0 stands for all things together.
        config.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 1 + len(spec.stuff)
    return config


def _start(spec: ModelSpec) -> Any:
    from detectron2 import model_zoo
    from detectron2.config import LazyConfig, get_cfg

    lazy, config = lazy_spec(spec), get_cfg()
    try:
        if "zoo" in spec.config:
            path = model_zoo.get_config_file(spec.config["zoo"])
            if lazy:
                return LazyConfig.load(path)
            config.merge_from_file(path)
        elif lazy:
            # A Python file is code by its nature; whoever names one wants it run.
            return LazyConfig.load(str(spec.config["file"]))
        else:
            # A user's own file is read as plain YAML: Detectron2's default would run code that the file names.
            config.merge_from_file(str(spec.config["file"]), allow_unsafe=False)
    except Exception as error:  # yacs, yaml and Python raise a dozen types for a file they cannot read
        name = spec.config.get("zoo", spec.config.get("file"))
        cure = "Name an entry of Detectron2's model zoo as 'zoo', or a configuration file as 'file'."
        raise UnreadableConfig(f"{spec.id}: Detectron2 cannot read {name}: {error}", cure) from error
    return config


def _read_lazy(spec: ModelSpec) -> Any:
    config = _start(spec)
    if "resnet" in spec.config:
        _narrow(config.model.backbone, spec.config["resnet"])
    for key, value in spec.config.get("opts", {}).items():
        _set(config, spec, key, value)
    for key, value in (
        ("model.num_classes", len(spec.classes)),
        ("model.test_score_thresh", spec.score_threshold),
        ("model.max_detections_per_image", spec.detection_cap),
        ("train.init_checkpoint", ""),
    ):
        _set(config, spec, key, value)
    _fit_head(config.model)
    return config


def _set(config: Any, spec: ModelSpec, key: str, value: Any) -> None:
    """Set a key whose parent exists: a LazyConfig leaves out the arguments that keep their defaults."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parent = key.rpartition(".")[0]
    try:
        if OmegaConf.select(config, parent) is None:
            raise KeyError(f"there is no {parent}")
        OmegaConf.update(config, key, value, merge=False)
    except (OmegaConfBaseException, KeyError, AttributeError) as error:
        raise _cannot_set(spec, key, value, error) from error


def _narrow(backbone: Any, channels: Any) -> None:
    """Replace the stages of the ResNet-50, whose widths are fixed, by narrower ones of the same depths."""
    from detectron2.config import LazyCall
    from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet

    norm = channels["norm"]
    stem, bottleneck, out = channels["stem"], channels["bottleneck"], channels["res2"]
    stages, before = [], stem
    for index, blocks in enumerate((3, 4, 6, 3)):
        widths = {"bottleneck_channels": bottleneck << index, "out_channels": out << index}
        strides = [1 if index == 0 else 2, *[1] * (blocks - 1)]
        stages.append(
            LazyCall(ResNet.make_stage)(
                block_class=BottleneckBlock,
                num_blocks=blocks,
                stride_per_block=strides,
                in_channels=before,
                norm=norm,
                stride_in_1x1=True,
                **widths,
            )
        )
        before = out << index
    backbone.bottom_up.stem.out_channels, backbone.bottom_up.stem.norm = stem, norm
    backbone.bottom_up.stages = stages
    backbone.bottom_up.freeze_at = 0


def _fit_head(model: Any) -> None:
    """The head's inputs are the pyramid's outputs; the LazyConfig states their width twice."""
    from detectron2.layers import ShapeSpec

    width = int(model.backbone.out_channels)
    model.head.input_shape = [ShapeSpec(channels=width)] * len(model.head.input_shape)
    if "top_block" in model.backbone and model.backbone.top_block.in_feature == "p5":
        model.backbone.top_block.in_channels = width


def _cannot_set(spec: ModelSpec, key: str, value: Any, error: Exception) -> UnreadableConfig:
    return UnreadableConfig(
        f"{spec.id}: Detectron2 cannot set {key} to {value!r}: {error}", "Correct this key in the configuration's 'opts'."
    )
