"""Expected warnings are silenced one by one; the names of a graph survive on disk."""

from __future__ import annotations

import warnings
from pathlib import Path
from unittest.mock import Mock, patch

import pytest

from harness.families import Graph
from harness.tracing import Signature, expected_warnings, export_onnx


def test_signature_comes_back_from_disk(tmp_path: Path) -> None:
    signature = Signature(("image", "scale"), ("boxes", "scores"), "an exporter 1.0")
    signature.write(tmp_path)
    assert Signature.read(tmp_path) == signature


def test_expected_warnings_are_silent_and_all_others_come_through() -> None:
    from torch.jit import TracerWarning

    with expected_warnings():
        warnings.warn("Converting a tensor to a Python boolean", TracerWarning, stacklevel=1)
        warnings.warn("`torch.jit.trace` is deprecated. Please switch", FutureWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="this model is broken"), expected_warnings():
        warnings.warn("this model is broken", UserWarning, stacklevel=1)


def test_the_default_exporter_is_told_the_free_sides_of_a_graph_that_takes_any_number_of_tensors(tmp_path: Path) -> None:
    import torch

    class Summed(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor]:
            return (tensors[0].sum(0),)

    export = Mock()
    axes = {"image": {1: "height", 2: "width"}}
    with patch("torch.onnx.export", export):
        export_onnx(Graph(Summed(), {"image": torch.zeros(3, 4, 5)}, ("sum",), axes), tmp_path / "model.onnx", 20, dynamo=True)
    shapes = export.call_args.kwargs["dynamic_shapes"]
    torch.export.export(Summed(), (torch.zeros(3, 4, 5),), dynamic_shapes=shapes, strict=False)
    assert list(shapes[0][0]) == [1, 2]
