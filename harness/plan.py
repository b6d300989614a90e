"""Which cells, which checks, which jobs: from what was asked to what will run. Imports no backend."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.checks import CHECKS, Check
from harness.errors import UnknownName, UsageError
from harness.rounds import in_rounds, sweep_jobs
from harness.types import Cell, Job, Load, ModelSpec, Purpose, Variant

if TYPE_CHECKING:
    from harness.adapters import Adapter

REFERENCE = ("torch_eager", "fp32")
DEVICES = ("cpu", "cuda")
TIMED = (Purpose.TIMING, Purpose.SWEEP)
"""Jobs that run alone, after everything else."""

MEASURED = ("swept", "beside", "loaded")
"""Checks at these are of throughput that is measured (`Check.at`)."""

ALL_MODELS = "all"
"""In place of a model's name: every model whose weights ship, each as in a default run."""

FLOORS = (Load(threads=2, batch=1), Load(threads=1, batch=4))
"""The reference again: another thread count, equal-size batches. Their distance from the reference is the noise floor F."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for. Empty tuples mean all, of models those of the ``scope``, which is default, quick or full.

    ``models`` may hold `ALL_MODELS`; ``files`` are backends given as files; ``measured`` says that throughput is measured instead
    of surveyed.
    """

    models: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    scope: str = "default"
    files: tuple[str, ...] = ()
    measured: bool = False

    @property
    def named(self) -> tuple[str, ...]:
        """The backends that were asked for by name or file."""
        return (*self.backends, *self.files)


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell with all that is known of it before it runs.

    ``unmet`` says why it cannot run (a library is not installed, the backend declines); ``broken`` is the cause where a library
    is installed but does not work: such cells are errored, not declined. ``timed`` says whether its batch curve is surveyed,
    ``swept`` whether it is measured, ``served`` whether its sessions take requests (`harness.adapters.ServedSession`).
    """

    cell: Cell
    spec: ModelSpec
    variant: Variant
    adapter: str
    unmet: str | None = None
    broken: str | None = None
    timed: bool = True
    swept: bool = False
    served: bool = False

    @property
    def runs(self) -> bool:
        """Whether jobs are planned for it."""
        return self.unmet is None and self.broken is None

    @property
    def is_reference(self) -> bool:
        """Whether this is ``torch_eager``, on whatever device."""
        return (self.cell.backend, self.cell.variant) == REFERENCE


@dataclass(frozen=True, slots=True)
class State:
    """Whether the libraries a family or an adapter needs work here: why not installed, or why broken; both None when fine."""

    absent: str | None = None
    broken: str | None = None


def plan_cells(
    request: Request,
    models: Mapping[str, ModelSpec],
    of_scope: Mapping[str, Sequence[str]],
    adapters: Mapping[str, Adapter],
    origins: Mapping[str, str],
    devices: Sequence[str],
    state_of: Callable[[str], State],
) -> tuple[PlannedCell, ...]:
    """All cells of the run, the reference of each model first. Raises `UnknownName` and `UsageError`.

    ``of_scope`` holds the models of a default and of a quick run in which none is named; a full run has all. ``origins`` maps an
    adapter's name to what a worker loads it by; ``devices`` are those that exist here; ``state_of`` gives the state of
    an importable module, and is asked of those alone that a cell needs.

    Mended variants are run for, and batch curves surveyed on, the models that were named, in a full run all, else the first of each
    family: what these show hardly depends on the model, and takes half of the time. A quick run has neither.
    """
    named = [model for model in request.models if model != ALL_MODELS]
    # What has to be made first is for whoever names it.
    every = tuple(name for name, spec in models.items() if spec.weights.source != "conditioned")
    chosen_models = _chosen("model", named, models, every if request.scope == "full" else of_scope[request.scope])
    if ALL_MODELS in request.models:
        chosen_models = tuple(dict.fromkeys((*every, *named)))
    close = _looked_at_closely(request, chosen_models, models)
    chosen_backends = _chosen("backend", request.backends, adapters, tuple(adapters))
    chosen_devices = _chosen("device", request.devices, DEVICES, devices)
    known = {variant.id for adapter in adapters.values() for variant in adapter.variants}
    for variant in request.variants:
        if variant not in known:
            theirs = {own.id for backend in request.named for own in adapters[backend].variants}
            raise UnknownName("variant", variant, theirs or known)
    _match_variants(request, {name: adapters[name] for name in (*chosen_backends, *request.files)})
    backends = [REFERENCE[0], *(name for name in chosen_backends if name != REFERENCE[0])]
    cells = [
        dataclasses.replace(
            _planned(models[model], adapters[backend], origins[backend], variant, device, devices, state_of),
            timed=not request.measured and (request.scope == "full" or (model in close and variant.mends is None)),
            swept=request.measured,
        )
        for model in chosen_models
        for device in _with_reference_device(chosen_devices)
        for backend in backends
        for variant in adapters[backend].variants
        if _wanted(request, adapters[backend], variant, device, chosen_devices, model in close)
    ]
    if not any(not cell.is_reference or REFERENCE[0] in chosen_backends for cell in cells):
        raise UsageError(
            "nothing to check: these backends have no variant for such a run", "Name one with --variant; see `harness list`."
        )
    return tuple(cells)


def _match_variants(request: Request, chosen: Mapping[str, Adapter]) -> None:
    """Every variant that was asked for is one of a chosen backend's, and every backend that was named has one of them."""
    if not request.variants:
        return
    owned = {name: [variant.id for variant in adapter.variants] for name, adapter in chosen.items()}
    for name in request.named:
        if not set(owned[name]) & set(request.variants):
            asked = " or ".join(map(repr, request.variants))
            raise UsageError(f"{name} has no variant {asked}", f"Its variants: {', '.join(owned[name])}")
    for variant in request.variants:
        if not any(variant in ids for ids in owned.values()):
            raise UsageError(f"no backend that was chosen has the variant {variant!r}", "`harness list` shows whose it is.")


def _looked_at_closely(request: Request, chosen: Sequence[str], models: Mapping[str, ModelSpec]) -> Sequence[str]:
    if request.scope == "quick":
        return ()
    if (request.models and ALL_MODELS not in request.models) or request.scope == "full":
        return chosen
    first: dict[str, str] = {}
    for model in chosen:
        first.setdefault(models[model].family, model)
    return tuple(first.values())


def _with_reference_device(devices: Sequence[str]) -> list[str]:
    """CUDA answers are judged against the CPU's: the reference runs there too."""
    return ["cpu", *(d for d in devices if d != "cpu")]


def _wanted(request: Request, adapter: Adapter, variant: Variant, device: str, devices: Sequence[str], close: bool) -> bool:
    if (adapter.name, variant.id) == REFERENCE:
        return True
    if device not in devices:
        return False
    if request.variants:
        return variant.id in request.variants
    if variant.mends is not None and not close:
        return False
    # A backend may have no base variant: then it is for full runs, and its first variant for whoever names the backend.
    first = variant == adapter.variants[0] and not any(other.base for other in adapter.variants)
    return variant.base or request.scope == "full" or (first and adapter.name in request.named)


def _chosen(kind: str, asked: Sequence[str], valid: Iterable[str], default: Sequence[str]) -> tuple[str, ...]:
    names = tuple(valid)
    for name in asked:
        if name not in names:
            raise UnknownName(kind, name, names)
    return tuple(dict.fromkeys(asked)) or tuple(default)


def _planned(
    spec: ModelSpec,
    adapter: Adapter,
    origin: str,
    variant: Variant,
    device: str,
    devices: Sequence[str],
    state_of: Callable[[str], State],
) -> PlannedCell:
    served = bool(getattr(adapter, "serves", False))
    cell = PlannedCell(Cell(spec.id, adapter.name, variant.id, device), spec, variant, origin, served=served)
    # What a backend cannot do it cannot do with working libraries either.
    declined = adapter.declines(spec, variant, device)
    if declined is not None:
        return dataclasses.replace(cell, unmet=declined)
    for module in dict.fromkeys((spec.family, *adapter.requires)):
        state = state_of(module)
        if state.broken is not None:
            return dataclasses.replace(cell, broken=state.broken)
        if state.absent is not None:
            return dataclasses.replace(cell, unmet=state.absent)
    return dataclasses.replace(cell, unmet=None if device in devices else f"there is no {device} device here")


def checks_for(cell: PlannedCell) -> tuple[Check, ...]:
    """The checks planned for a cell: all that its kind can be asked, only `contract.opens` where it cannot run."""
    return tuple(check for check in CHECKS.values() if _applies(check, cell))


def _applies(check: Check, cell: PlannedCell) -> bool:
    if check.id == "contract.opens" or not cell.runs:
        return check.id == "contract.opens"
    if check.suite == "throughput":
        return _is_timed(check, cell)
    if check.suite == "serving":
        return cell.served
    if check.at == "lower":
        return cell.variant.precision != "fp32"
    is_origin = cell.is_reference and cell.cell.device == "cpu"
    if check.suite in ("reference", "parity"):
        return check.output in {"", *cell.spec.outputs} and is_origin == (check.suite == "reference")
    # The reference's own mixed batch is what the others are judged by.
    return not (is_origin and check.id == "contract.mixed_sizes")


def _is_timed(check: Check, cell: PlannedCell) -> bool:
    """The survey, or what is measured: the reference's time is not held beside itself, and services alone are put under load."""
    if check.at not in MEASURED:
        return cell.timed
    return cell.swept and {"beside": not cell.is_reference, "loaded": cell.served}.get(check.at, True)


def reference_of(cell: Cell) -> Cell:
    """What a cell is judged against: ``torch_eager`` on the same device; on the CPU for ``torch_eager`` itself."""
    itself = (cell.backend, cell.variant) == REFERENCE
    return Cell(cell.model, *REFERENCE, "cpu" if itself else cell.device)


def jobs_for(cells: Iterable[PlannedCell], keys: Iterable[tuple[str, Cell]]) -> tuple[Job, ...]:
    """The jobs whose observations the kept (check, cell) pairs need, references and floors included, each once."""
    by_cell = {planned.cell: planned for planned in cells}
    jobs: dict[Job, None] = {}
    for check_id, cell in keys:
        if by_cell[cell].runs:
            jobs.update(dict.fromkeys(_needed(CHECKS[check_id], cell)))
    places = list(by_cell)
    others = sorted((one for one in jobs if one.purpose is not Purpose.SWEEP), key=lambda one: _order(one, places))
    sweeps = sorted((one for one in jobs if one.purpose is Purpose.SWEEP), key=lambda one: _order(one, places))
    return (*others, *in_rounds(sweeps))


def _needed(check: Check, cell: Cell) -> Iterator[Job]:
    for purpose in check.needs:
        yield from _all_of(cell, purpose)
    reference = reference_of(cell)
    for purpose in check.reference:
        yield from _all_of(reference, purpose)
    for wanted in ((cell,) if check.needs else ()) + ((reference,) if check.reference else ()):
        yield job(wanted, Purpose.BUILD)


def _all_of(cell: Cell, purpose: Purpose) -> tuple[Job, ...]:
    """Of most purposes one job; the floor has its loads, a sweep its repeats."""
    many = {Purpose.FLOOR: floor_jobs, Purpose.SWEEP: sweep_jobs}.get(purpose)
    return many(cell) if many is not None else (job(cell, purpose),)


def job(cell: Cell, purpose: Purpose) -> Job:
    """The one job of this purpose, or the first: timed ones with all threads, everything else with one."""
    if purpose is Purpose.BUILD:
        return Job(dataclasses.replace(cell, device="cpu"), purpose)
    return Job(cell, purpose, Load(threads=0 if purpose in TIMED else 1))


def floor_jobs(reference: Cell) -> tuple[Job, ...]:
    """The reference's repeats."""
    return tuple(Job(reference, Purpose.FLOOR, load) for load in FLOORS)


def _order(job: Job, cells: Sequence[Cell]) -> tuple[int, int, int]:
    purposes = list(Purpose)
    position = next((i for i, cell in enumerate(cells) if _lane(cell) == _lane(job.cell)), len(cells))
    return position, purposes.index(job.purpose), FLOORS.index(job.load) if job.load in FLOORS else 0


def _lane(cell: Cell) -> tuple[str, str, str]:
    return cell.model, cell.backend, cell.variant
