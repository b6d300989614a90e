"""The stages of a detector: what happens between picture and detections, each a function of named tensors.

Each architecture declares its stages in its family. One after the other they do what the whole model does, bit for bit; each can be
exported like a whole model, because `as_model` makes it one. So a candidate's stage can be fed the reference's own input, and the
first stage that differs be named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import levels
from harness.families import Graph

if TYPE_CHECKING:
    import torch

    from harness.families import Model

Env = dict[str, Any]
"""Every tensor of one picture's way through the stages, by name."""


LISTS = frozenset(
    {"pooled", "mask_pooled", "keypoint_pooled", "raw_masks", "masks", "keypoint_heatmaps", "keypoints", "keypoints_scores"}
    | {"resized_keypoints"}
)
"""The first part of the names of tensors with a row for each detection or proposal, however many axes they have."""

BOXES = frozenset({"proposals", "boxes", "resized_boxes", "selected.boxes"})
"""The names, or their first part, of boxes: ``float32 [N, 4]``, xyxy in pixels."""


def are_boxes(name: str) -> bool:
    """Whether the tensor of this name holds boxes."""
    return name in BOXES or name.partition(".")[0] in BOXES


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. ``call`` takes the tensors ``inputs`` in order and gives a tuple in the order of ``outputs``.

    ``parts`` are the ``torch.nn.Module`` objects whose parameters it uses. ``rows`` names those outputs whose rows are a set: their
    order, among rows of equal rank, carries no meaning. ``per_max`` is the level of its outputs, as a share of the largest value;
    boxes have the level of boxes where that is narrower. What a tensor is, its name says: `LISTS`, `BOXES`.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    call: Callable[..., tuple[Any, ...]]
    parts: tuple[Any, ...] = ()
    rows: tuple[str, ...] = ()
    per_max: float = levels.RAW_PER_MAX


def module_of(stage: Stage) -> torch.nn.Module:
    """The stage as a ``torch.nn.Module`` in eval mode, of tensors only, which exporters can trace."""
    import torch

    class StageModule(torch.nn.Module):  # type: ignore[misc] # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(stage.parts)

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            # Copies: heads that answer in place would change the next stage's input.
            return stage.call(*[tensor.clone() for tensor in tensors])

    return StageModule().eval()


def run(stage: Stage, env: Mapping[str, Any]) -> Env:
    """The stage's outputs by name, of its inputs in ``env``."""
    import torch

    with torch.no_grad():
        answers = stage.call(*[env[name].clone() for name in stage.inputs])
    return dict(zip(stage.outputs, (answer.detach().clone() for answer in answers), strict=True))


def walk(stages: Sequence[Stage], tensors: Mapping[str, Any]) -> Env:
    """Every named tensor on the way of ``tensors``, the graph's own input, through all stages."""
    env = dict(tensors)
    for stage in stages:
        env |= run(stage, env)
    return env


def as_model(model: Model, stage: Stage, env: Mapping[str, Any]) -> Model:
    """The stage as a model of its own, traced with its inputs in ``env``; every axis but a batch of one may change."""
    example = {name: env[name] for name in stage.inputs}
    named = {**example, **{name: env[name] for name in stage.outputs}}
    axes = {name: free for name, tensor in named.items() if (free := _free_axes(name, tensor))}
    return dataclasses.replace(model, graph=Graph(module_of(stage), example, stage.outputs, axes))


def _free_axes(name: str, tensor: Any) -> dict[int, str]:
    """Pictures and feature maps vary in height and width, lists in their length; sizes of two numbers do not vary."""
    plain = name.replace(".", "_")
    if name.partition(".")[0] in LISTS:
        return {0: f"{plain}_length"}
    if tensor.dim() == 4 and tensor.shape[0] == 1:
        return {2: f"{plain}_height", 3: f"{plain}_width"}
    if tensor.dim() == 3 and name in ("image", "sem_seg"):
        return {1: f"{plain}_height", 2: f"{plain}_width"}
    if tensor.dim() == 3 and tensor.shape[0] == 1:
        return {1: f"{plain}_length"}
    return {} if name.endswith("size") else {0: f"{plain}_length"}
