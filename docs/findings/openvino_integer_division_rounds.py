"""OpenVINO's CPU plugin rounds an integer division to the nearest number where the division follows a reduction.

Integer division in a graph drops the remainder: 191 / 32 is 5. The CPU plugin merges a division into the ReduceMax before it and
then answers 6. Detectron2 pads its pictures to a multiple of 32 by ``(max(sizes) + 31) / 32 * 32``, so every Detectron2 model
converted to OpenVINO IR pads a picture 160 pixels wide to 192.

Exit 0 and a line "SHOWN: ..." where the installed OpenVINO does so, exit 1 where it does not.
"""

import sys

import numpy as np

# OpenVINO takes this as "not installed", and sends no telemetry.
sys.modules.setdefault("openvino_telemetry", None)

import openvino  # noqa: E402 - its telemetry is off by now
from openvino import opset13 as ops  # noqa: E402 - as above


def divided(*, after_a_reduction: bool) -> list[int]:
    """31 added to 160 and 161, over 32, on the CPU plugin; the reduction has one number to choose from and changes nothing."""
    sizes = ops.parameter([1, 2], np.int32)
    largest = ops.reduce_max(sizes, [0], keep_dims=False) if after_a_reduction else ops.reshape(sizes, [2], special_zero=False)
    model = openvino.Model([ops.divide(ops.add(largest, np.int32([31])), np.int32([32]))], [sizes])
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled([np.array([[160, 161]], np.int32)])[0].tolist()


alone, merged = divided(after_a_reduction=False), divided(after_a_reduction=True)
print(f"OpenVINO {openvino.__version__}: [191, 192] / 32 is {alone} by itself and {merged} after ReduceMax; it should be [5, 6]")
if merged == [5, 6]:
    sys.exit(1)
print("SHOWN: an integer division merged into a reduction is rounded to the nearest number")
