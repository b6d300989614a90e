"""The opset of Detectron2's export guide cannot say how Detectron2 pools regions.

Detectron2 aligns its regions by half a pixel (``aligned=True``). ONNX can say so from opset 16 on; its export guide and its script
take ``STABLE_ONNX_OPSET_VERSION``, which is 11. torchvision's exporter then leaves the half pixel out, with a warning.

Exit 0 and a line "SHOWN: ..." where the installed torchvision does so, exit 1 where it does not.
"""

import os
import sys
import warnings
from io import BytesIO

import torch
from torchvision.ops import roi_align

# Read once, while the runtime is imported; it would keep an id under HOME otherwise.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

warnings.simplefilter("ignore")


class Pooled(torch.nn.Module):
    """Regions of a feature map pooled to 2 x 2, as Detectron2 pools them."""

    def forward(self, features: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """``features`` is ``float32 [1, C, H, W]``, ``regions`` is ``float32 [N, 5]``: picture, x1, y1, x2, y2."""
        return roi_align(features, regions, 2, 1.0, 2, aligned=True)


given = (torch.arange(64.0).reshape(1, 1, 8, 8), torch.tensor([[0.0, 1.0, 1.0, 7.0, 7.0]]))
expected = Pooled()(*given)
wrong = {}
for opset in (11, 16):
    file = BytesIO()
    torch.onnx.export(Pooled(), given, file, dynamo=False, opset_version=opset, input_names=["features", "regions"])
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    answer = torch.from_numpy(session.run(None, {"features": given[0].numpy(), "regions": given[1].numpy()})[0])
    print(f"opset {opset}: {answer.flatten().tolist()}, torch {torch.__version__} {expected.flatten().tolist()}")
    wrong[opset] = not torch.allclose(answer, expected, atol=1e-3)
if not wrong[11]:
    sys.exit(1)
print("SHOWN: regions lose their half pixel at opset 11" + ("" if wrong[16] else ", and keep it at opset 16"))
