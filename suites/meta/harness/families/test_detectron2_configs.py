"""A configuration of somebody's own: what it says of its detector, and what nobody says."""

from __future__ import annotations

from typing import Any

import pytest

from harness.families.detectron2_configs import UnreadableConfig, spec_of
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS

pytest.importorskip("detectron2")
pytestmark = [pytest.mark.covers("M1", "M7"), *THEIR_WARNINGS]


def config(**changed: Any) -> Any:
    """Detectron2's defaults with some values changed, ``__`` for a dot."""
    from detectron2.config import get_cfg

    config = get_cfg()
    config.merge_from_list([item for key, value in changed.items() for item in (key.replace("__", "."), value)])
    return config


def test_the_names_are_those_of_its_dataset() -> None:
    spec = spec_of(config(MODEL__META_ARCHITECTURE="RetinaNet", DATASETS__TRAIN=("coco_2017_train",)), "mine")
    assert (spec.id, spec.task, len(spec.classes), spec.classes[0]) == ("mine", "detection", 80, "person")
    keypoints = spec_of(
        config(
            MODEL__META_ARCHITECTURE="GeneralizedRCNN",
            MODEL__KEYPOINT_ON=True,
            MODEL__ROI_HEADS__NUM_CLASSES=1,
            DATASETS__TEST=("keypoints_coco_2017_val",),
        ),
        "mine",
    )
    assert (keypoints.task, keypoints.classes, keypoints.keypoints[:2]) == ("keypoints", ("person",), ("nose", "left_eye"))
    panoptic = spec_of(
        config(
            MODEL__META_ARCHITECTURE="PanopticFPN", MODEL__MASK_ON=True, DATASETS__TRAIN=("coco_2017_train_panoptic_separated",)
        ),
        "mine",
    )
    assert (panoptic.task, len(panoptic.stuff), panoptic.stuff[0]) == ("panoptic", 53, "banner")


@pytest.mark.parametrize("datasets", [(), ("coco_2017_train",), ("never_registered",)], ids=["none", "other classes", "unknown"])
def test_what_nobody_names_is_numbered(datasets: tuple[str, ...]) -> None:
    from detectron2.data import MetadataCatalog

    changed = config(MODEL__META_ARCHITECTURE="GeneralizedRCNN", MODEL__ROI_HEADS__NUM_CLASSES=3, DATASETS__TRAIN=datasets)
    assert spec_of(changed, "mine").classes == ("class 0", "class 1", "class 2")
    # The catalog makes up a dataset for whoever asks for one that it does not know.
    assert "never_registered" not in MetadataCatalog


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"MODEL__META_ARCHITECTURE": "ProposalNetwork"}, "mine is a ProposalNetwork"),
        ({"MODEL__MASK_ON": True, "MODEL__KEYPOINT_ON": True}, "answers with masks and keypoints"),
    ],
)
def test_what_cannot_be_read_is_told(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(UnreadableConfig, match=words):
        spec_of(config(**changed), "mine")
    with pytest.raises(UnreadableConfig, match="has 80 classes, 2 names were given"):
        spec_of(config(), "mine", ["a", "b"])
