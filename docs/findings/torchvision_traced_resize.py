"""A traced torchvision detector resizes some pictures to another size than the live one.

Live, torchvision works out the scale of a picture in double precision; while being traced, in single precision, and as a
reciprocal times a number. Both round down to whole pixels, so where the true size is a whole number (the side that is scaled to
``min_size`` or ``max_size`` always is) one of them may come out a pixel smaller. Every exporter that traces inherits it, those of
TorchScript, ONNX and OpenVINO among them.

Exit 0 and a line "SHOWN: ..." where the installed torchvision does so, exit 1 where it does not.
"""

import sys
import warnings

import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

warnings.simplefilter("ignore")

# The sizes that torchvision's Faster R-CNN has by default, and pictures as wide as those of COCO.
transform = GeneralizedRCNNTransform(800, 1333, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]).eval()


class Resized(torch.nn.Module):
    """The height and width to which a picture is resized, px."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``image`` is ``float32 [1, H, W]``."""
        size = transform.resize(image, None)[0].shape[-2:]
        return torch.stack([torch.as_tensor(side) for side in size])


live = Resized().eval()
traced = torch.jit.trace(live, (torch.zeros(1, 480, 640),), check_trace=False)

heights = range(320, 641)
differing = {}
for height in heights:
    picture = torch.zeros(1, height, 640)
    sizes = live(picture).tolist(), traced(picture).tolist()
    if sizes[0] != sizes[1]:
        differing[height] = sizes

print(f"torch {torch.__version__}: of {len(heights)} pictures 640 px wide and 320 to 640 px high, {len(differing)} differ")
for height, (by_live, by_traced) in list(differing.items())[:3]:
    print(f"  {height} x 640: live resizes to {by_live}, traced to {by_traced}")
if not differing:
    sys.exit(1)
print("SHOWN: traced, torchvision's detectors resize some pictures to another size than live")
