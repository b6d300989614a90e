"""What a backend must offer, and where backends are found.

A backend is one file with one adapter object. `build` makes an artifact from a live model; `open` gets the artifact and nothing
else. ``docs/adapters.md`` builds one in under 60 lines.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels, Tensors
    from harness.families import Model
    from harness.types import Effective, ModelSpec, Variant


@dataclass(frozen=True, slots=True)
class Restored:
    """The live object that a store gave back, and what was stored beside it. The harness hashes them, not the adapter.

    ``module`` is the ``torch.nn.Module``; ``config`` whatever configuration the route keeps (None where it keeps none);
    ``attached`` the stored labels, metadata, custom objects and signatures, under the keys of `Model.attached`; ``native`` the
    objects that replace `Model.native` when the loaded model is saved once more; ``in_force`` what holds of the process while
    the session predicts, such as autocast: who asks the module itself does so within it; ``versions`` of the packages, and of
    ``python``, that the store says it was saved with.
    """

    module: Any
    config: Any = None
    attached: Mapping[str, Any] = field(default_factory=dict)
    native: Mapping[str, Any] = field(default_factory=dict)
    in_force: Callable[[], AbstractContextManager[None]] = nullcontext
    versions: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class DetectorSession(Protocol):
    """A backend that owns the whole path from picture to detections."""

    @property
    def effective(self) -> Effective:
        """What the runtime says it did, read back after opening."""

    @property
    def restored(self) -> Restored | None:
        """The live object and what was stored beside it; None where there is none."""

    def predict(self, images: Sequence[Pixels]) -> list[Detections]:
        """One answer an image, in order. Unequal sizes are never batched together; equal sizes given together may be."""


@runtime_checkable
class GraphSession(Protocol):
    """A backend that runs a graph of named tensors; the harness adds the family's preprocessing and postprocessing.

    One that keeps labels, metadata and the like beside the graph has them as ``attached``, under the keys of `Model.attached`,
    and may have ``versions``, as `Restored` has them. One that kept the graph's parameters and buffers under their names has what
    it loaded as ``module``, which lists them as a ``torch.nn.Module`` does.
    """

    @property
    def effective(self) -> Effective:
        """What the runtime says it did, read back after opening."""

    def run(self, tensors: Tensors) -> Tensors:
        """Named tensors in, named tensors out, for one image. The outputs are owned by the caller."""

    def run_many(self, batch: Sequence[Tensors]) -> list[Tensors]:
        """Several images, as the runtime's users would run them (a loop, requests in flight); answers in order."""


@runtime_checkable
class MixedSession(Protocol):
    """What a session may offer besides: a library that takes pictures of unequal sizes in one call (and pads them)."""

    def predict_mixed(self, images: Sequence[Pixels]) -> list[Detections]:
        """One answer an image, in order, of one call. Raises `harness.errors.Unavailable` where this artifact's route cannot."""


@runtime_checkable
class ServedSession(Protocol):
    """What a session may offer besides, whose adapter says ``serves = True``: a detector behind HTTP.

    ``token`` is what requests need, None where the service knows none.
    """

    token: str | None

    def post(self, route: str, body: bytes, kind: str, token: str | None) -> tuple[int, str, bytes]:
        """Post to the route ``detect`` or ``draw`` (404 where there is none); status, content type and body of the reply."""

    def read(self, body: bytes, picture: bytes) -> Detections:
        """The detections in the reply to a picture file that ``detect`` answered with 200."""


Session = DetectorSession | GraphSession


@runtime_checkable
class Keeping(Protocol):
    """What an adapter may say besides: what its routes bring back beside the weights. Whoever says so and does not, fails."""

    def keeps(self, variant: Variant) -> Collection[str]:
        """Any of ``config``, ``versions`` and the keys of `Model.attached`."""


@runtime_checkable
class Archiving(Protocol):
    """What a store's adapter may offer besides: its library's own export and import of what it holds."""

    def archives(self, variant: Variant) -> tuple[str, ...]:
        """The endings of the archives that it can make, ``.tar.gz`` and the like; none where the route has none."""

    def export(self, artifact: Path, variant: Variant, archive: Path) -> None:
        """Write what the artifact holds to ``archive``; files of the adapter's own may lie beside it, under names that begin so."""

    def take(self, archive: Path, variant: Variant, artifact: Path) -> None:
        """Import ``archive`` into the empty folder ``artifact``, which `Adapter.open` then opens."""


class Adapter(Protocol):
    """One backend. ``name`` is the file's stem, the word on the command line and the stem of the waiver file."""

    name: str
    requires: tuple[str, ...]
    variants: tuple[Variant, ...]

    def declines(self, model: ModelSpec, variant: Variant, device: str) -> str | None:
        """Why this cell cannot be, in a sentence for the reader of the report; None when it can. Imports no backend."""

    def build(self, model: Model, variant: Variant, artifact: Path) -> None:
        """Write everything that `open` will need into the empty folder ``artifact``. The model must be left as it was."""

    def open(self, artifact: Path, variant: Variant, device: str) -> AbstractContextManager[Session]:
        """Load the artifact, in a process that never saw the model; ``device`` is ``cpu`` or ``cuda``."""
