"""`harness bisect CELL`: builds the cell, takes it apart into stages, and the first that differs into its operators."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness import environment
from harness.errors import HarnessError, UnknownName, UsageError
from harness.executor import Executor, Limits, Setting
from harness.live import Plan
from harness.options import Options
from harness.plan import job
from harness.stages.bisect import conclusion
from harness.types import Cell, Observation, Purpose, StageReport

_CELL = re.compile(r"(?P<model>[^/\[\]@]+)/(?P<backend>[^/\[\]@]+)\[(?P<variant>[^\[\]]+)\](?:@(?P<device>\w+))?")
REPRODUCER = "reproducer"


@dataclass(frozen=True, slots=True)
class Located:
    """What was found: the reports of the stages, what the operators of the first that differs say, the reproducer's folder."""

    cell: Cell
    reports: tuple[StageReport, ...]
    operators: str = ""
    reproducer: Path | None = None

    @property
    def agrees(self) -> bool:
        """Whether every stage could be asked, something was compared, and none differs."""
        asked = any(report.compared for report in self.reports)
        return asked and not any(report.differences or report.error for report in self.reports)

    def lines(self) -> Iterator[str]:
        """The table for a person, and what follows from it."""
        width = max((len(report.stage) for report in self.reports), default=0)
        for report in self.reports:
            yield f"{report.stage:<{width}}  {_state(report):<18}  {report.compared} numbers on {report.images} pictures"
        yield f"First stage that differs: {conclusion(self.reports)}"
        if self.operators:
            yield f"Operators: {self.operators}"
        if self.reproducer is not None:
            yield f"Smallest failing graph, inputs, script and issue text: {self.reproducer}"


def _state(report: StageReport) -> str:
    if report.differences:
        return "differs"
    if report.error:
        return "cannot be asked"
    return "agrees" if report.compared else "nothing to compare"


def parse_cell(text: str) -> Cell:
    """``model/backend[variant]@device``; the device may be left out. Raises `UsageError`."""
    found = _CELL.fullmatch(text)
    if found is None:
        cure = "A cell reads tv_maskrcnn_tiny/openvino_ir[f32]@cpu; `harness run --dry-run` lists them."
        raise UsageError(f"{text!r} is no cell", cure)
    return Cell(found["model"], found["backend"], found["variant"], found["device"] or "cpu")


def locate(text: str, options: Options, images: tuple[str, ...], say: Callable[[str], object] = lambda _: None) -> Located:
    """Take one cell apart on ``images`` of the deck, by default the sample and two more; ``say`` is told of what takes long.

    Raises `UsageError` where there is no such cell or it cannot run here, `HarnessError` where it cannot be taken apart.
    """
    cell = parse_cell(text)
    out = options.out or Path("harness-out").absolute() / f"bisect-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    chosen = replace(options, model=(cell.model,), backend=(cell.backend,), variant=(cell.variant,), device=(cell.device,))
    plan = Plan(replace(chosen, full=True, out=out))
    planned = next((one for one in plan.cells if one.cell == cell), None)
    if planned is None:
        raise UsageError(f"there is no cell {cell}", "`harness list` shows backends and their variants.")
    if not planned.runs:
        raise UsageError(f"{cell} cannot run here: {planned.broken or planned.unmet}", "Choose another cell.")
    names = [image.id for image in plan.deck.images]
    for image in images:
        if image not in names:
            raise UnknownName("image", image, names)
    wanted = images or (plan.deck.sample, names[len(names) // 2], names[-2])
    plan.make_weights(say)
    build = job(cell, Purpose.BUILD)
    limits = Limits(options.job_seconds, int(options.job_memory * 2**30))
    setting = Setting(out, plan.deck, plan.many, limits, options.lanes or environment.usable_cores())
    executor = Executor(setting, plan.cells, [build], plan.artifacts())
    executor.start()
    try:
        executor.await_observation(build)
        found = executor.take_apart(cell, wanted, Purpose.OPERATORS)
    finally:
        executor.stop()
    return _located(cell, found, out)


def _located(cell: Cell, found: Observation | None, out: Path) -> Located:
    if found is None:
        raise HarnessError(f"{cell} was stopped before it was taken apart")
    if found.error is not None and not found.stages:
        opens = f"harness run --model {cell.model} --backend {cell.backend} --variant {cell.variant} --check contract.opens"
        raise HarnessError(f"{cell} cannot be taken apart: {found.error.message}", f"Does it open at all? {opens}")
    made = next(out.glob(f"observations/*/{REPRODUCER}"), None)
    if made is not None:
        shutil.rmtree(out / REPRODUCER, ignore_errors=True)
        shutil.move(made, out / REPRODUCER)
    return Located(cell, found.stages, " ".join(found.notes), None if made is None else out / REPRODUCER)
