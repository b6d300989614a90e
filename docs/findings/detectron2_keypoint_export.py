"""Detectron2's keypoint decoding cannot be exported to ONNX.

A Keypoint R-CNN ends in ``heatmaps_to_keypoints``, which resizes the heatmap of every person to its own box: a loop whose sizes are
numbers of the picture. ``torch.onnx.export`` meets it as a scripted function and stops.

Exit 0 and a line "SHOWN: ..." where the installed Detectron2 and torch do so, exit 1 where they do not.
"""

import sys
import warnings
from tempfile import TemporaryDirectory

import torch
from detectron2.structures.keypoints import heatmaps_to_keypoints

warnings.simplefilter("ignore")


class Decoding(torch.nn.Module):
    """The last step of a Keypoint R-CNN by itself."""

    def forward(self, heatmaps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """``float32 [N, K, S, S]`` and ``[N, 4]`` to ``[N, K, 4]``."""
        return heatmaps_to_keypoints(heatmaps, boxes)


example = (torch.rand(3, 5, 56, 56), torch.tensor([[10.0, 20.0, 50.0, 60.0]]).repeat(3, 1))
with TemporaryDirectory() as folder:
    try:
        torch.onnx.export(
            Decoding().eval(),
            example,
            f"{folder}/decoding.onnx",
            dynamo=False,
            opset_version=17,
            input_names=["heatmaps", "boxes"],
            output_names=["keypoints"],
            dynamic_axes={"heatmaps": {0: "people"}, "boxes": {0: "people"}},
        )
    except torch.onnx.errors.SymbolicValueError as error:
        print(f"torch {torch.__version__}: {str(error).splitlines()[0]}")
        print("SHOWN: the decoding of keypoints cannot be exported to ONNX")
        sys.exit(0)
sys.exit(1)
