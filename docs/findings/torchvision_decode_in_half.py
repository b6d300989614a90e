"""torchvision makes boxes in the precision of what the network says, bf16 under autocast: coordinates are whole pixels.

``BoxCoder.decode_single`` converts the anchors and proposals, which are float32, to the type of the deltas. A bf16 number has
eight bits, so that from 128 px on a coordinate is a whole number, from 256 px on an even one.

Exit 0 and a line "SHOWN: ..." where the installed torchvision does so, exit 1 where it does not.
"""

import sys

import torch
import torchvision
from torchvision.models.detection._utils import BoxCoder

proposals = torch.tensor([[133.4, 257.3, 301.7, 515.9]])
unmoved = torch.zeros(1, 4)
coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
whole, half = coder.decode_single(unmoved, proposals), coder.decode_single(unmoved.bfloat16(), proposals)
print(f"torchvision {torchvision.__version__}: {proposals[0].tolist()} left where it is becomes {half[0].tolist()}")
if not torch.allclose(whole, proposals, atol=1e-3) or (half.float() - proposals).abs().max() < 0.5:
    sys.exit(1)
print("SHOWN: boxes are made in the precision of the deltas, not in that of the boxes")
