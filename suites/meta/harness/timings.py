"""Invented timed processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from harness import levels
from harness.detections import Detections
from harness.suites.meta.harness.answers import CELL, FP32, grid
from harness.sweep import answer_name
from harness.timings import Sweep, SweepPoint
from harness.types import Cell, Job, Load, Observation, Purpose

ANSWERS = {answer_name(1, "a"): grid(3), answer_name(1, "b"): grid(2)}


def point(batch: int, call_s: float, count: int = 33, seed: int = 0, **changed: object) -> SweepPoint:
    """One point of ``count`` calls of ``call_s`` seconds, with a noise of two thousandths."""
    noise = np.random.default_rng(seed)
    seconds = tuple((call_s * np.exp(noise.normal(0, 0.002, count))).tolist())
    found = SweepPoint(
        batch=batch,
        kind="one image" if batch == 1 else "a loop",
        first_s=4 * call_s,
        seconds=seconds,
        calls=1,
        warmup=0,
        steady=True,
        spent_s=4 * call_s + sum(seconds) * 1.002,
        images=batch * count,
        detections=3 * batch * count,
    )
    return dataclasses.replace(found, **changed)  # type: ignore[arg-type]


def process(
    repeat: int, *points: SweepPoint, cell: Cell = CELL, answers: Mapping[str, Detections] = ANSWERS, **of: object
) -> Observation:
    """One timed process: ``of`` are fields of its sweep, or of its observation."""
    audit = tuple(0.02 * (1 + 0.01 * (n % 3)) for n in range(levels.MEDIAN_SAMPLES))
    swept = Sweep(points, audit, audit)
    swept = dataclasses.replace(swept, **{name: value for name, value in of.items() if name in Sweep.__slots__})  # type: ignore[arg-type]
    found = Observation(Job(cell, Purpose.SWEEP, Load(threads=0), repeat), answers=answers, effective=FP32, sweep=swept)
    return dataclasses.replace(found, **{name: value for name, value in of.items() if name not in Sweep.__slots__})  # type: ignore[arg-type]
