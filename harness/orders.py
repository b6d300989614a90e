"""One job in hand: what it is told, how far it came, and the steps that jobs share."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.environment import usable_cores
from harness.errors import Broken, HarnessError, Unavailable, told
from harness.redaction import redacted
from harness.types import Cell, Job, JobError, Load, ModelSpec, Purpose, Variant

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels
    from harness.families import Model
    from harness.sessions import Detector


@dataclass(frozen=True, slots=True)
class Order:
    """Everything a worker needs to run one job; plain JSON on disk.

    ``adapter`` is a name of the registry or ``file.py:NAME``. ``artifact`` is the folder to build into, or the moved copy to
    open. ``source`` is the folder of the source checkpoint (`Family.materialise`), which a fidelity job finds empty.
    ``pictures`` is the file of the deck's `Pixels` by id (npz), ``images`` the ids to answer, in order, ``sample`` the id to trace
    with. ``measure_s`` is what a sweep may take, ``memory_bytes`` what its whole process tree may. ``import_paths`` are put before
    `sys.path`.
    """

    job: Job
    spec: ModelSpec
    variant: Variant
    adapter: str
    artifact: str
    source: str
    pictures: str
    images: tuple[str, ...]
    sample: str
    observation: str
    scratch: str
    shared: str
    seed: int
    measure_s: float = 0.0
    memory_bytes: int = 0
    import_paths: tuple[str, ...] = field(default_factory=tuple)

    @property
    def folders(self) -> dict[str, str]:
        """What the folders of this job are called where its errors are told."""
        return {
            self.scratch: "scratch",
            self.source: "source",
            str(Path(self.source).parent / "artifact"): "artifact, where it was built",
        }

    def write(self, path: Path) -> None:
        """Write the order as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), default=dict))

    @classmethod
    def read(cls, path: Path) -> Order:
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        job = raw.pop("job")
        spec = raw.pop("spec")
        return cls(
            job=Job(Cell(**job["cell"]), Purpose(job["purpose"]), Load(**job["load"]), job["repeat"]),
            spec=ModelSpec.read(spec),
            variant=Variant(**raw.pop("variant")),
            images=tuple(raw.pop("images")),
            import_paths=tuple(raw.pop("import_paths")),
            **raw,
        )


class Stage:
    """Says on disk how far the job came, so that a process that dies can still be explained."""

    def __init__(self, folder: Path) -> None:
        self.name = "start"
        self._file = folder.with_name(folder.name + ".stage")
        self._file.parent.mkdir(parents=True, exist_ok=True)

    def enter(self, name: str) -> None:
        """The job comes to ``name``."""
        self.name = name
        self._file.write_text(name)


def described(error: Exception, stage: str, order: Order) -> JobError:
    """What the backend raised, without the job's own folders."""
    kind = "unavailable" if isinstance(error, Unavailable) else "broken" if isinstance(error, Broken) else "raised"
    detail = "".join(traceback.format_exception(error))[-6000:]
    return JobError(kind, stage, redacted(told(error), order.folders)[:2000], redacted(detail, order.folders))


def prepare_runtime(order: Order) -> None:
    """The thread count of a torch that is already imported (a forked job); one imported later reads the environment."""
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(order.job.load.threads or usable_cores())


def perturbed_model(order: Order) -> Model:
    """The live model from a checkpoint in ``order.source``, its weights perturbed after everything that reads the file."""
    from harness.families import family
    from harness.fixtures import calibration
    from harness.perturb import perturb

    kind = family(order.spec.family)
    source = Path(order.source)
    source.mkdir(parents=True, exist_ok=True)
    model = kind.build(order.spec, kind.materialise(order.spec, source), picture_of(order, order.sample))
    perturb(model.module, order.seed)
    return dataclasses.replace(model, calibration=calibration.pictures)


def answer_all(detector: Detector, order: Order, stage: Stage, predict_s: list[float] | None = None) -> dict[str, Detections]:
    """Answers by image id, in the deck's order; equal sizes go together where the load says more than one image a call."""
    answers: dict[str, Detections] = {}
    for group in _groups(list(pixels_of(order)), order.job.load.batch):
        stage.enter(f"predict {', '.join(name for name, _ in group)}")
        began = time.monotonic()
        got = detector.predict([pixels for _, pixels in group])
        if predict_s is not None:
            predict_s.append(time.monotonic() - began)
        if len(got) != len(group):
            raise HarnessError(f"predict answered {len(got)} times for {len(group)} images")
        answers.update({name: answer for (name, _), answer in zip(group, got, strict=True)})
    return {name: answers[name] for name in order.images}


def _groups(images: Sequence[tuple[str, Pixels]], batch: int) -> Iterator[list[tuple[str, Pixels]]]:
    by_size: dict[tuple[int, ...], list[tuple[str, Pixels]]] = {}
    for name, pixels in images:
        by_size.setdefault(pixels.shape, []).append((name, pixels))
    queue = list(images) if batch == 1 else [pair for same in by_size.values() for pair in same]
    while queue:
        size = queue[0][1].shape
        group = [pair for pair in queue[:batch] if pair[1].shape == size]
        yield group
        queue = queue[len(group) :]


def pixels_of(order: Order) -> Iterator[tuple[str, Pixels]]:
    """The pictures to answer, in order."""
    for name in order.images:
        yield name, picture_of(order, name)


def picture_of(order: Order, name: str) -> Pixels:
    """One picture of the deck."""
    with np.load(order.pictures, allow_pickle=False) as pictures:
        pixels: Pixels = pictures[name]
        return pixels


def adapter_of(order: Order) -> Any:
    """The adapter that the order names."""
    from harness.registry import load_adapter, load_adapter_file

    return load_adapter_file(order.adapter) if ".py:" in order.adapter else load_adapter(order.adapter)


@contextmanager
def opened(order: Order, artifact: Path) -> Iterator[Detector]:
    """The artifact, opened as the order says."""
    from harness import sessions

    margins = order.job.purpose not in (Purpose.TIMING, Purpose.SWEEP, Purpose.PRECISION)
    options: Mapping[str, Any] = {**order.variant.open, "threads": order.job.load.threads, "margins": margins}
    with sessions.opened(adapter_of(order), artifact, dataclasses.replace(order.variant, open=options), order) as detector:
        gc.enable()
        yield detector


def emptied(folder: Path) -> Path:
    """The folder, empty."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
