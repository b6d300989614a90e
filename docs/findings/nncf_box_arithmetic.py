"""NNCF, as it comes, quantises the arithmetic that makes boxes of anchors.

``nncf.quantize`` puts 8 bits not only before layers with weights, but before additions, subtractions and multiplications too. In
a detector these hold coordinates: 256 levels over a picture of 1024 pixels are 4 pixels apart, and boxes come out on that grid.

Exit 0 and a line "SHOWN: ..." where the installed NNCF does so, exit 1 where it does not.
"""

import sys

import numpy as np

# OpenVINO and NNCF take this as "not installed", and send no telemetry.
sys.modules.setdefault("openvino_telemetry", None)

import nncf  # noqa: E402 - their telemetry is off by now
import openvino  # noqa: E402 - as above
from openvino import opset13 as ops  # noqa: E402 - as above

SIDE_PX, CELLS = 1024, 16
draws = np.random.default_rng(0)
pictures = [draws.random((1, 3, CELLS, CELLS), np.float32) for _ in range(16)]


def detector() -> openvino.Model:
    """One layer that says how far each anchor is moved and how much it grows, and the boxes made of that: their left sides."""
    picture = ops.parameter([1, 3, CELLS, CELLS], np.float32, name="picture")
    weights = draws.normal(scale=0.3, size=(2, 3, 1, 1)).astype(np.float32)
    layer = ops.convolution(picture, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    moved, grown = (ops.gather(layer, np.int64([index]), np.int64(1)) for index in (0, 1))
    cell_px = SIDE_PX / CELLS
    anchors_px = np.broadcast_to(((np.arange(CELLS) + 0.5) * cell_px).astype(np.float32), (1, 1, CELLS, CELLS))
    centres_px = ops.add(ops.multiply(moved, np.float32(cell_px)), anchors_px)
    halves_px = ops.multiply(ops.exp(grown), np.float32(cell_px / 2))
    return openvino.Model([ops.subtract(centres_px, halves_px)], [picture])


def boxes_px(model: openvino.Model) -> np.ndarray:
    """The left sides, in pixels, on the first picture."""
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled([pictures[0]])[0]


model = detector()
expected = boxes_px(model)


def worst_px(ignored: list[str]) -> float:
    """How far the boxes of the quantised detector lie from those of the detector."""
    scope = nncf.IgnoredScope(types=ignored, validate=False)
    quantised = nncf.quantize(model.clone(), nncf.Dataset(pictures), subset_size=len(pictures), ignored_scope=scope)
    return float(np.abs(boxes_px(quantised) - expected).max())


whole, weighted = worst_px([]), worst_px(["Add", "Multiply", "Subtract", "Exp", "Gather"])
print(f"NNCF {nncf.__version__}: boxes on {SIDE_PX} px are up to {whole:.2f} px off, {weighted:.2f} px when arithmetic is left out")
if whole < 4 * weighted:
    sys.exit(1)
print("SHOWN: quantising the arithmetic of boxes puts them on a grid of 256 places")
