"""OpenVINO's ONNX frontend reads an empty constant in a branch of an If as one number.

torchvision's NMS, exported by torch's TorchScript exporter, is an If: an empty list of indices where there is no box, else the
boxes that NonMaxSuppression keeps. Read from ONNX, the empty branch (shape [0]) becomes a scalar, so that one detection of
whatever lies in memory comes out of a picture that shows nothing.

Exit 0 and a line "SHOWN: ..." where the installed OpenVINO does so, exit 1 where it does not.
"""

import sys
from io import BytesIO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# OpenVINO takes this as "not installed", and sends no telemetry.
sys.modules.setdefault("openvino_telemetry", None)

import openvino  # noqa: E402 - its telemetry is off by now


def numbers(name: str, size: str | int) -> onnx.ValueInfoProto:
    """A named ``int64 [size]``."""
    return helper.make_tensor_value_info(name, TensorProto.INT64, [size])


nothing = helper.make_node("Constant", [], ["nothing"], value=numpy_helper.from_array(np.zeros(0, np.int64)))
everything = helper.make_node("Identity", ["given"], ["everything"])
branches = {
    "then_branch": helper.make_graph([nothing], "then", [], [numbers("nothing", 0)]),
    "else_branch": helper.make_graph([everything], "else", [], [numbers("everything", "n")]),
}
graph = helper.make_graph(
    [
        helper.make_node("Size", ["given"], ["size"]),
        helper.make_node("Equal", ["size", "zero"], ["is_empty"]),
        helper.make_node("If", ["is_empty"], ["answer"], **branches),
    ],
    "main",
    [numbers("given", "n")],
    [numbers("answer", "m")],
    [numpy_helper.from_array(np.array(0), "zero")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model)

compiled = openvino.compile_model(openvino.convert_model(BytesIO(model.SerializeToString())), "CPU")
answers = {size: compiled([np.full(size, 7, np.int64)])[0] for size in (0, 2)}
for size, answer in answers.items():
    print(f"OpenVINO {openvino.__version__}: of {size} numbers come {answer.tolist()}; {size} should come")
if len(answers[0]) == 0:
    sys.exit(1)
print("SHOWN: an empty constant in a branch of an If comes out of the ONNX frontend as one number")
