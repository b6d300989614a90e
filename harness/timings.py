"""What timed jobs leave behind, in seconds: the survey's points, samples of one point, a curve, loads, and all of one process.

Plain data, as in `harness.types`; which of it counts is said in `harness.checks.fit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, TypeAlias

from harness import levels

Sizes: TypeAlias = Literal["equal", "mixed"]
"""Whether the pictures of a call are of one size, or of several: two kinds of work, never drawn as one curve."""


@dataclass(frozen=True, slots=True)
class TimingPoint:
    """One point of a batch curve: raw seconds of each warm call with ``batch`` images, and how the images were batched."""

    batch: int
    kind: str
    predict_s: tuple[float, ...]
    warmup_calls: int


@dataclass(frozen=True, slots=True)
class Samples:
    """Seconds of one call each, in order, after the ``first_s``, which is cold and stands apart.

    A sample is the mean of ``calls`` calls where one would be too short for the clock. ``warmup`` of the samples are warm-up;
    ``steady`` says whether the last windows agreed. ``spent_s`` is all of it, warm-up and what lay between the calls included.
    """

    first_s: float
    seconds: tuple[float, ...]
    calls: int
    warmup: int
    steady: bool
    spent_s: float

    @property
    def warm(self) -> tuple[float, ...]:
        """The samples after the warm-up."""
        return self.seconds[self.warmup :]

    @property
    def figure_s(self) -> float | None:
        """The process's own figure: the median of its warm samples, None where these are too few for one."""
        return median(self.warm) if len(self.warm) >= levels.MEDIAN_SAMPLES else None


@dataclass(frozen=True, slots=True)
class Used:
    """What a device holds and has spent: ``memory_bytes`` of all that runs on it, ``energy_j`` since it started, or of a point.

    Each is None where the device does not tell.
    """

    memory_bytes: int | None = None
    energy_j: float | None = None


@dataclass(frozen=True, slots=True)
class SweepPoint(Samples):
    """The samples of one process with ``batch`` images a call, of ``kind``.

    ``images`` were answered in all, with ``detections``. ``stopped`` says why there is no more, where it did not go: out of
    memory. ``used`` is of the device, where it is one that tells.
    """

    batch: int
    kind: str
    images: int
    detections: int
    stopped: str = ""
    used: Used | None = None


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """What a service made of one load, ``closed`` with ``offered`` clients or ``open`` with so many arrivals a second.

    ``of_best`` is what an open load was of the best closed one. Of the ``seconds`` the first ``warmup_s`` are not counted:
    ``latencies_s`` are from when a request was due, in order, ``throughput_per_s`` is of answers. Of all requests ``refused`` were,
    the share ``late`` was sent too late by the generator, and ``formed`` says how many were answered in a batch of which size,
    where the service tells.
    """

    kind: Literal["closed", "open"]
    offered: float
    of_best: float
    seconds: float
    warmup_s: float
    latencies_s: tuple[float, ...]
    throughput_per_s: float
    refused: int
    late: float
    formed: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one process measured: a curve, and what stands apart from it. Seconds of one call each.

    ``fresh_s`` are calls with a picture that was never asked before, ``again_s`` calls with it right after that, in pairs;
    ``cold`` is what happens once, by name; ``parts`` what a call with one picture is made of, by name; ``disturbed`` says in
    words what else the machine did meanwhile; ``loads`` are what a service made of several clients; ``mixed`` is the curve of
    pictures of several sizes; ``unasked`` names what there was no time or room for.
    """

    points: tuple[SweepPoint, ...]
    fresh_s: tuple[float, ...] = ()
    again_s: tuple[float, ...] = ()
    cold: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    disturbed: tuple[str, ...] = ()
    loads: tuple[LoadPoint, ...] = ()
    mixed: tuple[SweepPoint, ...] = ()
    unasked: str = ""

    def of(self, sizes: Sizes) -> tuple[SweepPoint, ...]:
        """The curve of pictures of such sizes."""
        return self.points if sizes == "equal" else self.mixed

    def at(self, batch: int, sizes: Sizes = "equal") -> SweepPoint | None:
        """The point of this batch size; None where the process did not come to it."""
        return next((point for point in self.of(sizes) if point.batch == batch), None)
