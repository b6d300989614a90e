"""Adapters with one fault each, wrapped around a real backend, as a third party would bring them: ``--adapter liars.py:NAME``.

`REORDERS` is honest: the order of detections carries no meaning. The last four break their own process.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harness.adapters import Adapter
from harness.families import Model, family
from harness.registry import load_adapter
from harness.types import Effective, ModelSpec, Tensors, Variant

Arrays = dict[str, Any]
GRAPH = "onnxruntime_session"
EAGER = "torch_eager"


class Wrapped:
    """The real backend ``truth`` under another name, each open session passed through ``lie``."""

    def __init__(self, name: str, truth: str, lie: Callable[[Any], Any]) -> None:
        self.name = name
        self._truth: Adapter = load_adapter(truth)
        self._lie = lie
        self.requires = self._truth.requires
        self.variants = self._truth.variants

    def declines(self, model: ModelSpec, variant: Variant, device: str) -> str | None:
        return self._truth.declines(model, variant, device)

    def build(self, model: Model, variant: Variant, artifact: Path) -> None:
        self._truth.build(model, variant, artifact)

    @contextmanager
    def open(self, artifact: Path, variant: Variant, device: str) -> Iterator[Any]:
        with self._truth.open(artifact, variant, device) as session:
            yield self._lie(session)


class LyingGraph:
    """A graph session whose inputs and outputs pass through a fault."""

    def __init__(self, truth: Any, inputs: Callable[[Arrays], Arrays] = dict, outputs: Callable[[Arrays], Arrays] = dict) -> None:
        self._truth = truth
        self._inputs = inputs
        self._outputs = outputs

    @property
    def effective(self) -> Effective:
        return self._truth.effective  # type: ignore[no-any-return]

    def run(self, tensors: Tensors) -> Tensors:
        return self._outputs(dict(self._truth.run(self._inputs(dict(tensors)))))

    def run_many(self, batch: Sequence[Tensors]) -> list[Tensors]:
        return [self.run(tensors) for tensors in batch]


def _outputs(change: Callable[[Arrays], Arrays]) -> Callable[[Any], LyingGraph]:
    return lambda truth: LyingGraph(truth, outputs=change)


def _of(name: str, change: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    return lambda found: {**found, name: change(found[name])}


def _rows(pick: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    return lambda found: {name: pick(value) for name, value in found.items()}


def _raise_on_third_image() -> Callable[[Arrays], Arrays]:
    seen = []

    def count(found: Arrays) -> Arrays:
        seen.append(1)
        if len(seen) == 3:
            raise RuntimeError("the third image is one too many")
        return found

    return count


def _round_to_bf16(session: Any) -> Any:
    """Keeps only the bits of bf16 of every weight, in tensors that claim to be fp32."""
    for parameter in session.restored.module.parameters():
        parameter.data.copy_(parameter.data.bfloat16().float())
    return session


class OutsideWeights(Wrapped):
    """Opens with the weights that ship with the project instead of those in its artifact."""

    def __init__(self) -> None:
        super().__init__("outside_weights", EAGER, lambda session: session)

    @contextmanager
    def open(self, artifact: Path, variant: Variant, device: str) -> Iterator[Any]:
        import torch

        with self._truth.open(artifact, variant, device) as session:
            from harness.adapters.torch_eager import read_spec

            spec = read_spec(artifact / "spec.json")
            scratch = Path(os.environ["TMPDIR"])
            checkpoint = torch.load(family(spec.family).materialise(spec, scratch), weights_only=True)
            session.restored.module.load_state_dict(checkpoint.get("model", checkpoint))
            yield session


class OutsideFolder(Wrapped):
    """Opens the folder that it once built into instead of the artifact that it is given."""

    def __init__(self) -> None:
        super().__init__("outside_folder", EAGER, lambda session: session)

    def build(self, model: Model, variant: Variant, artifact: Path) -> None:
        super().build(model, variant, artifact)
        (artifact / "home.txt").write_text(str(artifact))

    @contextmanager
    def open(self, artifact: Path, variant: Variant, device: str) -> Iterator[Any]:
        with self._truth.open(Path((artifact / "home.txt").read_text()), variant, device) as session:
            yield session


EMPTY = Wrapped("empty", GRAPH, _outputs(_rows(lambda rows: rows[:0])))
LAST_DROPPED = Wrapped("last_dropped", GRAPH, _outputs(_rows(lambda rows: rows[: max(len(rows) - 1, 0)])))
CLASSES_OFF = Wrapped("classes_off", GRAPH, _outputs(_of("labels", lambda labels: labels % 3 + 1)))
CHANNELS_SWAPPED = Wrapped(
    "channels_swapped",
    GRAPH,
    lambda truth: LyingGraph(truth, inputs=_rows(lambda image: np.ascontiguousarray(image[::-1]))),
)
SCORES_SCALED = Wrapped("scores_scaled", GRAPH, _outputs(_of("scores", lambda scores: scores * np.float32(1.001))))
BOXES_SHIFTED = Wrapped("boxes_shifted", GRAPH, _outputs(_of("boxes", lambda boxes: boxes + np.float32(0.05))))
THIRD_RAISES = Wrapped("third_raises", GRAPH, lambda truth: LyingGraph(truth, outputs=_raise_on_third_image()))
LOWER_PRECISION = Wrapped("lower_precision", EAGER, _round_to_bf16)
OUTSIDE_WEIGHTS = OutsideWeights()
OUTSIDE_FOLDER = OutsideFolder()
REORDERS = Wrapped("reorders", GRAPH, _outputs(_rows(lambda rows: np.ascontiguousarray(rows[::-1]))))


def _hang(found: Arrays) -> Arrays:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
    time.sleep(3600)
    return found


def _eat(found: Arrays) -> Arrays:
    eaten = []
    while True:
        eaten.append(np.ones(2**23))
        time.sleep(0.02)
        if len(eaten) > 10_000:
            return found


def _exit(_found: Mapping[str, Any]) -> Arrays:
    os._exit(3)


def _segfault(found: Arrays) -> Arrays:
    ctypes.string_at(0)
    return found


HANGS = Wrapped("hangs", GRAPH, _outputs(_hang))
EATS_MEMORY = Wrapped("eats_memory", GRAPH, _outputs(_eat))
EXITS = Wrapped("exits", GRAPH, _outputs(_exit))
SEGFAULTS = Wrapped("segfaults", GRAPH, _outputs(_segfault))
