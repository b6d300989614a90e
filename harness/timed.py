"""What a timed process does with an open detector: its curve, and apart from it what happens once and what a call is made of."""

from __future__ import annotations

import dataclasses
import importlib
import io
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psutil

from harness import levels
from harness.adapters import MixedSession, ServedSession
from harness.disturbance import disturbances, look
from harness.environment import usable_cores
from harness.errors import Unavailable
from harness.served_load import loads
from harness.sweep import PADDED, PICTURES, Bounds, Mixed, Watch, sweep
from harness.timings import Used

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels
    from harness.orders import Order
    from harness.sessions import Detector
    from harness.timings import Sweep


ALONE = 0.3
"""Of what a process of a service may measure, the share for one request at a time; the rest is for several clients."""


_OTHER_SIZE = "first answer at another size"


def imported_s(adapter: Any) -> float:
    """Seconds that importing the adapter's libraries takes in this process."""
    began = time.monotonic()
    for module in adapter.requires:
        importlib.import_module(module)
    return time.monotonic() - began


def measured(
    detector: Detector,
    pictures: Mapping[str, Pixels],
    order: Order,
    enter: Callable[[str], object],
    meter: Callable[[], Used] = Used,
) -> tuple[Sweep, dict[str, Detections]]:
    """The sweep of one process, and every different answer of its timed loop (`harness.sweep.answer_name`).

    Pictures of the deck's commonest size are timed, and apart from them some of several sizes; a service is put under load
    instead. ``enter`` is told how far it came, ``meter`` reads the device.
    """
    (size, _), *_ = Counter(image.shape for image in pictures.values()).most_common(1)
    equal = {name: image for name, image in pictures.items() if image.shape == size}
    other = next((image for image in pictures.values() if image.shape != size), None)
    enter("time")
    bounds = Bounds(order.measure_s, room=_room(order.memory_bytes), audited=order.job.repeat < levels.FEWEST_PROCESSES)
    served = detector.session if isinstance(detector.session, ServedSession) else None
    before = look()
    watch = Watch(order.job.cell.device, detector.synchronise, meter=meter)
    if served is not None:
        bounds = dataclasses.replace(bounds, seconds=ALONE * order.measure_s, largest=1)
    cold: dict[str, float] = {}

    def at_another_size() -> None:
        if other is not None and _OTHER_SIZE not in cold:
            cold[_OTHER_SIZE] = _timed(lambda: detector.predict([other]), detector.synchronise)

    def several() -> Mixed:
        at_another_size()
        return _mixed(detector, pictures)

    mixed = None if other is None or served is not None else several
    found, answers = sweep(detector.predict, equal, detector.batching, bounds, watch, mixed)
    if served is not None:
        points, under_load = loads(served, equal, (1 - ALONE) * order.measure_s, enter)
        found, answers = dataclasses.replace(found, loads=points), answers | under_load
    disturbed = tuple(disturbances(before, look(), usable_cores()))
    if order.job.repeat > 0:
        return dataclasses.replace(found, disturbed=disturbed), answers
    enter("time what happens once")
    at_another_size()
    cold = {"first answer": found.points[0].first_s, **cold}
    enter("time the parts")
    return dataclasses.replace(found, disturbed=disturbed, cold=cold, parts=_parts(detector, next(iter(equal.values())))), answers


def _mixed(detector: Detector, pictures: Mapping[str, Pixels]) -> Mixed:
    """A few sizes out of the deck's, a picture of each: in one call of the library where it takes that, which a call finds out."""
    first: dict[tuple[int, ...], str] = {}
    for name, image in pictures.items():
        first.setdefault(image.shape, name)
    names, count = list(first.values()), min(PICTURES, len(first))
    # From the middle of each part: what comes first in a deck may be a blank picture.
    taken = {names[i]: pictures[names[i]] for i in ((2 * part + 1) * len(names) // (2 * count) for part in range(count))}
    padded = isinstance(detector.session, MixedSession)
    if padded:
        try:
            detector.predict_mixed(list(taken.values()))
        except Unavailable:
            padded = False

    def predict(images: Sequence[Pixels]) -> list[Detections]:
        return detector.predict_mixed(images) if padded and len(images) > 1 else detector.predict(images)

    return Mixed(predict, taken, PADDED if padded else detector.batching)


def _timed(call: Callable[[], object], synchronise: Callable[[], object]) -> float:
    synchronise()
    began = time.monotonic()
    call()
    synchronise()
    return time.monotonic() - began


def _parts(detector: Detector, image: Pixels) -> dict[str, tuple[float, ...]]:
    """Seconds of each part, as often as a median needs; decoding is of the picture as PNG, which no backend here does itself."""
    from PIL import Image as Picture

    with io.BytesIO() as stream:
        Picture.fromarray(image).save(stream, "png")
        content = stream.getvalue()
    found: dict[str, list[float]] = {}
    for _ in range(levels.MEDIAN_SAMPLES):
        began = time.perf_counter()
        Picture.open(io.BytesIO(content)).convert("RGB").load()
        found.setdefault("decode", []).append(time.perf_counter() - began)
        for name, seconds in detector.parts(image).items():
            found.setdefault(name, []).append(seconds)
    return {name: tuple(seconds) for name, seconds in found.items()}


def _room(most_bytes: int) -> Callable[[int], str]:
    """Why a batch would not fit, where it would not: each doubling is taken to need twice what the last one added."""
    seen = [_resident_bytes()]

    def room(batch: int) -> str:
        now = _resident_bytes()
        needed = now + 2 * max(now - seen[-1], 0)
        seen.append(now)
        if most_bytes and needed > most_bytes:
            return f"out of memory: batch {batch} would need some {needed / 2**30:.1f} GiB, the limit is {most_bytes / 2**30:.1f}"
        return ""

    return room


def _resident_bytes() -> int:
    """Of this process and what it started."""
    total = 0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total
