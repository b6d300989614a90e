"""What the tests of the eager backends share: a live model whose weights no file holds, and equality in every bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.checks.fidelity import unequal
from harness.detections import Detections, Pixels
from harness.digests import restoration
from harness.families import Model, family
from harness.fixtures.models import MODELS
from harness.fixtures.scenes import SceneRecipe, draw
from harness.types import Restoration

THEIR_WARNINGS = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "pkg_resources is deprecated:UserWarning",
        "Deprecated call to `pkg_resources:DeprecationWarning",
        "`torch.jit.script` is deprecated:FutureWarning",
        "torch.meshgrid:UserWarning",
        "GitWildMatchPattern:DeprecationWarning",
        "`bentoml\\.\\w+` is deprecated",
        "`Runner` is deprecated",
    )
]
"""What Detectron2, BentoML and their own libraries warn of, whatever is done with them."""

PICTURES: tuple[tuple[int, int], ...] = ((160, 192), (240, 321), (75, 99))


def pictures() -> list[Pixels]:
    """Three sizes with objects, and a blank one."""
    scenes = [draw(SceneRecipe(height, width, (4, 8), (14, 50), seed=height)).pixels for height, width in PICTURES]
    return [*scenes, np.full((100, 140, 3), 90, np.uint8)]


def changed_in_memory(model_id: str, folder: Path) -> Model:
    """The shipped model, every saved floating tensor a thousandth larger than in the checkpoint that ``folder`` now holds."""
    import torch

    torch.set_num_threads(1)
    spec = MODELS[model_id]
    kind = family(spec.family)
    folder.mkdir(parents=True, exist_ok=True)
    model = kind.build(spec, kind.materialise(spec, folder), pictures()[0])
    with torch.no_grad():
        for tensor in model.module.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.001)
    return model


def expected(model: Model) -> list[Detections]:
    """What the live model answers to each picture, alone."""
    return [family(model.spec.family).predict(model.module, model.config, [picture])[0] for picture in pictures()]


def state(model: Model) -> Restoration:
    """Fingerprints of the live model and all that is to be stored with it."""
    return restoration(model.module, family(model.spec.family).config_text(model.config), model.attached)


def came_back(model: Model, restored: Any) -> Restoration:
    """The same fingerprints of what a session gave back."""
    text = None if restored.config is None else family(model.spec.family).config_text(restored.config)
    return restoration(restored.module, text, restored.attached)


def assert_bit_equal(found: list[Detections], wanted: list[Detections]) -> None:
    """Every answer equal, in order; and there is something to compare."""
    assert [unequal(mine, theirs) for mine, theirs in zip(wanted, found, strict=True)] == [""] * len(wanted)
    assert sum(len(answer) for answer in wanted) > 3


def again(model: Model, restored: Any) -> Model:
    """What a session gave back, to be saved once more."""
    return replace(
        model,
        module=restored.module,
        config=model.config if restored.config is None else restored.config,
        native={**model.native, **restored.native},
    )
