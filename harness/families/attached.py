"""What a user of a model store keeps beside the model: the same for every family, so that each route is asked the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from harness.types import ModelSpec


def attached_for(spec: ModelSpec) -> dict[str, Any]:
    """Labels, metadata, custom objects and signatures to store with a model; fresh objects on every call.

    ``labels`` is ``str -> str``. ``metadata`` holds JSON values of every kind that BentoML's metadata takes (it refuses null):
    text beyond ASCII, whole and fractional numbers, booleans, nested lists and mappings, empty ones. ``custom_objects`` holds a
    list, and a ``float32 [classes]`` array of thresholds in 0..1, which only pickling carries. ``signatures`` is BentoML's
    default for detectors: one method, images one at a time.
    """
    thresholds = np.full(len(spec.classes), spec.score_threshold, dtype=np.float32)
    return {
        "labels": {"team": "harness", "stage": "conformance", "model": spec.id, "task": spec.task},
        "metadata": {
            "task": spec.task,
            "classes": list(spec.classes),
            "class_count": len(spec.classes),
            "score_threshold": spec.score_threshold,
            "calibrated": False,
            "nested": {"scales": [0.5, 1, 2.25], "inner": {"deeper": [[1, 2], [3]], "yes": True}},
            "unicode": "Prüfstück ▲■● 検出",
            "empty": {"list": [], "mapping": {}, "text": ""},
        },
        "custom_objects": {"classes": list(spec.classes), "thresholds": thresholds},
        "signatures": {"__call__": {"batchable": False}},
    }
