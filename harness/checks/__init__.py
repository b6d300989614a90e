"""What is demanded: every check is a pure function of observations.

A check has an id (``suite.name``), a paragraph for the reader of the report, the jobs whose observations it needs, and `judge`.
`CHECKS` holds them all, in the order of the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from harness.detections import Panoptic
from harness.types import Cell, Image, Json, Measure, ModelSpec, Observation, Purpose, Status, Variant


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a judge sees: the observations of one cell and of its reference.

    ``observed`` and ``reference`` hold one observation a purpose (the reference is ``torch_eager`` on the same model and device);
    ``floors`` the reference's own repeats under other thread counts and batches; ``images`` the deck of this check, in order;
    ``sample`` is the id of the picture that was used for export; ``truth`` gives what those images show, in COCO form, image ids
    from 1 in their order; ``segments`` their panoptic segments by image id, empty where the deck does not say; ``sweeps`` and
    ``reference_sweeps`` every timed process of the cell and of its reference, by repeat, where the check is about these.
    """

    cell: Cell
    spec: ModelSpec
    variant: Variant
    observed: Mapping[Purpose, Observation]
    reference: Mapping[Purpose, Observation]
    floors: tuple[Observation, ...]
    images: tuple[Image, ...]
    truth: Callable[[], Mapping[str, Json]]
    sample: str = ""
    segments: Callable[[], Mapping[str, Panoptic]] = dict
    sweeps: tuple[Observation, ...] = ()
    reference_sweeps: tuple[Observation, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict before waivers: `harness.types.Record` without its key."""

    status: Status
    reason: str
    compared: int = 0
    measures: tuple[Measure, ...] = ()
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One demand. ``needs`` are the cell's own jobs; ``reference`` says which of the reference's it is compared with.

    ``handles`` are those of its own jobs whose error this check judges itself; ``spares`` those without which it can still judge
    the rest (another check tells their error); for any other error it is declined. ``output`` is what of a model's outputs it is
    about (`ModelSpec.outputs`): only models that give it are asked; empty: all. ``at`` "lower" is a check of variants that ask for
    less than fp32, or leave the precision to the runtime, "swept" one of throughput that is measured, not surveyed, "beside" one of
    these that holds a backend's time beside the reference's, "loaded" one of services under load.
    """

    id: str
    title: str
    asks: str
    needs: frozenset[Purpose]
    judge: Callable[[Evidence], Judgement]
    reference: frozenset[Purpose] = frozenset()
    handles: frozenset[Purpose] = frozenset()
    spares: frozenset[Purpose] = frozenset()
    output: str = ""
    at: Literal["any", "lower", "swept", "beside", "loaded"] = "any"

    @property
    def suite(self) -> str:
        """The folder under ``suites/`` that holds this check's test."""
        return self.id.partition(".")[0]


# Below the nouns, because each of these modules needs them.
from harness.checks import (  # noqa: E402
    behaviour,
    contract,
    fidelity,
    kept,
    loaded,
    measured,
    outputs,
    parity,
    pictures,
    precision,
    reference,
    serving,
    throughput,
    timed_work,
)
from harness.checks.rules import judge  # noqa: E402

_MODULES = (
    contract,
    behaviour,
    pictures,
    reference,
    fidelity,
    parity,
    outputs,
    precision,
    kept,
    serving,
    throughput,
    measured,
    timed_work,
    loaded,
)
CHECKS: Mapping[str, Check] = MappingProxyType({check.id: check for module in _MODULES for check in module.CHECKS})
"""Every check by id, in the order of the page."""

__all__ = ["CHECKS", "Check", "Evidence", "Judgement", "judge"]
