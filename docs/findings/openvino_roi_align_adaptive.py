"""OpenVINO answers wrongly for torchvision's ``roi_align`` with its default ``sampling_ratio`` of -1.

For torchvision every ratio that is not positive means: as many samples as the region asks for. OpenVINO's converter hands -1 on
as it is, and its ROIAlign knows only 0 by that meaning. Nothing warns. (Detectron2's models use 0 and torchvision's detectors 2,
which are converted rightly; whoever pools with the default is hit.)

Exit 0 and a line "SHOWN: ..." where the installed OpenVINO does so, exit 1 where it does not.
"""

import sys
import warnings

# OpenVINO takes this as "not installed", and sends no telemetry.
sys.modules.setdefault("openvino_telemetry", None)

import openvino  # noqa: E402 - its telemetry is off by now
import torch  # noqa: E402 - as above
from torchvision.ops import roi_align  # noqa: E402 - as above

warnings.simplefilter("ignore")


class Pooled(torch.nn.Module):
    """Regions of a feature map pooled to 2 x 2."""

    def __init__(self, sampling_ratio: int) -> None:
        super().__init__()
        self.sampling_ratio = sampling_ratio

    def forward(self, features: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """``features`` is ``float32 [1, C, H, W]``, ``regions`` is ``float32 [N, 5]``: picture, x1, y1, x2, y2."""
        return roi_align(features, regions, 2, 1.0, self.sampling_ratio)


given = (torch.arange(64.0).reshape(1, 1, 8, 8), torch.tensor([[0.0, 1.0, 1.0, 7.0, 7.0]]))
wrong = {}
for ratio in (-1, 0, 2):
    pooled = Pooled(ratio).eval()
    compiled = openvino.compile_model(
        openvino.convert_model(pooled, example_input=given), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    answers = pooled(*given).flatten(), torch.from_numpy(compiled([tensor.numpy() for tensor in given])[0]).flatten()
    print(f"sampling_ratio {ratio:2}: torchvision {answers[0].tolist()}, OpenVINO {openvino.__version__} {answers[1].tolist()}")
    wrong[ratio] = not torch.allclose(*answers, atol=1e-3)
if not wrong[-1]:
    sys.exit(1)
print("SHOWN: OpenVINO pools wrongly for sampling_ratio -1" + ("" if any((wrong[0], wrong[2])) else ", and rightly for 0 and 2"))
