"""Detectron2 keeps the coordinates of keypoints in the type of their heatmaps, which is bf16 under autocast.

``heatmaps_to_keypoints`` writes into a tensor that is made like the heatmaps: from 128 px on a coordinate is a whole number, from
256 px on an even one. It also looks for the highest place in a heatmap that was enlarged in that type, where neighbours are equal.
Here the same numbers are given once in bf16 and once in float32.

Exit 0 and a line "SHOWN: ..." where the installed Detectron2 does so, exit 1 where it does not.
"""

import sys
import warnings

import torch

warnings.simplefilter("ignore")

from detectron2.structures.keypoints import heatmaps_to_keypoints  # noqa: E402 - it warns while it is imported

PEOPLE, SIDE = 50, 56
torch.manual_seed(0)
down, right = torch.meshgrid(torch.arange(float(SIDE)), torch.arange(float(SIDE)), indexing="ij")
peaks = 8 + 40 * torch.rand(PEOPLE, 2, 1, 1)
hills = 8 - ((right - peaks[:, 0]) ** 2 + (down - peaks[:, 1]) ** 2) / 18
heatmaps = hills[:, None].bfloat16()
boxes_px = torch.tensor([[200.0, 100.0, 320.0, 300.0]]).repeat(PEOPLE, 1)

whole = heatmaps_to_keypoints(heatmaps.float(), boxes_px)[:, 0, :2]
half = heatmaps_to_keypoints(heatmaps, boxes_px)[:, 0, :2]
off_px = (whole - half.float()).abs().amax(1)
kind = str(half.dtype).removeprefix("torch.")
print(f"keypoints in {kind}: up to {off_px.max():.1f} px off, {off_px.median():.1f} px in the median")
if half.dtype == torch.float32 or off_px.median() < 0.1:
    sys.exit(1)
print("SHOWN: the keypoints of heatmaps in bf16 are in bf16")
