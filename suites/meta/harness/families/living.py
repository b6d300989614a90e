"""A shipped detector, live, and pictures for it: what the tests of stages share."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from harness.doctor import present
from harness.families import Model, family
from harness.fixtures.models import MODELS
from harness.fixtures.scenes import SceneRecipe, draw

NATIVE = (160, 192)
"""Height and width, in pixels, of the picture that detectors are traced with."""


@lru_cache(maxsize=1)
def live(model_id: str) -> Model:
    spec = MODELS[model_id]
    if not present(spec.family):
        pytest.skip(f"{spec.family} is not installed")
    kind = family(spec.family)
    with TemporaryDirectory() as folder:
        return kind.build(spec, kind.materialise(spec, Path(folder)), scene(NATIVE))


def scene(size: tuple[int, int]) -> Any:
    return draw(SceneRecipe(*size, (5, 9), (12, 50), seed=size[0])).pixels
