"""Weights for an architecture whose trained ones cannot be had: random ones, scaled on pictures until its answers stand apart.

Every layer's outputs are made of mean 0 and spread 1, channel by channel, on the pictures given, layer after layer in one pass
(data-dependent initialisation: Salimans and Kingma 2016, section 3; Mishkin and Matas 2016 do so by layer). Normalisations get the
statistics of what comes to them. Layers that predict get a spread of their own, and the background of a box head a bias by which
so many classes of proposals are above the score threshold as a trained detector finds. Such weights see nothing; they are for
timing, and for comparing backends, which must compute the same whatever the numbers are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.types import ModelSpec

if TYPE_CHECKING:
    import torch

    from harness.detections import Pixels

RECIPE = 1
"""Changes with what this module makes of the same spec and pictures."""

DETECTIONS = 60
"""How many classes of proposals every picture has at least above the score threshold, before non-maximum suppression."""

_DOUBLINGS = 5

FEWEST = 20
"""Detections that each picture must have in the end."""

_SPREAD: Mapping[str, float] = {
    # torchvision's and Detectron2's names: objectness, deltas of anchors, of proposals (which are divided by ten), masks.
    "rpn.head.cls_logits": 1.5,
    "rpn_head.objectness_logits": 1.5,
    "rpn.head.bbox_pred": 0.2,
    "rpn_head.anchor_deltas": 0.2,
    "box_predictor.bbox_pred": 1.0,
    "mask_fcn_logits": 3.0,
    "mask_head.predictor": 3.0,
}
_CLASSES = "box_predictor.cls_score"
_CLASSES_SPREAD = 2.0
_LEAST_SPREAD = 1e-12
"""A channel that says the same everywhere stays as it is."""

_FEWEST_SAMPLES = 64
"""So does a layer that gives so few numbers a channel that their spread is chance, as behind a global average."""


def condition(
    module: Any, answer: Callable[[Sequence[Pixels]], list[int]], pictures: Sequence[Pixels], threshold: float, background: int
) -> list[int]:
    """Scale ``module``, in eval mode, in place; ``answer`` runs it on pictures and says how many detections each has.

    The layers are scaled on as many ``pictures`` as have the first one's size, the classes on all. ``background`` is its place
    among the classes of the box head. Returns how many detections each picture has then. Raises `HarnessError` for an architecture
    that has no such head, and where a picture has fewer than `FEWEST`.
    """
    classes = next((layer for name, layer in module.named_modules() if name.endswith(_CLASSES)), None)
    if classes is None:
        raise HarnessError(
            f"there is no recipe for weights of a {type(module).__name__}: it has no {_CLASSES}", "Two-stage detectors have one."
        )
    with _hooked(module):
        answer([picture for picture in pictures if picture.shape == pictures[0].shape])
    seen: list[torch.Tensor] = []
    handle = classes.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        for picture in pictures:
            answer([picture])
    finally:
        handle.remove()
    logits = _set_apart(classes, seen)
    background_bias = float(classes.bias[background])
    found: list[int] = []
    # Of what is above the threshold, suppression may leave a picture little.
    for wanted in (DETECTIONS << doubled for doubled in range(_DOUBLINGS)):
        classes.bias[background] = background_bias + min(_raise(one, threshold, background, wanted) for one in logits)
        found = [count for picture in pictures for count in answer([picture])]
        if min(found) >= FEWEST:
            return found
    raise HarnessError(f"conditioned weights give {found} detections a picture, {FEWEST} are needed", "Train some instead.")


@contextmanager
def _hooked(module: Any) -> Iterator[None]:
    """Every layer but the box head's classes is scaled before it is called for the first time."""
    done: set[str] = set()
    handles = [
        layer.register_forward_pre_hook(partial(_normalise if hasattr(layer, "running_mean") else _scale, done, name))
        for name, layer in module.named_modules()
        if (hasattr(layer, "running_mean") or _is_linear(layer)) and not name.endswith(_CLASSES)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _set_apart(classes: Any, seen: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Make the linear layer ``classes`` tell proposals apart, whose features ``[P, D]`` are ``seen`` by picture; their logits.

    Random features differ from picture to picture more than within one: in the directions in which pictures' means lie apart the
    weights are made blind, so that each picture has its share of the detections.
    """
    import torch

    means = torch.stack([features.mean(0) for features in seen])
    _, sizes, directions = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    apart = directions[sizes > _LEAST_SPREAD]
    classes.weight.sub_(classes.weight @ apart.T @ apart)
    plain = [torch.nn.functional.linear(features, classes.weight) for features in seen]
    # Of the pictures' own spreads the geometric mean: the liveliest does not decide alone.
    spreads = torch.stack([logits.std(0, correction=0).clamp_min(_LEAST_SPREAD) for logits in plain])
    mean, factor = torch.cat(plain).mean(0), _CLASSES_SPREAD / spreads.log().mean(0).exp()
    classes.weight.mul_(factor[:, None])
    classes.bias.copy_(-mean * factor)
    return [torch.nn.functional.linear(features, classes.weight, classes.bias) for features in seen]


def _raise(logits: torch.Tensor, threshold: float, background: int, wanted: int) -> float:
    """By how much the background's logit can be raised while so many of ``[P, K]`` are above the threshold, by halving."""
    low, high = -50.0, 50.0
    for _ in range(50):
        middle = (low + high) / 2
        raised = logits.clone()
        raised[:, background] += middle
        above = raised.softmax(1) > threshold
        above[:, background] = False
        low, high = (middle, high) if int(above.sum()) > wanted else (low, middle)
    return low


def _is_linear(layer: Any) -> bool:
    from torch.nn import Conv2d, ConvTranspose2d, Linear

    return isinstance(layer, (Conv2d, ConvTranspose2d, Linear))


def _normalise(done: set[str], name: str, layer: Any, inputs: tuple[Any, ...]) -> None:
    """A normalisation with kept statistics gets those of ``[N, C, H, W]``."""
    if not _is_first(done, name, inputs[0]):
        return
    layer.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    layer.running_var.copy_(inputs[0].var((0, 2, 3), correction=0).clamp_min(_LEAST_SPREAD))


def _scale(done: set[str], name: str, layer: Any, inputs: tuple[Any, ...]) -> None:
    """A layer's weight, and its bias where it has one, by what it would give."""
    if not _is_first(done, name, inputs[0]):
        return
    by_channel = _given(layer, inputs[0]).transpose(0, 1).flatten(1)
    if by_channel.shape[1] < _FEWEST_SAMPLES:
        return
    mean, spread = by_channel.mean(1), by_channel.std(1, correction=0)
    wanted = next((value for end, value in _SPREAD.items() if name.endswith(end)), 1.0)
    factor = (wanted / spread).where(spread > _LEAST_SPREAD, spread.new_ones(()))
    layer.weight.mul_(factor.reshape(_against(layer)))
    if layer.bias is not None:
        layer.bias.copy_((layer.bias - mean) * factor)


def _is_first(done: set[str], name: str, given: Any) -> bool:
    """A layer that several levels of a pyramid share is scaled by the first; one that was given nothing waits for more."""
    if name in done or not len(given):
        return False
    done.add(name)
    return True


def _given(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    """What the layer itself makes of its inputs, without what a subclass does after it."""
    from torch import nn

    kind = next(kind for kind in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear) if isinstance(layer, kind))
    if kind is nn.Conv2d:
        given: torch.Tensor = layer._conv_forward(inputs, layer.weight, layer.bias)  # noqa: SLF001 - padding modes and all
        return given
    plain: torch.Tensor = kind.forward(layer, inputs)
    return plain


def _against(layer: Any) -> tuple[int, ...]:
    """The shape in which a number a channel meets the weight: a transposed convolution has its outputs second."""
    from torch.nn import ConvTranspose2d

    rest = (1,) * (layer.weight.dim() - 2)
    return (1, -1, *rest) if isinstance(layer, ConvTranspose2d) else (-1, 1, *rest)


def main() -> None:
    """Make one file of weights, as `harness.conditioned` asks: one argument, the order's file."""
    import torch
    from safetensors.torch import save_file

    from harness.families import family
    from harness.fixtures.decks import deck

    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    spec, file = ModelSpec.read(order["spec"]), Path(order["file"])
    kind, scenes = family(spec.family), deck("scenes")
    pictures = [scenes.pixels(name) for name in order["pictures"]]
    torch.manual_seed(order["seed"])
    module, config = kind.construct(spec)
    module.eval()
    # The background comes first where the family's own labels begin behind it, else last.
    background = 0 if kind.first_label else len(spec.classes)

    def answer(some: Sequence[Pixels]) -> list[int]:
        return [len(one) for one in kind.predict(module, config, some)]

    try:
        with torch.no_grad():
            found = condition(module, answer, pictures, spec.score_threshold, background)
    except HarnessError as error:
        sys.exit(error.what)
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in module.state_dict().items()}
    part = file.with_suffix(".part")
    save_file(tensors, part, {"detections": json.dumps(found)})
    part.replace(file)


if __name__ == "__main__":
    main()
