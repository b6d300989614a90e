"""What exporters that trace a graph have in common: warnings to expect, and names that an exported file does not keep."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.families.torchvision_resize import with_size

if TYPE_CHECKING:
    from harness.detections import Tensors
    from harness.families import Graph

_FILE = "graph.json"


@dataclass(frozen=True, slots=True)
class Signature:
    """The order of a graph's named tensors, and what exported it (a sentence with versions), kept beside an exported file.

    ``limits_px`` are a mended torchvision detector's least and largest size: its graph is told the size to resize to.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    exporter: str
    limits_px: tuple[int, int] | None = None

    @classmethod
    def of(cls, graph: Graph, exporter: str, limits_px: tuple[int, int] | None = None) -> Signature:
        """The signature of a live graph."""
        return cls(tuple(graph.example), tuple(graph.outputs), exporter, limits_px)

    def ordered(self, tensors: Tensors) -> dict[str, Any]:
        """The inputs in the graph's order, contiguous, what a mended graph is told besides among them."""
        told = tensors if self.limits_px is None else with_size(tensors, self.limits_px)
        return {name: np.asarray(told[name], order="C") for name in self.inputs}

    def write(self, artifact: Path) -> None:
        """Keep it in the folder ``artifact``."""
        (artifact / _FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def lies_in(artifact: Path) -> bool:
        """Whether one is kept in the folder ``artifact``."""
        return (artifact / _FILE).is_file()

    @classmethod
    def read(cls, artifact: Path) -> Signature:
        """The signature kept in the folder ``artifact``."""
        kept = json.loads((artifact / _FILE).read_text(encoding="utf-8"))
        limits = kept["limits_px"]
        return cls(tuple(kept["inputs"]), tuple(kept["outputs"]), kept["exporter"], limits and (limits[0], limits[1]))


def export_onnx(graph: Graph, path: Path, opset: int, *, dynamo: bool = False) -> str:
    """Write the graph to ``path`` with `torch.onnx.export`; says in words what exported it.

    ``dynamo=False`` is named because torch's default exporter refuses detectors (data-dependent shapes).
    """
    import torch

    axes = {name: dict(named) for name, named in graph.dynamic_axes.items()}
    free: tuple[Any, ...] = tuple(dict.fromkeys(axes.get(name, {}), torch.export.Dim.DYNAMIC) for name in graph.example)
    if any(given.kind is given.VAR_POSITIONAL for given in signature(graph.module.forward).parameters.values()):
        free = (free,)  # ``forward(*tensors)`` has one argument, as torch.export counts
    with expected_warnings(), torch.no_grad():
        torch.onnx.export(
            graph.module,
            tuple(graph.example.values()),
            str(path),
            dynamo=dynamo,
            opset_version=opset,
            input_names=list(graph.example),
            output_names=list(graph.outputs),
            **({"dynamic_shapes": free} if dynamo else {"dynamic_axes": axes}),
        )
    return f"torch.onnx.export {version('torch')} (dynamo={dynamo}, opset {opset})"


@contextmanager
def expected_warnings() -> Iterator[None]:
    """Silence what tracing a detector always warns of; everything else comes through.

    A traced graph is checked against the live model on pictures of other sizes, so a warning that a trace *might* not generalise
    says nothing that the checks do not say better; and the routes that the guides teach are deprecated in torch 2.15.
    """
    with warnings.catch_warnings():
        for category, message in (
            (FutureWarning, r"`torch\.jit\.\w+` is deprecated"),
            (DeprecationWarning, r"`torch\.jit\.\w+` is deprecated"),
            (DeprecationWarning, r"You are using the legacy TorchScript-based ONNX export"),
            (DeprecationWarning, r"The feature will be removed. Please remove usage of this function"),
            (UserWarning, r"To copy construct from a tensor"),
            (UserWarning, r"Constant folding - Only steps=1 can be constant folded"),
            (UserWarning, r"Exporting aten::index operator of advanced indexing"),
        ):
            warnings.filterwarnings("ignore", message, category)
        warnings.filterwarnings("ignore", category=_tracer_warning())
        yield


def _tracer_warning() -> type[Warning]:
    from torch.jit import TracerWarning

    found: type[Warning] = TracerWarning
    return found
