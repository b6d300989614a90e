"""torch's default exporter cannot export torchvision's NMS of as many boxes as a picture happens to have.

`torch.onnx.export` begins with `torch.export.export` since torch 2.9. That must know which way a branch goes, and
`torchvision.ops.batched_nms` asks how many boxes there are.

Exit 0 and a line "SHOWN: ..." where the installed torch and torchvision do so, exit 1 where they do not.
"""

import sys
import warnings

import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torchvision.ops import batched_nms

warnings.simplefilter("ignore")


class Kept(torch.nn.Module):
    """Of the boxes with a score above a half, those that NMS keeps."""

    def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``boxes`` is ``float32 [N, 4]``, ``scores`` is ``float32 [N]``."""
        boxes, scores = boxes[scores > 0.5], scores[scores > 0.5]
        return boxes[batched_nms(boxes, scores, torch.zeros_like(scores), 0.5)]


given = (torch.tensor([[0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 9.0, 9.0]]), torch.tensor([0.9, 0.1]))
print(f"torch {torch.__version__}, eager: {Kept()(*given).tolist()}")
try:
    torch.export.export(Kept(), given, strict=False)
except GuardOnDataDependentSymNode as error:
    print("\n".join(line for line in str(error).splitlines() if line.startswith(("Could not guard", "Caused by"))))
    print("SHOWN: the default exporter refuses torchvision's batched_nms")
else:
    sys.exit(1)
