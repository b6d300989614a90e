"""Told its size, a traced graph resizes every picture to the size that the live detector resizes it to."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from harness.adapters import Adapter, GraphSession
from harness.families import Graph, Model
from harness.families.torchvision_resize import SIZE, graph_with_size, has_one_size, limits_px, with_size
from harness.fixtures.models import SPECS
from harness.suites.meta.harness.adapters.graphs import SPEC

# Among them sizes that torchvision's own trace gets wrong: 301 x 301, 380 x 120, 230 x 310.
SIZES = ((160, 224), (301, 301), (380, 120), (230, 310), (75, 99), (427, 600))
LIMITS_PX = (160, 224)


def resizer() -> Model:
    """``image float32 [3, H, W]`` to the picture as torchvision's detectors resize it, ``resized float32 [3, h, w]``."""
    import torch
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    class Resizer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transform = GeneralizedRCNNTransform(*LIMITS_PX, [0.0] * 3, [1.0] * 3)

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.transform.resize(image, None)[0],)

    module = Resizer().eval()
    axes = {"image": {1: "height", 2: "width"}, "resized": {1: "h", 2: "w"}}
    graph = Graph(module, {"image": torch.zeros(3, 180, 232)}, ("resized",), axes)
    return Model(SPEC, module, None, np.zeros((180, 232, 3), np.uint8), graph)


def picture(height: int, width: int) -> dict[str, Any]:
    return {"image": np.random.default_rng(height).random((3, height, width), dtype=np.float32)}


def live(model: Model, image: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.module(torch.from_numpy(image))[0].numpy()


@pytest.fixture(scope="module", params=["openvino_ir", "onnxruntime_session"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GraphSession]:
    adapter: Adapter = import_module(f"harness.adapters.{request.param}").ADAPTER
    mended = next(variant for variant in adapter.variants if variant.mends == "f32")
    artifact = tmp_path_factory.mktemp("mended")
    adapter.build(resizer(), mended, artifact)
    with adapter.open(artifact, mended, "cpu") as opened:
        assert isinstance(opened, GraphSession)
        yield opened


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_mended_graph_resizes_as_the_live_detector(session: GraphSession, size: tuple[int, int]) -> None:
    given = picture(*size)
    resized, expected = session.run(given)["resized"], live(resizer(), given["image"])
    assert resized.shape == expected.shape
    np.testing.assert_allclose(resized, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_size_is_that_of_the_live_detector(size: tuple[int, int]) -> None:
    given = picture(*size)
    assert tuple(with_size(given, LIMITS_PX)[SIZE]) == live(resizer(), given["image"]).shape[-2:]


def test_torchvision_is_left_as_it_was() -> None:
    model, given = resizer(), picture(301, 301)
    before = live(model, given["image"])
    graph = graph_with_size(model)
    graph.module(*graph.example.values())
    np.testing.assert_array_equal(live(model, given["image"]), before)
    assert limits_px(model) == LIMITS_PX


def test_a_detector_of_one_size_is_left_as_it_is() -> None:
    model = resizer()
    model.module.transform.fixed_size = (256, 256)
    assert limits_px(model) is None
    assert graph_with_size(model) is model.graph


def test_only_ssd_has_one_size() -> None:
    torchvision = {spec.id for spec in SPECS.values() if spec.family == "torchvision"}
    assert {name for name in torchvision if has_one_size(SPECS[name])} == {"tv_ssdlite_tiny"}
