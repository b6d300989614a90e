"""The stages of every architecture do together what the model does, bit for bit, whatever the size of the picture."""

from __future__ import annotations

import pytest

from harness import stages
from harness.families import family
from harness.fixtures.models import MODELS
from harness.live import BEFORE_THE_STAGES
from harness.stages.bisect import graph_inputs
from harness.suites.meta.harness.families.living import NATIVE, live, scene
from harness.waivers import load_waivers

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:pkg_resources is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:Deprecated call to `pkg_resources:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]

OUTSIDE_THE_STAGES = BEFORE_THE_STAGES | {"after the last stage"}
# Native, stretched and long: padded otherwise, with other anchors.
SIZES = (NATIVE, (75, 99), (90, 330))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("model_id", MODELS)
def test_stages_compose_to_the_graph(model_id: str, size: tuple[int, int]) -> None:
    import torch

    model = live(model_id)
    inputs = graph_inputs(model, scene(size))
    own = family(model.spec.family).stages(model.spec, model.module)
    with torch.no_grad():
        whole = dict(zip(model.graph.outputs, model.graph.module(*inputs.values()), strict=True))
    env = stages.walk(own, inputs)
    assert len(whole["scores"]) > 2
    for name, value in whole.items():
        assert env[name].shape == value.shape
        assert torch.equal(env[name].to(value.dtype), value), name


@pytest.mark.parametrize("model_id", MODELS)
def test_a_shipped_waiver_names_a_stage_that_its_models_have(model_id: str) -> None:
    model = live(model_id)
    declared = {stage.name for stage in family(model.spec.family).stages(model.spec, model.module)}
    named = {w.id: w.stage.partition(" (")[0] for w in load_waivers() if w.model == "*" or model_id in w.model}
    assert {waiver: stage for waiver, stage in named.items() if stage not in declared | OUTSIDE_THE_STAGES} == {}


@pytest.mark.parametrize("model_id", MODELS)
def test_every_stage_is_fed_by_those_before_it_and_changes_no_input(model_id: str) -> None:
    import torch

    model = live(model_id)
    own = family(model.spec.family).stages(model.spec, model.module)
    assert len({stage.name for stage in own}) == len(own) >= 4
    env = dict(graph_inputs(model, scene(SIZES[1])))
    for stage in own:
        before = {name: env[name].clone() for name in stage.inputs}
        env |= stages.run(stage, env)
        assert all(torch.equal(env[name], value) for name, value in before.items()), stage.name
    assert set(model.graph.outputs) <= set(env)


def test_a_stage_as_a_model_has_its_own_graph_and_free_axes() -> None:
    model = live("tv_maskrcnn_tiny")
    own = family("torchvision").stages(model.spec, model.module)
    env = stages.walk(own, model.graph.example)
    backbone = stages.as_model(model, own[1], env)
    assert list(backbone.graph.example) == ["pixels"]
    assert backbone.graph.dynamic_axes["pixels"] == {2: "pixels_height", 3: "pixels_width"}
    nms = stages.as_model(model, own[6], env)
    assert nms.graph.outputs == ("resized_boxes", "labels", "scores")
    assert nms.graph.dynamic_axes["proposals"] == {0: "proposals_length"}
    assert "resized_size" not in nms.graph.dynamic_axes
