"""Where a candidate starts to differ: its stages are fed the reference's own input, and the first that answers otherwise is named.

A graph backend exports every stage by itself, as it exports whole models; a backend that gives back a live object is asked for that
object's stages. Fed the reference's input, a stage answers for itself alone: nothing that went wrong before it reaches it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness import levels, stages
from harness.adapters import GraphSession
from harness.errors import HarnessError, told
from harness.families import family
from harness.families.two_images import of_one
from harness.tracing import Signature
from harness.types import StageDifference, StageReport

if TYPE_CHECKING:
    from harness.adapters import Adapter, Restored, Session
    from harness.detections import Pixels, Tensors
    from harness.families import Model
    from harness.stages import Env, Stage
    from harness.types import Variant

Run = Callable[["Tensors"], "Tensors"]
Opened = Callable[["Stage"], AbstractContextManager[Run]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a model, the model as it was built, and the device."""

    adapter: Adapter
    variant: Variant
    model: Model
    device: str

    def of_stages(self) -> Candidate:
        """What stages are exported and opened with: they are declared for one picture, so those of a graph of two are too."""
        return dataclasses.replace(self, variant=of_one(self.variant))

    def exported(self, stage: Stage, sample: Env, folder: Path) -> None:
        """Export one stage into ``folder``, made here, with the tensors of ``sample``."""
        folder.mkdir(parents=True)
        self.adapter.build(stages.as_model(self.model, stage, sample), self.variant, folder)

    def open(self, folder: Path) -> AbstractContextManager[Session]:
        """Open an artifact."""
        return self.adapter.open(folder, self.variant, self.device)

    def run(self, folder: Path, tensors: Tensors) -> Tensors:
        """Open an exported graph and run it once."""
        with self.open(folder) as session:
            return _graph(session, self.adapter.name).run(tensors)


def stage_reports(candidate: Candidate, pictures: Mapping[str, Pixels], artifact: Path, scratch: Path) -> Iterator[StageReport]:
    """What each stage makes of the reference's inputs for every picture, in the order of the stages.

    ``artifact`` is the candidate's own; where it could not be built and there is no such folder, only its stages are exported.
    ``scratch`` is an empty folder. A stage that cannot be exported, opened or run has the error in its report. Raises
    `HarnessError` where a backend's stages cannot be had at all.
    """
    model = candidate.model
    kind = family(model.spec.family)
    own = kind.stages(model.spec, model.module)
    envs = {image: stages.walk(own, graph_inputs(model, pixels)) for image, pixels in pictures.items()}
    with candidate.open(artifact) if artifact.is_dir() else nullcontext(None) as session:
        if session is None or isinstance(session, GraphSession):
            opened = exported(candidate.of_stages(), stages.walk(own, model.graph.example), scratch)
        elif session.restored is not None:
            opened = _live(kind.stages(model.spec, session.restored.module), session.restored)
        else:
            name = candidate.adapter.name
            raise HarnessError(f"{name} gives neither a graph nor a live object", "Only these can be taken apart into stages.")
        for stage in _held(own, artifact):
            yield report(stage, envs, opened)


def _held(own: Sequence[Stage], artifact: Path) -> list[Stage]:
    """The stages that the exported graph holds: a mended one may end before the last, whose work is then done outside it.

    All of them where its outputs, by name, are not those of stages.
    """
    wanted = set(Signature.read(artifact).outputs) if Signature.lies_in(artifact) else set()
    if not wanted or not wanted <= {name for stage in own for name in stage.outputs}:
        return list(own)
    kept: list[Stage] = []
    for stage in reversed(own):
        if wanted & set(stage.outputs):
            kept.append(stage)
            wanted |= set(stage.inputs)
    return kept[::-1]


NO_STAGE = "what is done to the picture before the first stage and to the last one's answer is no stage"
"""Reading and channel order, scaling boxes back, pasting masks and combining segments, where the architecture does so outside."""


def first_difference(reports: Sequence[StageReport]) -> StageReport | None:
    """The first stage that differs; None where none does."""
    return next((report for report in reports if report.differences), None)


def conclusion(reports: Sequence[StageReport]) -> str:
    """What follows from the reports, in words: the first stage that differs, or what could and could not be asked."""
    first = first_difference(reports)
    if first is not None:
        skipped = [report.stage for report in reports[: reports.index(first)] if report.error or not report.compared]
        return f"{first.words} (before it, {', '.join(skipped)} could not be compared)" if skipped else first.words
    unasked = [report for report in reports if report.error]
    empty = [report.stage for report in reports if not report.error and not report.compared]
    rest = [f"{report.stage} could not be asked ({report.error})" for report in unasked[:1]]
    rest += [f"nor could {', '.join(report.stage for report in unasked[1:])}"] if unasked[1:] else []
    rest += [f"nothing was there to compare in {', '.join(empty)}"] if empty else []
    asked = [report for report in reports if report.compared and not report.error]
    if not asked:
        return f"not found: {'; '.join(rest) or 'there is no stage to ask'}"
    agree = "every stage" if not rest else "every other stage"
    return "; ".join([f"none: {agree}, fed the reference's own input, answers as the reference's does", *rest, NO_STAGE])


def report(stage: Stage, envs: Mapping[str, Env], opened: Opened) -> StageReport:
    """One stage of the candidate on every picture, against the reference's own outputs."""
    compared = 0
    found: list[StageDifference] = []
    try:
        with opened(stage) as run:
            for image, env in envs.items():
                answers = run({name: env[name].cpu().numpy() for name in stage.inputs})
                expected = {name: env[name].cpu().numpy() for name in stage.outputs}
                compared += sum(value.size for value in expected.values())
                found += differences(image, expected, answers, stage.rows, stage.per_max)
    except Exception as error:  # noqa: BLE001 - a backend that cannot do a stage by itself is told, and the next stage asked
        return StageReport(stage.name, len(envs), compared, tuple(found), told(error)[:600])
    return StageReport(stage.name, len(envs), compared, tuple(found))


def differences(
    image: str,
    expected: Mapping[str, NDArray[Any]],
    found: Tensors,
    rows: Sequence[str] = (),
    per_max: float = levels.RAW_PER_MAX,
) -> Iterator[StageDifference]:
    """The outputs that differ in shape, or beyond the level of raw tensors: ``per_max`` of the largest value and 1e-4 of each.

    Boxes differ beyond the level of boxes too, which is narrower far out. Those outputs named ``rows`` that are expected are
    compared as sets of rows: in any order that makes them agree.
    """
    aligned = dict(found)
    together = [name for name in rows if name in expected]
    if together and all(np.shape(found[name]) == expected[name].shape for name in together):
        order = _row_order([expected[name] for name in together], [np.asarray(found[name]) for name in together])
        aligned |= {name: np.asarray(found[name])[order] for name in together}
    for name, mine in expected.items():
        theirs = np.asarray(aligned[name])
        if mine.shape != theirs.shape:
            words = f"{name} has the shape {_shape(theirs)}, the reference's is {_shape(mine)}"
            yield StageDifference(image, name, words, float("inf"), 0.0)
            continue
        level = _raw_level(mine, per_max)
        if stages.are_boxes(name) and mine.ndim == 2 and mine.shape[1] == 4:
            level = np.minimum(level, _box_level(mine))
        excess, apart = _excess(mine, theirs, level)
        if excess.size and excess.max() > 1.0:
            worst = np.unravel_index(int(excess.argmax()), excess.shape)
            at = float(apart[worst] / excess[worst]) if np.isfinite(excess[worst]) else 0.0
            words = (
                f"{int((excess > 1).sum())} of {mine.size} values of {name} {_shape(mine)} differ, the worst by {apart[worst]:.3g} "
                f"at {list(map(int, worst))}: {theirs[worst]:.6g} instead of {mine[worst]:.6g}, level {at:.2g}"
            )
            yield StageDifference(image, name, words, float(apart[worst]), at)


def _raw_level(expected: NDArray[Any], per_max: float) -> NDArray[np.float64]:
    values = np.abs(expected.astype(np.float64))
    level: NDArray[np.float64] = per_max * values[np.isfinite(values)].max(initial=0.0) + levels.RAW_PER_VALUE * values
    return level


def _box_level(expected: NDArray[Any]) -> NDArray[np.float64]:
    boxes = expected.astype(np.float64)
    side = np.abs(boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    return levels.box_reach_px(side)[:, None]


def _excess(
    expected: NDArray[Any], found: NDArray[Any], level: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far apart in terms of the level, and in plain terms; infinite where one side alone is not a number.

    Whole numbers have no level: they are equal or not.
    """
    mine, theirs = expected.astype(np.float64), found.astype(np.float64)
    if not np.issubdtype(expected.dtype, np.floating):
        return np.where(mine == theirs, 0.0, np.inf), np.where(np.isnan(theirs), np.inf, np.abs(mine - theirs))
    same = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(mine - theirs))
    apart = np.where(np.isnan(apart), np.inf, apart)
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = np.where(apart == 0, 0.0, np.where(level > 0, apart / level, np.inf))
    return np.where(np.isfinite(level), excess, np.where(apart == 0, 0.0, np.inf)), apart


def _row_order(expected: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> NDArray[np.intp]:
    """The order of the found rows in which they are nearest to the expected ones, all outputs taken together."""
    from scipy.optimize import linear_sum_assignment

    mine, theirs = (np.concatenate([_columns(one) for one in side], axis=1) for side in (expected, found))
    identity = np.arange(len(mine), dtype=np.intp)
    if not np.isfinite(mine).all() or not np.isfinite(theirs).all() or np.array_equal(mine, theirs):
        return identity
    scale = np.abs(mine).max(axis=0) + 1e-12
    cost = np.abs(mine[:, None, :] / scale - theirs[None, :, :] / scale).sum(axis=2)
    order: NDArray[np.intp] = linear_sum_assignment(cost)[1]
    return order


def _columns(values: NDArray[Any]) -> NDArray[np.float64]:
    return values.reshape(len(values), int(np.prod(values.shape[1:]))).astype(np.float64)


def _shape(values: NDArray[Any]) -> str:
    return "x".join(str(side) for side in values.shape) or "scalar"


def graph_inputs(model: Model, pixels: Pixels) -> dict[str, Any]:
    """What the model's graph is fed for a picture, as tensors."""
    import torch

    prepared = family(model.spec.family).processor(model.spec).prepare(pixels)
    return {name: torch.from_numpy(np.array(value)) for name, value in prepared.items()}


def exported(candidate: Candidate, sample: Env, scratch: Path) -> Opened:
    """Stages exported one by one into ``scratch``, each with its tensors of ``sample``."""

    @contextmanager
    def opened(stage: Stage) -> Iterator[Run]:
        folder = scratch / "".join(c if c.isalnum() else "_" for c in stage.name)
        candidate.exported(stage, sample, folder)
        with candidate.open(folder) as session:
            yield _graph(session, candidate.adapter.name).run

    return opened


def _graph(session: Session, name: str) -> GraphSession:
    if not isinstance(session, GraphSession):
        raise HarnessError(f"{name} exports no graph of a stage", "Its stages can only be had from a live object.")
    return session


def _live(own: Sequence[Stage], restored: Restored) -> Opened:
    """Stages of a live module, each run within what the session has in force while it predicts, such as autocast."""
    by_name = {stage.name: stage for stage in own}
    place = next(iter(restored.module.parameters())).device

    @contextmanager
    def opened(stage: Stage) -> Iterator[Run]:
        import torch

        def run(tensors: Tensors) -> Tensors:
            given = {name: torch.from_numpy(np.array(value)).to(place) for name, value in tensors.items()}
            with restored.in_force():
                answers = stages.run(by_name[stage.name], given)
            # NumPy has no bf16.
            return {
                name: (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy() for name, value in answers.items()
            }

        yield run

    return opened
