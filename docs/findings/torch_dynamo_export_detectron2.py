"""torch.export, on which torch.onnx.export stands since torch 2.9, refuses Detectron2's Boxes: how many there are is not known.

``Boxes`` replaces an empty tensor by one of the right shape; that is a branch on a number that depends on the picture, which
``torch.export`` cannot guard on. Every detector of Detectron2 makes ``Boxes`` of what is left above a threshold.

Exit 0 and a line "SHOWN: ..." where the installed torch refuses it, exit 1 where it does not.
"""

import sys
import warnings

import torch

warnings.simplefilter("ignore")

from detectron2.structures import Boxes  # noqa: E402 - it warns while it is imported
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode  # noqa: E402 - after what it is about


class Areas(torch.nn.Module):
    """The areas of the boxes with a score above a half."""

    def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``boxes`` is ``float32 [N, 4]``, ``scores`` is ``float32 [N]``."""
        return Boxes(boxes[scores > 0.5]).area()


given = (torch.tensor([[0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 9.0, 9.0]]), torch.tensor([0.9, 0.1]))
print(f"torch {torch.__version__}, eager: {Areas()(*given).tolist()}")
try:
    torch.export.export(Areas(), given, strict=False)
except GuardOnDataDependentSymNode as error:
    print("\n".join(line for line in str(error).splitlines() if line.startswith(("Could not guard", "Caused by"))))
    print("SHOWN: the default exporter refuses Detectron2's Boxes")
else:
    sys.exit(1)
