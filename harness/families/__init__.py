"""The libraries that define detectors: how a model is built, fed and read.

A family turns a `ModelSpec` into a live `Model`, a picture into the tensors that the network takes, and tensors or native answers
into `Detections`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.errors import MalformedDetections

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels, Tensors
    from harness.ledger import Ledger
    from harness.stages import Stage
    from harness.types import ModelSpec


@dataclass(frozen=True, slots=True)
class Graph:
    """A model as exporters see it: named tensors in, named tensors out.

    ``module`` is a ``torch.nn.Module`` whose ``forward(*inputs)`` takes the tensors of ``example`` in order and returns a tuple
    in the order of ``outputs``. ``dynamic_axes`` names the free axes of inputs and outputs, as `torch.onnx.export` wants them.
    """

    module: Any
    example: Mapping[str, Any]
    outputs: tuple[str, ...]
    dynamic_axes: Mapping[str, Mapping[int, str]]


@dataclass(frozen=True, slots=True)
class Model:
    """What `Adapter.build` gets: the live detector.

    ``module`` is in eval mode on the CPU; ``graph`` traces it; ``sample`` is a picture with detections. ``config`` is the
    family's own configuration object. ``native`` holds the objects that this library's users save (Detectron2: ``predictor``).
    ``attached`` is what a user stores beside the model: labels, metadata, custom objects, under these keys; a route that can keep
    them must be given exactly these objects. ``calibration`` gives pictures that whoever quantises may learn ranges from.
    """

    spec: ModelSpec
    module: Any
    config: Any
    sample: Pixels
    graph: Graph
    native: Mapping[str, Any] = field(default_factory=dict)
    attached: Mapping[str, Any] = field(default_factory=dict)
    calibration: Callable[[], Iterable[Pixels]] = tuple


class Processor(Protocol):
    """The two ends of a graph, made from the spec alone: `prepare` before it, `finish` behind it."""

    def prepare(self, image: Pixels) -> Tensors:
        """The named tensors the graph takes for this picture."""

    def finish(self, outputs: Tensors, image: Pixels) -> Detections:
        """The graph's named outputs for this picture, as detections in pixels of the original image."""


class Family(Protocol):
    """One library that defines detectors. Its module imports the library only inside functions."""

    name: str
    requires: tuple[str, ...]
    first_label: int
    """The library's own label of the first class: what `Detections` call 0."""

    def materialise(self, spec: ModelSpec, folder: Path) -> Path:
        """Write the source checkpoint as this library's users have it (one file in ``folder``); returns its path."""

    def build(self, spec: ModelSpec, checkpoint: Path, sample: Pixels) -> Model:
        """The live model on the CPU, in eval mode, weights read from ``checkpoint``."""

    def construct(self, spec: ModelSpec) -> tuple[Any, Any]:
        """The module, untrained and in training mode, and the family's configuration object; no weights are read."""

    def processor(self, spec: ModelSpec) -> Processor:
        """The preprocessing and postprocessing around the model's graph."""

    def predict(
        self, module: Any, config: Any, images: Sequence[Pixels], margins: bool = False, *, mixed: bool = False
    ) -> list[Detections]:
        """Answer with a live module; images of equal size go in as one batch, others one by one, in order.

        With ``margins`` the mask pixels near the threshold are marked (`Masks.near`): what the reference is asked for, and nobody
        whose time is taken. With ``mixed`` all images go in as one batch, which the library pads to one size.
        """

    def stages(self, spec: ModelSpec, module: Any) -> tuple[Stage, ...]:
        """What ``module``, in eval mode, does between the graph's input and outputs: stages that together give the same bits."""

    def ledger(self, module: Any, config: Any, image: Pixels) -> Ledger | None:
        """What a live module, which is left as it is, weighs up to answer this image; None for an architecture not known here."""

    def config_text(self, config: Any) -> str:
        """The configuration as text, equal for equal configurations."""

    def written_config(self, config: Any) -> str | None:
        """All of a configuration as text that `config_of` reads; None for one that plain text cannot hold."""

    def config_of(self, text: str) -> Any:
        """The configuration that `written_config` wrote; no code in it is run. Raises `UnreadableConfig`."""

    def module_of(self, config: Any) -> Any:
        """The untrained module of a configuration, in training mode."""


def whole_numbers(name: str, values: Any) -> NDArray[np.int64]:
    """Labels as they come out of a graph, ``int64``. Raises `MalformedDetections` for floats: an index that was rounded is none."""
    found = np.asarray(values)
    if found.dtype.kind not in "iu":
        raise MalformedDetections(f"{name} are {found.dtype}, not integers")
    return found.astype(np.int64)


FAMILIES = ("detectron2", "torchvision")


def family(name: str) -> Family:
    """The family of that name. Raises `UnknownName`."""
    from importlib import import_module

    from harness.errors import UnknownName

    if name not in FAMILIES:
        raise UnknownName("family", name, FAMILIES)
    found: Family = import_module(f"harness.families.{name}").FAMILY
    return found
