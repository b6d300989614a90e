"""Stage liars: a candidate that corrupts exactly one stage is caught and that stage named, for every stage of every model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import stages
from harness.adapters.torchscript_module import ADAPTER
from harness.doctor import present
from harness.families import Model, family
from harness.fixtures.decks import deck
from harness.fixtures.models import MODELS
from harness.stages import bisect

pytestmark = [
    pytest.mark.filterwarnings("ignore:pkg_resources is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:Deprecated call to `pkg_resources:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]

VARIANT = ADAPTER.variants[0]
# Of those that a trace resizes as the live model does, so that the honest candidate has no fault of its own.
PICTURES = ("stretched_landscape", "long_lying")


@contextmanager
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def corrupted(stage: stages.Stage, output: int = 0) -> stages.Stage:
    """The stage with one output a thousandth off, or its whole numbers by one."""

    def call(*tensors: Any) -> tuple[Any, ...]:
        answers = list(stage.call(*tensors))
        honest = answers[output]
        answers[output] = honest * 1.001 + 0.001 if honest.is_floating_point() else honest + 1
        return tuple(answers)

    return replace(stage, call=call)


class Liar:
    """`torchscript_module`, whose stage ``name`` is corrupted, in the whole model as in the stage by itself."""

    name = "stage_liar"
    requires = ADAPTER.requires
    variants = ADAPTER.variants

    def __init__(self, name: str, output: int = 0) -> None:
        self.lies_in, self.output = name, output

    def declines(self, *_: Any) -> None:
        return None

    def build(self, model: Model, variant: Any, artifact: Path) -> None:
        own = family(model.spec.family).stages(model.spec, model.module)
        target = next(stage for stage in own if stage.name == self.lies_in)
        graph = model.graph
        if graph.outputs == target.outputs:
            graph = replace(graph, module=stages.module_of(corrupted(target, self.output)))
        elif "image" in graph.example and "scores" in graph.outputs:
            graph = replace(graph, module=stages.module_of(_chain(own, target, graph.outputs)))
        ADAPTER.build(replace(model, graph=graph), variant, artifact)

    def open(self, artifact: Path, variant: Any, device: str) -> Any:
        return ADAPTER.open(artifact, variant, device)


def _chain(own: tuple[stages.Stage, ...], target: stages.Stage, outputs: tuple[str, ...]) -> stages.Stage:
    """The whole model as one stage: all of them in a row, ``target`` corrupted."""

    def call(image: Any) -> tuple[Any, ...]:
        env = {"image": image}
        for stage in own:
            chosen = corrupted(stage) if stage.name == target.name else stage
            env |= dict(zip(stage.outputs, chosen.call(*[env[name].clone() for name in stage.inputs]), strict=True))
        return tuple(env[name] for name in outputs)

    return stages.Stage("whole", ("image",), outputs, call, tuple(part for stage in own for part in stage.parts))


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    spec = MODELS[request.param]
    if not present(spec.family):
        pytest.skip(f"{spec.family} is not installed")
    kind, pictures = family(spec.family), deck("scenes")
    with one_thread():
        checkpoint = kind.materialise(spec, tmp_path_factory.mktemp(spec.id))
        yield kind.build(spec, checkpoint, pictures.pixels(pictures.sample))


def test_every_stage_liar_is_named(model: Model, tmp_path: Path) -> None:
    """Each stage is exported honestly, and with its first and its last output corrupted.

    As stages are judged one by one, every other report is the honest one.
    """
    pictures = deck("scenes")
    own = family(model.spec.family).stages(model.spec, model.module)
    sample = stages.walk(own, model.graph.example)
    envs = {name: stages.walk(own, bisect.graph_inputs(model, pictures.pixels(name))) for name in PICTURES}

    def reports(adapter: Any, folder: Path, chosen: tuple[stages.Stage, ...]) -> dict[str, Any]:
        opened = bisect.exported(bisect.Candidate(adapter, VARIANT, model, "cpu"), sample, folder)
        return {stage.name: bisect.report(stage, envs, opened) for stage in chosen}

    honest = reports(ADAPTER, tmp_path / "honest", own)
    assert bisect.conclusion(list(honest.values())).startswith("none: every stage, "), bisect.conclusion(list(honest.values()))
    liars = [(stage, output) for stage in own for output in sorted({0, len(stage.outputs) - 1})]
    for index, (stage, output) in enumerate(liars):
        lying = honest | reports(Liar(stage.name, output), tmp_path / f"liar-{index}", (stage,))
        found = bisect.first_difference([lying[one.name] for one in own])
        assert found is not None, (stage.name, stage.outputs[output])
        assert found.stage == stage.name
        assert {difference.output for difference in found.differences} == {stage.outputs[output]}
        assert found.compared > 0


@pytest.mark.parametrize(("model_id", "lies_in"), [("tv_maskrcnn_tiny", "pooler"), ("d2_maskrcnn_tiny", "mask head")])
def test_a_whole_bisection_names_the_liar(model_id: str, lies_in: str, tmp_path: Path) -> None:
    spec = MODELS[model_id]
    if not present(spec.family):
        pytest.skip(f"{spec.family} is not installed")
    kind, pictures = family(spec.family), deck("scenes")
    with one_thread():
        live = kind.build(spec, kind.materialise(spec, tmp_path), pictures.pixels(pictures.sample))
        artifact = tmp_path / "artifact"
        artifact.mkdir()
        liar: Any = Liar(lies_in)
        liar.build(live, VARIANT, artifact)
        chosen = {name: pictures.pixels(name) for name in PICTURES}
        candidate = bisect.Candidate(liar, VARIANT, live, "cpu")
        found = list(bisect.stage_reports(candidate, chosen, artifact, tmp_path / "stages"))
        assert [report.stage for report in found if report.differences] == [lies_in]
        assert [report.error for report in found if report.error] == []
        # The liar is one of the whole model too, not of its stages alone.
        inputs = {name: value.numpy() for name, value in bisect.graph_inputs(live, chosen[PICTURES[0]]).items()}
        with liar.open(artifact, VARIANT, "cpu") as session:
            lie = session.run(inputs)
        import torch

        with torch.no_grad():
            truth = dict(
                zip(live.graph.outputs, live.graph.module(*bisect.graph_inputs(live, chosen[PICTURES[0]]).values()), strict=True)
            )
        assert any(not (lie[name].shape == truth[name].shape and (lie[name] == truth[name].numpy()).all()) for name in truth)
