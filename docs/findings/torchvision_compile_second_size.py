"""A compiled torchvision detector answers pictures of one size: for the second size, torch.compile raises.

Exits with 0 where the fault is there, 1 where it is not.
"""

import sys
import warnings

import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

warnings.simplefilter("ignore")

transform = GeneralizedRCNNTransform(160, 224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).eval()
compiled = torch.compile(transform, backend="eager")
sizes = []
for height, width in ((160, 192), (75, 99), (90, 330)):
    picture = [torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))]
    wanted = transform(picture)[0].tensors
    try:
        found = compiled(picture)[0].tensors
    except Exception as error:  # noqa: BLE001 - whatever it raises is told
        first = str(error).strip().splitlines()[0]
        print(f"SHOWN: after {sizes or 'no size'} the picture of {height} x {width} raises {type(error).__name__}: {first}")
        sys.exit(0)
    if found.shape != wanted.shape or not torch.equal(found, wanted):
        print(f"SHOWN: the picture of {height} x {width} is resized to {tuple(found.shape)}, not {tuple(wanted.shape)}")
        sys.exit(0)
    sizes.append((height, width))
print("not shown: three sizes are answered as without it")
sys.exit(1)
