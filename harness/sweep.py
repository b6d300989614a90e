"""One process's sweep over batch sizes: images a call doubled until that no longer pays, or no longer goes.

The timed loop keeps the answers that it times, so that the fast path is what is compared afterwards.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, cycle, islice
from typing import TYPE_CHECKING, Any, TypeAlias

from harness import levels
from harness.digests import answer_sha256
from harness.errors import told
from harness.sampler import Clock, sample
from harness.timings import Samples, Sweep, SweepPoint, Used

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.detections import Detections, Pixels

PICTURES = 4
"""Different pictures that are taken in turn: enough that an answer kept from an earlier call is of another one."""

LARGEST_BATCH = 256
PAYS = 0.05
"""A larger batch pays where it answers so much more images a second than any before it."""

IN_VAIN = 2
"""Batch sizes in a row that did not pay, after which a sweep ends."""

EQUAL = 0.8
"""Of what a process may measure, the share of pictures of one size where there are others too; those have the rest."""

LEAST_MIXED_S = 1.5
"""Where the rest is less, no time is kept for pictures of mixed sizes: it would settle nothing, and the others need it."""

PADDED = "one tensor, padded to the largest"
"""How a library batches pictures of several sizes that it takes in one call."""

KEPT_CALLS = 200
"""Calls of a point whose answers are kept; the last is kept besides."""

Predict = Callable[[Sequence["Pixels"]], "list[Detections]"]
_Found: TypeAlias = "dict[tuple[int, str, int], Detections]"
_Call: TypeAlias = "tuple[Sequence[str], list[tuple[Detections, NDArray[Any], NDArray[Any], NDArray[Any]]]]"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a sweep may take: seconds for all its points, batch sizes to the largest, and ``room``, which says why there is none.

    ``room`` is asked before each larger batch. ``audited`` says whether one picture is asked again and again besides.
    """

    seconds: float
    largest: int = LARGEST_BATCH
    room: Callable[[int], str] = lambda _: ""
    audited: bool = True


@dataclass(frozen=True, slots=True)
class Watch:
    """How time is taken: on which kind of device, waiting for it before the clock is read, by which clock.

    ``meter`` reads what the device holds and has spent.
    """

    device: str = "cpu"
    synchronise: Callable[[], object] = lambda: None
    clock: Clock = time.monotonic
    meter: Callable[[], Used] = Used


@dataclass(frozen=True, slots=True)
class Mixed:
    """Pictures of several sizes, each of another, what answers several of them in one call, and how it batches them, in words."""

    predict: Predict
    pictures: Mapping[str, Pixels]
    kind: str


@dataclass(slots=True)
class _Kept:
    """The answers of a timed loop, call by call, and how many detections it gave.

    Boxes, scores and labels are copied as they come: what is written to them later was not there when the clock was read.
    """

    calls: list[_Call] = field(default_factory=list)
    last: _Call | None = None
    images: int = 0
    detections: int = 0

    def take(self, names: Sequence[str], answers: list[Detections]) -> None:
        self.images += len(answers)
        self.detections += sum(map(len, answers))
        self.last = names, [(one, one.boxes_xyxy_px.copy(), one.scores.copy(), one.labels.copy()) for one in answers]
        if len(self.calls) < KEPT_CALLS:
            self.calls.append(self.last)


def answer_name(asked: int | str, picture: str, other: int = 0) -> str:
    """The name of an answer among an observation's: the ``other``-th of those that differ, from 0, of a picture so ``asked``.

    A number is that of images of one size in a call; `mixed_words` are of several sizes; a load is in other words.
    """
    return f"{asked}/{other}/{picture}"


def read_name(name: str) -> tuple[int | str, str, int]:
    """How it was asked, the picture and the number, of what `answer_name` made."""
    asked, other, picture = name.split("/", 2)
    return int(asked) if asked.isdecimal() else asked, picture, int(other)


_MIXED = "mixed sizes, batch "


def mixed_words(batch: int) -> str:
    """So many images of several sizes in a call, as their answers' names have it."""
    return f"{_MIXED}{batch}"


def mixed_batch(asked: int | str) -> int | None:
    """How many images there were, of what `mixed_words` made; None of anything else."""
    return int(asked.removeprefix(_MIXED)) if isinstance(asked, str) and asked.startswith(_MIXED) else None


def sweep(
    predict: Predict,
    pictures: Mapping[str, Pixels],
    kind: str,
    bounds: Bounds,
    watch: Watch,
    mixed: Callable[[], Mixed] | None = None,
) -> tuple[Sweep, dict[str, Detections]]:
    """The curves and the audit of one process, and by `answer_name` every different answer that its timed calls gave.

    ``pictures`` are of one size, and ``kind`` says how several are batched: batches of mixed sizes are other work, and a curve
    apart. ``mixed`` is asked when that comes, so that whatever finds out how they are batched meets nothing cold.
    """
    pictures = dict(islice(pictures.items(), PICTURES))
    begun = watch.clock()
    keeps = mixed is not None and (1 - EQUAL) * bounds.seconds >= LEAST_MIXED_S
    equal = dataclasses.replace(bounds, seconds=(EQUAL if keeps else 1.0) * bounds.seconds)
    points, found = _curve(predict, pictures, kind, equal, watch)
    answers = {answer_name(batch, name, n): answer for (batch, name, n), answer in found.items()}
    others: tuple[SweepPoint, ...] = ()
    left_s = bounds.seconds - (watch.clock() - begun)
    if mixed is not None and not points[-1].stopped and left_s > 0:
        several = mixed()
        left = dataclasses.replace(bounds, seconds=bounds.seconds - (watch.clock() - begun))
        # From as many on as there are sizes, every call has the largest: what is padded is padded alike.
        others, found = _curve(several.predict, several.pictures, several.kind, left, watch, len(several.pictures))
        answers |= {answer_name(mixed_words(batch), name, n): answer for (batch, name, n), answer in found.items()}
    fresh_s, again_s = _audit(predict, pictures, watch) if bounds.audited else ((), ())
    unasked = "mixed sizes" if mixed is not None and not others else ""
    return Sweep(points, fresh_s, again_s, mixed=others, unasked=unasked), answers


def _curve(
    predict: Predict, pictures: Mapping[str, Pixels], kind: str, bounds: Bounds, watch: Watch, second: int = 2
) -> tuple[tuple[SweepPoint, ...], _Found]:
    """Batch sizes 1, ``second``, twice that and so on, until that no longer pays; answers by batch size, picture and number."""
    points: list[SweepPoint] = []
    answers: _Found = {}
    best, in_vain = 0.0, 0
    begun = watch.clock()
    for batch in chain((1,), (second << doubled for doubled in count())):
        left_s = bounds.seconds - (watch.clock() - begun)
        if batch > bounds.largest or in_vain == IN_VAIN or left_s <= 0:
            break
        point, found = _point(predict, pictures, batch, kind, dataclasses.replace(bounds, seconds=left_s), watch)
        points.append(point)
        answers |= found
        if point.stopped:
            break
        rate = _rate(point)
        in_vain = 0 if rate > best * (1 + PAYS) else in_vain + 1
        best = max(best, rate)
    return tuple(points), answers


def _rate(point: SweepPoint) -> float:
    """Images a second, by the least of the warm samples: enough to decide whether to go on."""
    shortest = min(point.warm, default=point.first_s)
    return point.batch / shortest if shortest > 0 else float("inf")


def _point(
    predict: Predict,
    pictures: Mapping[str, Pixels],
    batch: int,
    kind: str,
    bounds: Bounds,
    watch: Watch,
) -> tuple[SweepPoint, _Found]:
    kept = _Kept()
    # Every batch starts one picture further than the last, so that each picture comes to stand at every place.
    names = list(pictures)
    batches = [list(islice(cycle(names), first, first + batch)) for first in range(len(names))]
    given = [[pictures[name] for name in one] for one in batches]

    def call(index: int) -> None:
        at = index % len(batches)
        kept.take(batches[at], predict(given[at]))

    full, samples = bounds.room(batch) if batch > 1 else "", Samples(0.0, (), 1, 0, False, 0.0)
    before = watch.meter()
    try:
        samples = samples if full else sample(call, bounds.seconds, watch.device, watch.synchronise, watch.clock)
    except Exception as error:
        if not is_out_of_memory(error) or batch == 1:
            raise
        full = f"out of memory: {told(error)[:300]}"
    point = SweepPoint(
        **{field.name: getattr(samples, field.name) for field in dataclasses.fields(samples)},
        batch=batch,
        kind="one image" if batch == 1 else kind,
        images=kept.images,
        detections=kept.detections,
        stopped=full,
        used=_used(before, watch.meter()),
    )
    return point, {} if full else _different(kept, batch)


def _used(before: Used, after: Used) -> Used | None:
    """Of a device that tells anything: what it holds now, and what it has spent since."""
    if after == Used():
        return None
    known = after.energy_j is not None and before.energy_j is not None
    return Used(after.memory_bytes, after.energy_j - before.energy_j if known else None)  # type: ignore[operator]


def _different(kept: _Kept, batch: int) -> _Found:
    """By batch size, picture and number, each picture's first answer and every one that is not bit for bit one before it."""
    found: dict[str, dict[str, Detections]] = {}
    for names, answers in (*kept.calls, *([kept.last] if kept.last else [])):
        if len(answers) != len(names):
            raise ValueError(f"predict answered {len(answers)} times for {len(names)} images")
        for name, (given, boxes, scores, labels) in zip(names, answers, strict=True):
            answer = dataclasses.replace(given, boxes_xyxy_px=boxes, scores=scores, labels=labels)
            found.setdefault(name, {}).setdefault(answer_sha256(answer), answer)
    return {(batch, name, n): answer for name, others in found.items() for n, answer in enumerate(others.values())}


def _audit(predict: Predict, pictures: Mapping[str, Pixels], watch: Watch) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds of calls with pictures that were never asked before, and of calls with each once more right after its first.

    They differ from one of the deck in a corner's pixel, so that the work is the same and no cache has them.
    """
    base = next(iter(pictures.values()))
    fresh_s: list[float] = []
    again_s: list[float] = []
    for number in range(levels.MEDIAN_SAMPLES):
        fresh = base.copy()
        fresh[0, 0] ^= number + 1
        for taken in (fresh_s, again_s):
            watch.synchronise()
            began = watch.clock()
            predict([fresh])
            watch.synchronise()
            taken.append(watch.clock() - began)
    return tuple(fresh_s), tuple(again_s)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library says that there was no room: each has an exception of its own, or words alone."""
    words = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, MemoryError) or any(
        sign in words for sign in ("out of memory", "outofmemory", "failed to allocate memory", "bad_alloc", "not enough memory")
    )
