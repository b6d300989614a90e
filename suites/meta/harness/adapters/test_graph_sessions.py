"""What every backend that runs a graph owes: named answers as the live graph's, for any size, owned by the caller."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from harness.adapters import Adapter, GraphSession
from harness.suites.meta.harness.adapters.graphs import Opened, eager, picker, picture
from harness.types import Variant

BACKENDS = ("openvino_ir", "onnxruntime_session", "torchscript_module")
SIZES = ((24, 32), (32, 24), (7, 61), (150, 140))


def one_thread(adapter: Adapter) -> Variant:
    base = adapter.variants[0]
    return replace(base, open={**base.open, "threads": 1})


@pytest.fixture(scope="module", params=BACKENDS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    import torch

    torch.set_num_threads(1)  # as a worker does: a backend that runs in torch has no number of its own
    adapter: Adapter = import_module(f"harness.adapters.{request.param}").ADAPTER
    artifact = tmp_path_factory.mktemp(request.param)
    model = picker()
    adapter.build(model, one_thread(adapter), artifact)
    with adapter.open(artifact, one_thread(adapter), "cpu") as session:
        assert isinstance(session, GraphSession)
        yield Opened(session, model, adapter, artifact)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_answers_are_the_live_graphs_at_sizes_never_seen_at_export(opened: Opened, size: tuple[int, int]) -> None:
    given = picture(*size, seed=1)
    expected, answer = eager(opened.model, given), opened.session.run(given)
    assert list(answer) == ["places", "scores"]
    assert len(expected["scores"]) > 3
    np.testing.assert_array_equal(answer["places"], expected["places"])
    np.testing.assert_allclose(answer["scores"], expected["scores"], atol=1e-6, rtol=0)
    assert {name: value.dtype for name, value in answer.items()} == {name: value.dtype for name, value in expected.items()}


def test_nothing_found_is_an_empty_answer_and_the_next_picture_is_right_again(opened: Opened) -> None:
    blank = {"image": np.zeros((3, 24, 32), np.float32)}
    assert {name: value.shape for name, value in opened.session.run(blank).items()} == {"places": (0, 2), "scores": (0,)}
    given = picture(24, 32)
    np.testing.assert_array_equal(opened.session.run(given)["places"], eager(opened.model, given)["places"])


def test_outputs_stay_valid_after_the_next_call(opened: Opened) -> None:
    first = opened.session.run(picture(24, 32, seed=1))
    kept = {name: value.copy() for name, value in first.items()}
    opened.session.run(picture(24, 32, seed=2))
    for name, value in kept.items():
        np.testing.assert_array_equal(first[name], value)


def test_several_pictures_are_answered_in_order_as_one_by_one(opened: Opened) -> None:
    given = [picture(*size, seed=seed) for seed, size in enumerate((*SIZES, *SIZES))]
    together, alone = opened.session.run_many(given), [opened.session.run(one) for one in given]
    assert len(together) == len(given)
    for several, single in zip(together, alone, strict=True):
        for name, value in single.items():
            np.testing.assert_array_equal(several[name], value)


def test_effective_is_read_back(opened: Opened) -> None:
    effective = opened.session.effective
    assert (effective.precision, effective.device, effective.threads) == ("fp32", "cpu", 1)
    assert "torch" in effective.versions["exporter"]


def test_building_leaves_the_model_as_it_was(opened: Opened, tmp_path: Path) -> None:
    model = picker()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    opened.adapter.build(model, one_thread(opened.adapter), tmp_path)
    assert not model.module.training
    assert all(value.equal(before[name]) for name, value in model.module.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.module.parameters())


def test_artifact_carries_the_weights_it_was_built_from(opened: Opened, tmp_path: Path) -> None:
    model = picker()
    model.module.smooth.bias.data += 0.05
    opened.adapter.build(model, one_thread(opened.adapter), tmp_path)
    model.module.smooth.bias.data -= 0.05
    given = picture(24, 32)
    with opened.adapter.open(tmp_path, one_thread(opened.adapter), "cpu") as session:
        changed = session.run(given)
    assert len(changed["scores"]) > len(opened.session.run(given)["scores"])


def test_session_opens_in_a_fork_of_a_process_that_imported_torch(opened: Opened, tmp_path: Path) -> None:
    import torch  # noqa: F401 - the parent has it loaded, as the harness's own parent of jobs has

    given, told = picture(24, 32), tmp_path / "answer.npz"
    with warnings.catch_warnings():
        # This process has threads; the parent that the harness forks from has none.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            with opened.adapter.open(opened.artifact, one_thread(opened.adapter), "cpu") as session:
                np.savez(told, **session.run(given))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    np.testing.assert_array_equal(np.load(told)["scores"], opened.session.run(given)["scores"])
