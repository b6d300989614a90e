"""TorchScript: the graph is traced, saved, loaded and run where the model's own code need not be."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.adapters.torch_eager import effective_of, full_fp32
from harness.tracing import Signature, expected_warnings
from harness.types import Effective, Variant

if TYPE_CHECKING:
    from harness.detections import Tensors
    from harness.families import Model
    from harness.types import ModelSpec

_TRACE = "model.pt"


class TorchscriptSession:
    """A loaded trace; its inputs and outputs carry the names of the graph that was traced."""

    batching = "a loop over the images"

    def __init__(self, module: Any, device: str, signature: Signature) -> None:
        self.module, self._device, self._signature = module, device, signature

    @property
    def effective(self) -> Effective:
        """Read back from the loaded tensors and PyTorch's switches."""
        found = effective_of(self.module, "TorchScript interpreter", ("torch", "torchvision"))
        return dataclasses.replace(found, versions={**found.versions, "exporter": self._signature.exporter})

    def run(self, tensors: Tensors) -> Tensors:
        """Named tensors in, named tensors out, in arrays of their own."""
        import torch

        given = [torch.tensor(value).to(self._device) for value in self._signature.ordered(tensors).values()]
        with torch.inference_mode(), expected_warnings():
            answers = self.module(*given)
        together = answers if isinstance(answers, tuple) else (answers,)
        return {name: value.cpu().numpy().copy() for name, value in zip(self._signature.outputs, together, strict=True)}

    def run_many(self, batch: Sequence[Tensors]) -> list[Tensors]:
        """One after the other: the traced graph takes one image."""
        return [self.run(tensors) for tensors in batch]


class TorchscriptModule:
    """`torch.jit.trace`, `save`, `load`: deprecated since torch 2.9, so for full runs and whoever names it."""

    name = "torchscript_module"
    requires = ("torch", "torchvision")
    variants = (Variant("f32", base=False),)

    def declines(self, model: ModelSpec, variant: Variant, device: str) -> str | None:
        """Nothing: whatever torch runs on, a trace runs on."""
        return None

    def build(self, model: Model, variant: Variant, artifact: Path) -> None:
        """Write ``model.pt``, and the names of the graph's tensors beside it."""
        import torch

        with expected_warnings(), torch.no_grad():
            # The check would run the model twice more; the deck compares far more than it does.
            traced = torch.jit.trace(model.graph.module, tuple(model.graph.example.values()), strict=False, check_trace=False)
            torch.jit.save(traced, str(artifact / _TRACE))
        Signature.of(model.graph, f"torch.jit.trace {version('torch')}").write(artifact)

    @contextmanager
    def open(self, artifact: Path, variant: Variant, device: str) -> Iterator[TorchscriptSession]:
        """Load the trace onto ``device``; torchvision is imported for its compiled operators only."""
        import torch
        import torchvision  # noqa: F401 - a trace calls torchvision::nms and torchvision::roi_align by name

        with full_fp32():
            with expected_warnings():
                module = torch.jit.load(str(artifact / _TRACE), map_location=device).eval()
            yield TorchscriptSession(module, device, Signature.read(artifact))


ADAPTER = TorchscriptModule()
