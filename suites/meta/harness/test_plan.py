"""From what was asked to what will run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest

from harness import levels
from harness.checks import CHECKS
from harness.errors import UnknownName, UsageError
from harness.estimate import estimated_minutes
from harness.plan import (
    ALL_MODELS,
    FLOORS,
    REFERENCE,
    PlannedCell,
    Request,
    State,
    checks_for,
    job,
    jobs_for,
    plan_cells,
    reference_of,
)
from harness.types import Cell, ModelSpec, Purpose, Task, Variant, Weights


@dataclass
class Named:
    name: str
    variants: tuple[Variant, ...] = (Variant("base"),)
    requires: tuple[str, ...] = ()
    refuses: dict[str, str] = field(default_factory=dict)

    def declines(self, model: ModelSpec, variant: Variant, device: str) -> str | None:
        return self.refuses.get(model.id)


def spec(name: str, family: str = "torchvision", task: str = "detection") -> ModelSpec:
    return ModelSpec(name, family, {}, Weights("shipped", "x", "0"), task, ("a",), 0.05, 20)


MODELS = {"one": spec("one"), "two": spec("two", "detectron2", "segmentation")}
THREE = {**MODELS, "three": spec("three")}
ADAPTERS = {
    "torch_eager": Named("torch_eager", (Variant("fp32"),)),
    "runtime": Named("runtime", (Variant("base"), Variant("fixed", mends="base"), Variant("extra", base=False)), ("runtimelib",)),
    "picky": Named("picky", refuses={"two": "it cannot"}),
}


def planned(
    request: Request,
    devices: tuple[str, ...] = ("cpu",),
    states: dict[str, State] | None = None,
    models: dict[str, ModelSpec] = MODELS,
    adapters: dict[str, Named] = ADAPTERS,
) -> tuple[PlannedCell, ...]:
    of_scope = {"quick": ("one",), "default": [name for name in models if name != "rare"]}
    return plan_cells(
        request,
        models,
        of_scope,
        adapters,
        {name: name for name in adapters},
        devices,
        lambda module: (states or {}).get(module, State()),
    )


def names(cells: tuple[PlannedCell, ...]) -> list[str]:
    return [str(c.cell) for c in cells]


def test_default_holds_every_model_and_backend_in_base_variants_reference_first() -> None:
    backends = ("torch_eager[fp32]", "runtime[base]", "picky[base]")
    found = [name for name in names(planned(Request())) if "[fixed]" not in name]
    assert found == [f"{model}/{backend}@cpu" for model in MODELS for backend in backends]


def test_full_adds_variants_and_quick_takes_fewer_models() -> None:
    assert "one/runtime[extra]@cpu" in names(planned(Request(scope="full")))
    assert {c.cell.model for c in planned(Request(scope="quick"))} == {"one"}


def test_a_model_whose_weights_must_be_made_runs_where_it_is_named_alone() -> None:
    large = dataclasses.replace(spec("rare"), weights=Weights("conditioned", "", ""))
    models = {**MODELS, "rare": large}
    for request, wanted in (
        (Request(), set(MODELS)),
        (Request(scope="full"), set(MODELS)),
        (Request(models=(ALL_MODELS,)), set(MODELS)),
        (Request(models=(ALL_MODELS, "rare")), set(models)),
        (Request(models=("rare",)), {"rare"}),
    ):
        assert {c.cell.model for c in planned(request, models=models)} == wanted


def test_a_backend_without_a_base_variant_runs_when_it_is_named() -> None:
    adapters = {**ADAPTERS, "rare": Named("rare", (Variant("first", base=False), Variant("second", base=False)))}
    first, second = "one/rare[first]@cpu", "one/rare[second]@cpu"
    for request, expected in (
        (Request(models=("one",)), []),
        (Request(models=("one",), backends=("rare",), scope="quick"), [first]),
        (Request(models=("one",), files=("rare",)), [first]),
        (Request(models=("one",), scope="full"), [first, second]),
    ):
        assert [name for name in names(planned(request, adapters=adapters)) if "rare" in name] == expected


def test_the_reference_is_there_even_when_not_asked_for() -> None:
    assert names(planned(Request(models=("one",), backends=("picky",)))) == ["one/torch_eager[fp32]@cpu", "one/picky[base]@cpu"]


def test_no_library_is_asked_for_that_no_cell_needs() -> None:
    asked: list[str] = []

    def state_of(module: str) -> State:
        asked.append(module)
        return State()

    scopes = {"quick": ["one"], "default": list(MODELS)}
    plan_cells(Request(models=("one",)), MODELS, scopes, ADAPTERS, {name: name for name in ADAPTERS}, ["cpu"], state_of)
    assert set(asked) == {"torchvision", "runtimelib"}


def test_cuda_brings_the_cpu_reference() -> None:
    found = names(planned(Request(models=("one",), backends=("picky",), devices=("cuda",)), ("cpu", "cuda")))
    assert found == ["one/torch_eager[fp32]@cpu", "one/torch_eager[fp32]@cuda", "one/picky[base]@cuda"]


def test_cuda_asked_for_where_there_is_none_is_declined_in_words() -> None:
    cells = planned(Request(models=("one",), devices=("cuda",)))
    assert all(c.unmet == "there is no cuda device here" for c in cells if c.cell.device == "cuda")
    assert any(c.cell.device == "cuda" for c in cells)


@pytest.mark.parametrize(
    "request_",
    [
        Request(models=("on",)),
        Request(models=("all", "on")),
        Request(backends=("x",)),
        Request(variants=("x",)),
        Request(devices=("tpu",)),
    ],
)
def test_unknown_names_list_the_valid_ones(request_: Request) -> None:
    with pytest.raises(UnknownName, match="Valid: "):
        planned(request_)


@pytest.mark.parametrize(
    ("backends", "variants", "words"),
    [
        (("picky",), ("extra",), "picky has no variant 'extra'\n  Its variants: base"),
        (("picky", "runtime"), ("extra", "fixed"), "picky has no variant 'extra' or 'fixed'"),
        (("picky", "torch_eager"), ("base", "fp32", "extra"), "no backend that was chosen has the variant 'extra'"),
    ],
)
def test_a_variant_that_the_named_backends_lack_is_refused(
    backends: tuple[str, ...], variants: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        planned(Request(backends=backends, variants=variants))


def test_a_variant_of_one_backend_alone_is_taken_where_no_backend_is_named() -> None:
    found = names(planned(Request(models=("one",), variants=("extra",))))
    assert found == ["one/torch_eager[fp32]@cpu", "one/runtime[extra]@cpu"]


def test_a_backend_without_a_variant_for_such_a_run_is_nothing_to_check() -> None:
    adapters = {**ADAPTERS, "mender": Named("mender", (Variant("fixed", mends="base"),))}
    with pytest.raises(UsageError, match="nothing to check"):
        planned(Request(backends=("mender",), scope="quick"), adapters=adapters)


def test_absent_broken_and_declined_cells_run_nothing_and_say_why() -> None:
    states = {"detectron2": State(broken="it is broken"), "runtimelib": State(absent="runtimelib is not installed")}
    cells = {str(c.cell): c for c in planned(Request(), states=states)}
    assert cells["two/torch_eager[fp32]@cpu"].broken == "it is broken"
    assert cells["one/runtime[base]@cpu"].unmet == "runtimelib is not installed"
    assert (cells["two/picky[base]@cpu"].unmet, cells["two/picky[base]@cpu"].broken) == ("it cannot", None)
    assert not any(c.runs for c in cells.values() if c.broken or c.unmet)
    for cell in cells.values():
        if not cell.runs:
            assert [check.id for check in checks_for(cell)] == ["contract.opens"]
    keys = [(check.id, c.cell) for c in cells.values() for check in checks_for(c)]
    assert {str(j.cell) for j in jobs_for(cells.values(), keys)} == {"one/torch_eager[fp32]@cpu", "one/picky[base]@cpu"}


def test_masks_are_asked_of_segmentation_models_alone_and_parity_not_of_the_reference() -> None:
    cells = {str(c.cell): c for c in planned(Request())}
    ids = {name: {check.id for check in checks_for(cell)} for name, cell in cells.items()}
    assert "parity.masks" in ids["two/runtime[base]@cpu"]
    assert "parity.masks" not in ids["one/runtime[base]@cpu"]
    assert all("parity.keypoints" not in found and "parity.panoptic" not in found for found in ids.values())
    assert "parity.precision" in ids["one/runtime[base]@cpu"]
    assert not any(check.startswith("parity") for check in ids["one/torch_eager[fp32]@cpu"])
    assert "reference.stable" in ids["one/torch_eager[fp32]@cpu"]
    assert "reference.stable" not in ids["one/runtime[base]@cpu"]


def timed(request: Request) -> set[str]:
    cells = planned(request, models=THREE)
    return {str(c.cell) for c in cells if "throughput.batch_curve" in {check.id for check in checks_for(c)}}


def test_a_default_run_times_one_model_a_family_and_mends_no_other() -> None:
    found = {name for name in names(planned(Request(), models=THREE)) if "[fixed]" in name}
    assert found == {"one/runtime[fixed]@cpu", "two/runtime[fixed]@cpu"}
    assert {name.split("/")[0] for name in timed(Request())} == {"one", "two"}
    assert not {name for name in timed(Request()) if "[fixed]" in name}


def test_a_model_that_is_named_is_looked_at_closely() -> None:
    request = Request(models=("three",))
    assert "three/runtime[fixed]@cpu" in names(planned(request, models=THREE))
    assert timed(request) == {"three/torch_eager[fp32]@cpu", "three/runtime[base]@cpu", "three/picky[base]@cpu"}


def test_a_mended_variant_that_is_named_is_run_for_every_model() -> None:
    assert {f"{m}/runtime[fixed]@cpu" for m in MODELS} <= set(names(planned(Request(variants=("fixed",)))))


def test_a_quick_run_neither_times_nor_mends() -> None:
    for request in (Request(scope="quick"), Request(models=("one",), scope="quick")):
        assert "one/runtime[fixed]@cpu" not in names(planned(request))
        assert not timed(request)


FOUR = {**THREE, "rare": spec("rare")}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request(), list(THREE)),
        (Request(scope="quick"), ["one"]),
        (Request(scope="full"), list(FOUR)),
        (Request(models=("all",)), list(FOUR)),
        (Request(models=("all",), scope="quick"), list(FOUR)),
        (Request(models=("rare", "one")), ["rare", "one"]),
    ],
)
def test_a_run_has_the_models_of_its_scope_or_those_that_were_named(request_: Request, expected: list[str]) -> None:
    assert list(dict.fromkeys(c.cell.model for c in planned(request_, models=FOUR))) == expected


def test_all_models_are_each_looked_at_as_in_a_default_run() -> None:
    found = planned(Request(models=("all",)), models=FOUR)
    assert {c.cell.model for c in found if c.cell.variant == "fixed"} == {"one", "two"}
    assert timed(Request(models=("all",))) == timed(Request())


def test_what_lower_precision_keeps_is_asked_of_variants_that_ask_for_it() -> None:
    backend = Named("runtime", (Variant("f32"), Variant("half", precision="fp16"), Variant("own", precision="default")))
    cells = planned(Request(models=("one",)), adapters={**ADAPTERS, "runtime": backend})
    asked = {c.cell.variant for c in cells for check in checks_for(c) if check.id == "parity.kept"}
    assert asked == {"half", "own"}
    keys = [(check.id, c.cell) for c in cells for check in checks_for(c)]
    jobs = [j for j in jobs_for(cells, keys) if j.purpose is Purpose.PRECISION]
    assert {j.cell.variant for j in jobs} == {"half", "own", "fp32"}


def test_a_full_run_times_every_cell() -> None:
    request = Request(scope="full")
    assert timed(request) == {str(c.cell) for c in planned(request, models=THREE) if c.runs}


def test_cuda_eager_is_judged_against_cpu_eager() -> None:
    assert reference_of(Cell("m", *REFERENCE, "cuda")) == Cell("m", *REFERENCE, "cpu")
    assert reference_of(Cell("m", "runtime", "base", "cuda")) == Cell("m", *REFERENCE, "cuda")


def test_jobs_are_each_there_once_with_reference_and_floors_and_builds_come_first() -> None:
    cells = planned(Request(models=("one",), backends=("runtime",)))
    keys = [(check.id, c.cell) for c in cells for check in checks_for(c)]
    jobs = jobs_for(cells, keys)
    assert len(set(jobs)) == len(jobs)
    assert [j.load for j in jobs if j.purpose is Purpose.FLOOR] == list(FLOORS)
    for cell in cells:
        own = [j.purpose for j in jobs if j.cell == cell.cell]
        assert own[0] is Purpose.BUILD
        assert {Purpose.BUILD, Purpose.PARITY, Purpose.FIDELITY} <= set(own)
        assert (Purpose.TIMING in own) == cell.timed


def test_one_kept_check_needs_only_its_own_jobs() -> None:
    cells = planned(Request(models=("one",), backends=("runtime",)))
    jobs = jobs_for(cells, [("throughput.batch_curve", cells[1].cell)])
    assert {j.purpose for j in jobs if j.cell == cells[1].cell} == {Purpose.BUILD, Purpose.PARITY, Purpose.TIMING}


SWEPT = {"throughput.measured", "throughput.ratio", "throughput.answers", "throughput.caching"}


def test_measured_throughput_takes_the_place_of_the_survey_in_every_cell() -> None:
    cells = planned(Request(models=("one",), backends=("runtime",), measured=True))
    asked = {str(c.cell): {check.id for check in checks_for(c) if check.suite == "throughput"} for c in cells}
    assert asked == {
        "one/torch_eager[fp32]@cpu": SWEPT - {"throughput.ratio"},
        "one/runtime[base]@cpu": SWEPT,
        "one/runtime[fixed]@cpu": SWEPT,
    }
    surveyed = [check.id for c in planned(Request(models=("one",))) for check in checks_for(c)]
    assert not SWEPT & set(surveyed)


def test_timed_processes_come_last_in_rounds_with_those_of_the_reference() -> None:
    cells = planned(Request(models=("one",), backends=("runtime",), variants=("base",), measured=True))
    jobs = jobs_for(cells, [("throughput.ratio", cells[1].cell), ("throughput.measured", cells[1].cell)])
    sweeps = [j for j in jobs if j.purpose is Purpose.SWEEP]
    assert [(j.cell.backend, j.repeat) for j in sweeps[:4]] == [
        ("torch_eager", 0),
        ("runtime", 0),
        ("runtime", 1),
        ("torch_eager", 1),
    ]
    assert len(sweeps) == 2 * levels.MOST_PROCESSES
    assert all(j.load.threads == 0 for j in sweeps)
    assert list(jobs[-len(sweeps) :]) == sweeps
    assert estimated_minutes(jobs, (), 2, 300.0) - estimated_minutes(jobs, (), 2) == pytest.approx(5)
    assert estimated_minutes([j for j in jobs if j.purpose is Purpose.BUILD], (), 2, 300.0) < 5


def test_every_check_needs_something() -> None:
    assert all(check.needs for check in CHECKS.values())


def test_estimate_counts_cached_builds_as_nothing() -> None:
    cells = planned(Request(models=("one",)))
    jobs = jobs_for(cells, [(check.id, c.cell) for c in cells for check in checks_for(c)])
    builds = [j for j in jobs if j.purpose is Purpose.BUILD]
    assert estimated_minutes(jobs, builds, 2) < estimated_minutes(jobs, (), 2)
    assert estimated_minutes(jobs, (), 2) < estimated_minutes(jobs, (), 1)


def test_timing_takes_all_threads_and_everything_else_one() -> None:
    cell = Cell("one", "runtime", "base", "cpu")
    assert job(cell, Purpose.TIMING).load.threads == 0
    assert job(cell, Purpose.PARITY).load.threads == 1


@pytest.mark.parametrize("task", ["detection", "segmentation", "keypoints", "panoptic"])
def test_a_check_of_an_output_is_asked_of_every_model_that_gives_it(task: Task) -> None:
    models = {"one": dataclasses.replace(MODELS["one"], task=task)}
    (cell, *_) = [c for c in planned(Request(), models=models) if c.runs and c.cell.backend == "runtime"]
    asked = {check.output for check in checks_for(cell)}
    assert asked == {"", *cell.spec.outputs}
