"""Detectron2 pastes masks in the precision of the masks, bf16 under autocast: the places to sample lie on a coarse grid.

``paste_masks_in_image`` converts the places at which a mask is sampled, which are float32, to the masks' type. A bf16 number has
eight bits, so that the outline of a large object moves by a pixel and more.

Exit 0 and a line "SHOWN: ..." where the installed Detectron2 does so, exit 1 where it does not.
"""

import sys
import warnings

import torch

warnings.simplefilter("ignore")

from detectron2.layers.mask_ops import paste_masks_in_image  # noqa: E402 - its imports warn

SIDE_PX = 400
across = torch.linspace(-1.0, 1.0, 28)
# A disc whose numbers bf16 holds exactly, so that nothing but the sampling can differ.
mask = ((across[None, :] ** 2 + across[:, None] ** 2).sqrt() < 0.7).float()[None]
box = torch.tensor([[30.0, 40.0, 370.0, 360.0]])
whole, half = (paste_masks_in_image(given, box, (SIDE_PX, SIDE_PX), 0.5) for given in (mask, mask.bfloat16()))
differ, pixels = int((whole != half).sum()), int(whole.sum())
print(f"torch {torch.__version__}: {differ} pixels of a disc of {pixels} differ when its mask, the same numbers, is given in bf16")
if differ < pixels / 1000:
    sys.exit(1)
print("SHOWN: masks are sampled in the precision of the masks")
