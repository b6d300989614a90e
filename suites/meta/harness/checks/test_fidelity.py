"""Save and load: whatever does not come back is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from harness.checks import CHECKS, Evidence, Judgement, judge
from harness.detections import Detections
from harness.suites.meta.harness.answers import (
    CELL,
    REFERENCE,
    SEGMENTS,
    changed,
    deck,
    evidence,
    grid,
    observed,
    restoration,
    with_masks,
)
from harness.types import Cell, Image, JobError, Purpose, Restoration, Status

WHOLE = with_masks(grid(4))
ANSWERS = deck(one=WHOLE)
OTHER = {"restored": restoration("cc")}


def cell(
    build: Mapping[str, object] | None = None,
    fidelity: Mapping[str, object] | None = None,
    parity: Mapping[str, object] | None = None,
    *,
    live: bool = True,
    of: Cell = CELL,
) -> Evidence:
    """A store that gives back a live model (or only answers), changed as said."""
    back: dict[str, object] = {"restored": restoration() if live else None}
    made = {"source": restoration(), "source_after": restoration(), "resaved": restoration() if live else None, "effective": None}
    on_cpu = dataclasses.replace(of, device="cpu")
    seen = {
        Purpose.BUILD: dataclasses.replace(
            observed(ANSWERS if live else {}, on_cpu, Purpose.BUILD), **{**back, **made, **(build or {})}
        ),
        Purpose.FIDELITY: dataclasses.replace(observed(ANSWERS, of, Purpose.FIDELITY), **{**back, **(fidelity or {})}),
        Purpose.PARITY: dataclasses.replace(observed(ANSWERS, of), **{**back, **(parity or {})}),
    }
    return dataclasses.replace(evidence(ANSWERS, ANSWERS, spec=SEGMENTS), cell=of, observed=seen)


def verdict(name: str, known: Evidence) -> Judgement:
    return judge(CHECKS[f"fidelity.{name}"], known)


@pytest.mark.parametrize("where", ["build", "fidelity", "parity"])
def test_other_weights_are_seen_wherever_they_come_back(where: str) -> None:
    found = verdict("weights", cell(**{where: OTHER}))
    assert found.status is Status.FAILED
    assert f"{where} job: parameter head.weight float32[2, 3] has another value" in found.reason
    assert {m.name: m.value for m in found.measures}["tensors that differ"] == 1


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"dtype": "float16"}, "has dtype float16, it was float32"),
        ({"shape": (3, 2)}, "has shape (3, 2), it was (2, 3)"),
        ({"kind": "buffer"}, "has kind buffer, it was parameter"),
        ({"name": "module.head.weight"}, "head.weight did not come back"),
    ],
)
def test_every_property_of_a_tensor_counts(tensor: dict[str, object], words: str) -> None:
    first, *rest = restoration().tensors
    back = restoration(tensors=(dataclasses.replace(first, **tensor), *rest))
    assert words in verdict("weights", cell(fidelity={"restored": back})).reason


def test_a_tensor_that_was_never_saved() -> None:
    more = dataclasses.replace(restoration().tensors[0], name="stray")
    back = restoration(tensors=(*restoration().tensors, more))
    assert "parameter stray came back and was never saved" in verdict("weights", cell(parity={"restored": back})).reason


def test_a_live_model_that_only_comes_back_sometimes() -> None:
    found = verdict("weights", cell(fidelity={"restored": None}))
    assert found.status is Status.FAILED
    assert "fidelity" in found.reason


@pytest.mark.parametrize("name", ["weights", "mode", "attached", "resaved"])
def test_a_backend_without_a_live_model_declines_in_words(name: str) -> None:
    found = verdict(name, cell(live=False))
    assert found.status is Status.DECLINED
    assert len(found.reason.split()) > 5


@pytest.mark.parametrize("name", ["weights", "attached"])
def test_nothing_is_established_without_a_record_of_what_was_saved(name: str) -> None:
    assert verdict(name, cell(build={"source": None})).status is Status.ERRORED


MASKLESS = {"one": dataclasses.replace(WHOLE, masks=None)}


@pytest.mark.parametrize("where", ["build", "fidelity", "parity"])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (changed(WHOLE, score=-1e-7), "scores of detection 0 differs by"),
        (changed(WHOLE, box_px=1e-5, index=2), "boxes_xyxy_px of detection 2 differs by"),
        (changed(WHOLE, label=1), "labels of detection 0"),
        (WHOLE.take([1, 0, 2, 3]), "boxes_xyxy_px of detection 0"),
        (WHOLE.take([0, 1, 2]), "3 detections instead of 4"),
        (MASKLESS["one"], "no masks"),
        (dataclasses.replace(WHOLE, masks=dataclasses.replace(WHOLE.masks, size_hw_px=(900, 900))), "the masks are of an image of"),
        (dataclasses.replace(WHOLE, masks=with_masks(changed(WHOLE, box_px=1)).masks), "the mask of detection 0 differs in"),
    ],
)
def test_a_restored_model_answers_bit_for_bit(where: str, answer: Detections, words: str) -> None:
    found = verdict("answers", cell(**{where: {"answers": deck(one=answer)}}))
    assert (found.status, found.image) == (Status.FAILED, "one")
    assert words in found.reason
    assert "the reference's" in found.reason


def test_fidelity_answers_may_cover_a_part_of_the_deck() -> None:
    assert verdict("answers", cell(fidelity={"answers": {"one": WHOLE}})).status is Status.PASSED


def test_a_backend_without_a_live_model_answers_as_it_did_beside_its_source() -> None:
    off = {"answers": deck(one=changed(WHOLE, score=-1e-3))}
    assert verdict("answers", cell(live=False, fidelity=off, parity=off)).status is Status.PASSED
    found = verdict("answers", cell(live=False, fidelity=off))
    assert found.status is Status.FAILED
    assert "its own beside the source" in found.reason


def test_the_reference_is_compared_with_its_own_answers() -> None:
    cuda = Cell("tiny", "torch_eager", "fp32", "cuda")
    off = {"answers": deck(one=changed(WHOLE, score=-1e-5))}
    # The build job runs on the CPU, so its answers say nothing about the GPU.
    assert verdict("answers", cell(of=cuda, fidelity=off, parity=off)).status is Status.PASSED
    assert verdict("answers", cell(of=cuda, fidelity=off)).status is Status.FAILED
    assert verdict("answers", cell(of=REFERENCE, build=off)).status is Status.FAILED


@pytest.mark.parametrize(("kind", "status"), [("raised", Status.FAILED), ("timeout", Status.ERRORED), ("memory", Status.ERRORED)])
def test_what_opens_only_beside_its_source_is_not_its_own_carrier(kind: str, status: Status) -> None:
    error = JobError(kind, "open", "FileNotFoundError: /source/model.pth")
    found = verdict("only_carrier", cell(fidelity={"error": error, "answers": {}}))
    assert found.status is status
    assert "FileNotFoundError: /source/model.pth" in found.reason


def test_the_isolation_is_on_record() -> None:
    assert "network: cut" in verdict("only_carrier", cell(fidelity={"isolation": {"network": "cut"}})).reason


def test_opening_alone_without_answering_is_no_pass() -> None:
    assert verdict("only_carrier", cell(fidelity={"answers": {}})).status is Status.ERRORED


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (restoration("cc"), "head.weight"),
        (restoration(training=True), "was in eval mode before and is in training mode after"),
        (restoration(config="A: 1\nB: 3\n"), "line 2 is 'B: 3', it was 'B: 2'"),
        (restoration(attached={"metadata": [1, 2]}), "'labels', stored beside the model, did not come back"),
        (restoration(tensors=tuple(dataclasses.replace(t, device="cuda:0") for t in restoration().tensors)), "device cuda:0"),
    ],
)
def test_saving_changes_nothing_of_the_callers(after: Restoration, words: str) -> None:
    found = verdict("caller_unchanged", cell(build={"source_after": after}))
    assert found.status is Status.FAILED
    assert words in found.reason


def test_the_callers_state_must_be_on_record() -> None:
    assert verdict("caller_unchanged", cell(build={"source_after": None})).status is Status.ERRORED


@pytest.mark.parametrize(
    ("back", "words"),
    [
        (restoration(training=True), "training mode"),
        (restoration(defaults_changed=("grad mode: True -> False",)), "grad mode: True -> False"),
        (restoration(tensors=(dataclasses.replace(restoration().tensors[0], device="cuda:0"),)), "head.weight is on cuda:0"),
    ],
)
def test_mode(back: Restoration, words: str) -> None:
    found = verdict("mode", cell(parity={"restored": back}))
    assert found.status is Status.FAILED
    assert words in found.reason


def test_the_device_that_counts_is_the_jobs() -> None:
    on_gpu = restoration(tensors=tuple(dataclasses.replace(t, device="cuda:0") for t in restoration().tensors))
    cuda = dataclasses.replace(CELL, device="cuda")
    moved = {"restored": on_gpu}
    assert verdict("mode", cell(of=cuda, parity=moved, fidelity=moved)).status is Status.PASSED
    assert verdict("mode", cell(of=cuda)).status is Status.FAILED


@pytest.mark.parametrize(
    ("back", "words"),
    [
        (restoration(config="A: 1\n"), "1 lines, it had 2"),
        (
            restoration(attached={"labels": {"owner": "us"}, "metadata": [1, 3]}),
            "'metadata', stored beside the model, came back as [1, 3]",
        ),
        (restoration(attached={"labels": {"owner": "us"}}), "'metadata', stored beside the model, did not come back"),
        (restoration(attached={**restoration().attached, "x": 1}), "'x' came back and was never stored"),
    ],
)
def test_attachments(back: Restoration, words: str) -> None:
    found = verdict("attached", cell(fidelity={"restored": back}))
    assert found.status is Status.FAILED
    assert words in found.reason


def test_a_route_that_keeps_a_config_and_nothing_else_is_not_blamed() -> None:
    back = {"restored": restoration(attached={})}
    assert verdict("attached", cell(build=back, fidelity=back, parity=back)).status is Status.PASSED
    none = {"restored": restoration(attached={}, config=None)}
    assert verdict("attached", cell(build=none, fidelity=none, parity=none)).status is Status.DECLINED


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ({"config": None}, "the config differs: there is none now"),
        ({"attached": {}}, "'labels', stored beside the model, did not come back"),
    ],
)
def test_what_came_back_in_one_process_must_come_back_in_all(lost: dict[str, object], words: str) -> None:
    for job in ("build", "parity", "fidelity"):
        found = verdict("attached", cell(**{job: {"restored": restoration(**lost)}}))
        assert found.status is Status.FAILED, job
        assert words in found.reason


@pytest.mark.parametrize(
    ("lost", "keeps", "words"),
    [
        ({"config": None}, ("config", "labels"), "the config differs: there is none now"),
        ({"attached": {}}, ("config", "labels"), "'labels', stored beside the model, did not come back"),
        ({"attached": {}, "config": None}, ("metadata",), "'metadata', stored beside the model, did not come back"),
        ({}, ("versions",), "the versions that it was saved with did not come back"),
    ],
)
def test_what_a_route_says_it_keeps_must_come_back_though_it_is_silent_in_every_process(
    lost: dict[str, object], keeps: tuple[str, ...], words: str
) -> None:
    back = {"restored": restoration(**lost)}
    found = verdict("attached", cell(build={**back, "keeps": keeps}, fidelity=back, parity=back))
    assert found.status is Status.FAILED
    assert words in found.reason


def test_a_route_that_says_it_keeps_something_and_gives_nothing_back_at_all() -> None:
    found = verdict("attached", cell(build={"keeps": ("config", "labels")}, live=False))
    assert found.status is Status.FAILED
    assert "for the build job nothing came back of what this route keeps: config, labels" in found.reason
    assert verdict("attached", cell(parity={"restored": None})).status is Status.FAILED


def test_versions_that_are_not_those_it_was_saved_with_are_named() -> None:
    wrong = {"restored": restoration(versions={"torch": "1"}, versions_wrong=("torch is said to have been 1, it was 2",))}
    found = verdict("attached", cell(fidelity=wrong))
    assert found.status is Status.FAILED
    assert "opened for the fidelity job, torch is said to have been 1, it was 2" in found.reason


def test_a_model_that_was_saved_in_training_mode_comes_back_in_eval_mode() -> None:
    trained = {"rechanged": restoration(training=True), "rechanged_after": restoration(training=True)}
    assert verdict("mode", cell(build={**trained})).status is Status.PASSED
    assert verdict("caller_unchanged", cell(build={**trained})).status is Status.PASSED
    found = verdict("mode", cell(build={**trained, "resaved": restoration(training=True)}))
    assert found.status is Status.FAILED
    assert "saved in training mode and opened, the model came back in training mode" in found.reason


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (restoration(), "in training mode, changed it: the model was in training mode before and is in eval mode after"),
        (restoration("cc", training=True), "in training mode, changed it: parameter head.weight"),
        (restoration(training=True, config=None), "in training mode, changed it: the config differs"),
    ],
)
def test_saving_in_training_mode_changes_nothing_either(after: Restoration, words: str) -> None:
    found = verdict("caller_unchanged", cell(build={"rechanged": restoration(training=True), "rechanged_after": after}))
    assert found.status is Status.FAILED
    assert words in found.reason


def graph(**changed: object) -> Restoration:
    """What comes back of a graph: no tensors."""
    return restoration(tensors=(), live=False, answers={"blank": "1", "one": "2"}, **changed)


def traced(build: dict[str, object] | None = None, fidelity: dict[str, object] | None = None) -> Evidence:
    """A graph that has its tensors."""
    back = {"restored": restoration(live=False)}
    made = {**back, "traced": restoration(config=None, attached={})}
    return cell(live=False, build={**made, **(build or {})}, parity=back, fidelity={**back, **(fidelity or {})})


def test_a_graph_that_has_its_tensors_is_held_to_the_module_that_was_traced() -> None:
    assert verdict("weights", traced()).status is Status.PASSED
    assert verdict("mode", traced()).status is Status.PASSED
    other = verdict("weights", traced(fidelity={"restored": restoration("cc", live=False)}))
    assert other.status is Status.FAILED
    assert "fidelity job: parameter head.weight" in other.reason
    assert verdict("weights", traced(build={"traced": restoration("cc")})).status is Status.FAILED
    assert verdict("weights", traced(build={"traced": None})).status is Status.ERRORED
    assert verdict("weights", traced(fidelity={"restored": graph()})).status is Status.FAILED
    training = verdict("mode", traced(fidelity={"restored": restoration(training=True, live=False)}))
    assert training.status is Status.FAILED


@pytest.mark.parametrize(
    ("answers", "words"),
    [({"blank": "1", "one": "3"}, "the answer to image one is another"), ({"blank": "1"}, "no answer to image one")],
)
def test_a_graph_out_of_an_archive_answers_as_the_one_that_went_in(answers: dict[str, str], words: str) -> None:
    def archived(found: Restoration) -> Judgement:
        return verdict("archived", cell(live=False, build={"restored": graph(), "archived": {".zip": found}}))

    assert archived(graph()).status is Status.PASSED
    altered = archived(dataclasses.replace(graph(), answers=answers))
    assert altered.status is Status.FAILED
    assert "exported to a .zip and imported" in altered.reason
    assert words in altered.reason


def test_saving_again() -> None:
    assert verdict("resaved", cell()).status is Status.PASSED
    assert "head.weight" in verdict("resaved", cell(build={"resaved": restoration("cc")})).reason
    assert "the config differs" in verdict("resaved", cell(build={"resaved": restoration(config=None)})).reason
    assert verdict("resaved", cell(build={"resaved": None})).status is Status.DECLINED


def test_images_of_the_deck_are_those_of_the_answers() -> None:
    assert cell().images == (Image("blank", 120, 160, ""), Image("one", 120, 160, ""))
