"""What an IR answers, back in Detectron2's structures and drawn by its Visualizer: as what the predictor answers is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.adapters.openvino_ir import ADAPTER
from harness.detections import Pixels
from harness.families import Model, family
from harness.families.detectron2_instances import to_instances
from harness.fixtures.scenes import SceneRecipe, draw
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, changed_in_memory

pytest.importorskip("openvino")
pytest.importorskip("detectron2")
pytest.importorskip("cv2")
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.covers("M10"), *THEIR_WARNINGS]

MENDED = ADAPTER.variants[1]
SIZE = (240, 321)


@pytest.fixture(scope="module", params=["d2_fasterrcnn_tiny", "d2_maskrcnn_tiny"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return changed_in_memory(request.param, tmp_path_factory.mktemp("model") / "source")


@pytest.fixture(scope="module")
def metadata() -> Any:
    from detectron2.data import MetadataCatalog

    name = "test_openvino_drawn"
    yield MetadataCatalog.get(name).set(
        thing_classes=["disc", "square", "triangle"], thing_colors=[(255, 0, 0), (0, 160, 0), (0, 0, 255)]
    )
    MetadataCatalog.remove(name)


def drawn(pixels: Pixels, instances: Any, metadata: Any) -> Pixels:
    from detectron2.utils.visualizer import ColorMode, Visualizer

    # Colours of a dataset are jittered by chance.
    np.random.seed(0)  # noqa: NPY002 - it is Detectron2 that draws from it
    canvas = Visualizer(pixels, metadata, scale=1.2, instance_mode=ColorMode.SEGMENTATION)
    found: Pixels = canvas.draw_instance_predictions(instances.to("cpu")).get_image()
    return found


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.5])
def test_the_picture_is_that_of_the_predictor(model: Model, metadata: Any, threshold: float, tmp_path: Path) -> None:
    pixels = draw(SceneRecipe(*SIZE, (5, 9), (14, 60), seed=7)).pixels
    (artifact := tmp_path / "artifact").mkdir()
    ADAPTER.build(model, MENDED, artifact)
    with ADAPTER.open(artifact, MENDED, "cpu") as session:
        outputs = session.run(family("detectron2").processor(model.spec).prepare(pixels))
    assert len(outputs) == (5 if "masks" in model.spec.outputs else 4)
    mine = to_instances([outputs[name] for name in model.graph.outputs], *SIZE, threshold)
    theirs = model.native["predictor"](pixels[:, :, ::-1])["instances"]
    theirs = theirs[theirs.scores >= threshold]
    assert len(mine) == len(theirs) > 3
    assert mine.image_size == theirs.image_size == SIZE
    assert mine.get_fields().keys() == theirs.get_fields().keys()
    one, other = drawn(pixels, mine, metadata), drawn(pixels, theirs, metadata)
    assert one.shape == other.shape
    assert (np.abs(one.astype(int) - pixels_of(pixels, one.shape)).max(axis=2) > 40).mean() > 0.02, "nothing was drawn"
    # The edge of a line may fall on the other side of a pixel.
    assert (np.abs(one.astype(int) - other).max(axis=2) > 2).mean() < 1e-3


def pixels_of(pixels: Pixels, shape: tuple[int, ...]) -> Any:
    import cv2

    return cv2.resize(pixels, (shape[1], shape[0])).astype(int)
