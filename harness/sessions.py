"""Every backend as a detector: what a `GraphSession` lacks, the family supplies."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.adapters import Adapter, DetectorSession, GraphSession, MixedSession, Restored
from harness.digests import restoration
from harness.errors import HarnessError, Unavailable
from harness.families import Family, family

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels
    from harness.orders import Order
    from harness.types import Effective, Restoration, Variant


class Detector:
    """An open session with one face: pictures in, detections out."""

    def __init__(self, session: DetectorSession | GraphSession, order: Order, kind: Family, defaults: dict[str, str]) -> None:
        self._graph = session if isinstance(session, GraphSession) else None
        self._owner = session if isinstance(session, DetectorSession) else None
        self.session = session
        self._order = order
        self._family = kind
        self._defaults = defaults
        self._processor = kind.processor(order.spec) if self._graph else None

    @property
    def effective(self) -> Effective:
        """What the runtime says it did."""
        return self.session.effective

    @property
    def restored(self) -> Restored | None:
        """The live object of a store; None for graphs."""
        return None if self._owner is None else self._owner.restored

    @property
    def batching(self) -> str:
        """How several images in one call are run, in words: the adapter's own ``batching``, else a plain statement."""
        said = getattr(self.session, "batching", None)
        return str(said) if said else ("requests through run_many" if self._processor else "the backend's own predict")

    def predict(self, images: Sequence[Pixels]) -> list[Detections]:
        """One answer an image, in order."""
        return self.finish(self.raw(images), images)

    def raw(self, images: Sequence[Pixels]) -> list[Any]:
        """What the session itself returned, one an image: its detections, or a graph's named tensors as they came out."""
        if self._owner is not None:
            return list(self._owner.predict(images))
        if self._graph is None or self._processor is None:
            raise HarnessError("a session is neither a DetectorSession nor a GraphSession")
        prepared = [self._processor.prepare(image) for image in images]
        return [self._graph.run(prepared[0])] if len(prepared) == 1 else self._graph.run_many(prepared)

    def finish(self, given: Sequence[Any], images: Sequence[Pixels]) -> list[Detections]:
        """What `raw` returned for these images, read as detections."""
        if self._processor is None:
            return list(given)
        return [self._processor.finish(out, image) for out, image in zip(given, images, strict=True)]

    def predict_mixed(self, images: Sequence[Pixels]) -> list[Detections]:
        """Images of unequal sizes in one call of the library. Raises `Unavailable`, in words, where the backend cannot."""
        if not isinstance(self.session, MixedSession):
            raise Unavailable(f"Images of unequal sizes never go into one call; several images are run as {self.batching}.")
        return self.session.predict_mixed(images)

    def parts(self, image: Pixels) -> dict[str, float]:
        """Seconds of each part of a call with one picture: of a graph, what is before it, itself and what is behind it."""
        began = time.perf_counter()
        if self._graph is None or self._processor is None:
            self.predict([image])
            return {"predict": time.perf_counter() - began}
        tensors = self._processor.prepare(image)
        prepared = time.perf_counter()
        outputs = self._graph.run(tensors)
        self.synchronise()
        inferred = time.perf_counter()
        self._processor.finish(outputs, image)
        return {"prepare": prepared - began, "infer": inferred - prepared, "finish": time.perf_counter() - inferred}

    def synchronise(self) -> None:
        """Wait for the device, so that a clock read afterwards means what it says."""
        torch = sys.modules.get("torch")
        if self._order.job.cell.device.startswith("cuda") and torch is not None:
            torch.cuda.synchronize()

    def restoration(self) -> Restoration | None:
        """What came back, hashed; None where the backend gives no live object and says nothing of what it keeps of a graph."""
        back = self.restored
        if back is None:
            module, attached, versions = (getattr(self.session, name, None) for name in ("module", "attached", "versions"))
            if module is None and attached is None:
                return None
            return replace(restoration(module, None, attached or {}, versions=versions), live=False)
        text = None if back.config is None else self._family.config_text(back.config)
        changed = tuple(sorted(f"{key}: {was} -> {now}" for key, was, now in self._changes()))
        return restoration(back.module, text, back.attached, changed, back.versions)

    def _changes(self) -> Iterator[tuple[str, str, str]]:
        now = process_defaults()
        for key, was in self._defaults.items():
            if now.get(key) != was:
                yield key, was, now.get(key, "gone")


@contextmanager
def opened(adapter: Adapter, artifact: Path, variant: Variant, order: Order) -> Iterator[Detector]:
    """Open the artifact with the adapter; raises `HarnessError` when what it gives is no session."""
    defaults = process_defaults()
    kind = family(order.spec.family)
    with adapter.open(artifact, variant, order.job.cell.device) as session:
        if not isinstance(session, DetectorSession | GraphSession):
            raise HarnessError(
                f"{adapter.name}.open gave a {type(session).__name__}, which is neither DetectorSession nor GraphSession",
                "See docs/adapters.md for the methods that each must have.",
            )
        yield Detector(session, order, kind, defaults)


def process_defaults() -> dict[str, str]:
    """Process-wide settings of torch that opening a model must not change, as text."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return dict(_TORCH_AS_IMPORTED)
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "default tensor type": torch.empty(0).type(),
        "grad mode": str(torch.is_grad_enabled()),
        "threads": str(torch.get_num_threads()),
        "deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
    }


_TORCH_AS_IMPORTED = {
    "default dtype": "torch.float32",
    "default device": "cpu",
    "default tensor type": "torch.FloatTensor",
    "grad mode": "True",
    "deterministic algorithms": "False",
}
"""What a process that has not imported torch will find; its number of threads is the environment's to say."""
