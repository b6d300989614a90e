"""What differs between two things that should be equal, in words: models, what was stored beside them, answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.detections import Detections, Masks, Panoptic
from harness.types import Json, Measure, Restoration, TensorDigest


def tensor_differences(saved: Restoration, found: Restoration, *, device: bool = False) -> Iterator[str]:
    """What differs between two sets of tensors, in words: by name, then kind, dtype, shape, value (and device)."""
    before, after = _by_name(saved), _by_name(found)
    for name, tensor in before.items():
        if name not in after:
            yield f"{tensor.kind} {name} did not come back"
            continue
        other = after[name]
        for what in ("kind", "dtype", "shape", *(("device",) if device else ())):
            if getattr(tensor, what) != getattr(other, what):
                yield f"{tensor.kind} {name} has {what} {getattr(other, what)}, it was {getattr(tensor, what)}"
        if tensor.sha256 != other.sha256:
            yield f"{tensor.kind} {name} {tensor.dtype}{list(tensor.shape)} has another value than the one saved"
    for name in after.keys() - before.keys():
        yield f"{after[name].kind} {name} came back and was never saved"


def tensor_measures(saved: Restoration, found: Restoration) -> tuple[Measure, ...]:
    """How many of the saved tensors came back with another value, or not at all, against a level of none."""
    before, after = _by_name(saved), _by_name(found)
    equal = sum(name in after and after[name].sha256 == tensor.sha256 for name, tensor in before.items())
    return (Measure("tensors that differ", len(before) - equal, 0), Measure("tensors", len(before)))


def _by_name(restoration: Restoration) -> Mapping[str, TensorDigest]:
    return {tensor.name: tensor for tensor in restoration.tensors}


def kept_differences(saved: Restoration, found: Restoration, keeps: Collection[str] | None = None) -> Iterator[str]:
    """What differs in config and attachments: all of them, or of ``keeps`` and whatever came back besides."""
    if (keeps is None or "config" in keeps or found.config is not None) and saved.config != found.config:
        yield f"the config differs: {_first_line(saved.config, found.config)}"
    for key, value in saved.attached.items():
        if key not in found.attached:
            if keeps is None or key in keeps:
                yield f"{key!r}, stored beside the model, did not come back"
        elif found.attached[key] != value:
            yield f"{key!r}, stored beside the model, came back as {_short(found.attached[key])}, it was {_short(value)}"
    for key in found.attached.keys() - saved.attached.keys():
        yield f"{key!r} came back and was never stored"


def version_differences(found: Restoration, keeps: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with the versions that a store says it was saved with."""
    if "versions" in keeps and not found.versions:
        yield "the versions that it was saved with did not come back"
    yield from found.versions_wrong


def answer_differences(saved: Restoration, found: Restoration) -> Iterator[str]:
    """The images that something without a live model, opened a second time, answers otherwise."""
    for image, answer in saved.answers.items():
        if image not in found.answers:
            yield f"there is no answer to image {image}"
        elif found.answers[image] != answer:
            yield f"the answer to image {image} is another"


def _first_line(saved: str | None, found: str | None) -> str:
    if saved is None or found is None:
        return "there was none before" if saved is None else "there is none now"
    before, after = saved.splitlines(), found.splitlines()
    for number, (old, new) in enumerate(zip(before, after, strict=False), 1):
        if old != new:
            return f"line {number} is {_short(new.strip())}, it was {_short(old.strip())}"
    return f"{len(after)} lines, it had {len(before)}"


def _short(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def unequal(expected: Detections | None, found: Detections | None) -> str:
    """How two answers differ in any bit, order or count, in words; empty where they are equal.

    Raw masks are compared where both sides give them: a backend that owns the whole path may hand out the pasted ones alone.
    """
    if expected is None or found is None:
        return "there is an answer on one side only"
    if len(expected) != len(found):
        return f"there are {len(found)} detections instead of {len(expected)}"
    for name in ("boxes_xyxy_px", "scores", "labels", "raw_masks", "keypoints", "masks", "panoptic"):
        mine, theirs = getattr(expected, name), getattr(found, name)
        if name == "raw_masks" and (mine is None or theirs is None):
            continue
        if (mine is None) != (theirs is None):
            return f"there are {'no ' if theirs is None else ''}{_WORDS.get(name, name)}, unlike before"
        words = "" if mine is None else _unequal_field(name, mine, theirs)
        if words:
            return words
    return ""


_WORDS = {"raw_masks": "raw masks", "panoptic": "panoptic segments"}


def _unequal_field(name: str, expected: Any, found: Any) -> str:
    if isinstance(expected, Masks):
        return _unequal_masks(expected, found)
    if isinstance(expected, Panoptic):
        return _unequal_panoptic(expected, found)
    if expected.shape != found.shape:
        return f"{_WORDS.get(name, name)} have the shape {list(found.shape)}, it was {list(expected.shape)}"
    return "" if expected.tobytes() == found.tobytes() else _first_row(_WORDS.get(name, name), expected, found)


def _unequal_masks(expected: Masks, found: Masks) -> str:
    if expected.size_hw_px != found.size_hw_px:
        return f"the masks are of an image of {found.size_hw_px} px (height, width), they were of {expected.size_hw_px}"
    for index in range(len(found)):
        if not np.array_equal(expected.full(index), found.full(index)):
            flipped = int((expected.full(index) ^ found.full(index)).sum())
            return f"the mask of detection {index} differs in {flipped} pixels"
    return ""


def _unequal_panoptic(expected: Panoptic, found: Panoptic) -> str:
    if expected.ids.shape != found.ids.shape:
        return f"the panoptic segments are of an image of {found.ids.shape} px (height, width), they were of {expected.ids.shape}"
    # As text: a score that is not a number is equal to itself here.
    for before, after in zip(map(str, expected.segments), map(str, found.segments), strict=False):
        if before != after:
            return f"there is a {after}, it was a {before}"
    if len(expected.segments) != len(found.segments):
        return f"there are {len(found.segments)} panoptic segments instead of {len(expected.segments)}"
    apart = int((expected.ids != found.ids).sum())
    return f"{apart} pixels are of another panoptic segment" if apart else ""


def _first_row(name: str, expected: NDArray[Any], found: NDArray[Any]) -> str:
    index = next(i for i in range(len(found)) if expected[i].tobytes() != found[i].tobytes())
    apart = np.abs(expected[index].astype(np.float64) - found[index].astype(np.float64)).max()
    return f"{name} of detection {index} differs by {apart:.2g}, level 0"
