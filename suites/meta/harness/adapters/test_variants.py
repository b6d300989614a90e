"""Every variant of every built-in backend: it opens what it built, reads back what it asked for, and answers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partialmethod
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness.adapters import Adapter
from harness.adapters.torch_eager import ADAPTER as EAGER
from harness.checks.contract import device_kind
from harness.environment import usable_cores
from harness.errors import Unavailable
from harness.families import Model
from harness.families.two_images import TwoImagesSession, graph_of_two
from harness.suites.meta.harness.adapters.detectors import changed_in_memory, expected, pictures
from harness.suites.meta.harness.adapters.graphs import eager, picker, picture
from harness.types import Variant

GRAPH_BACKENDS = ("openvino_ir", "onnxruntime_session", "torchscript_module")
ADAPTERS: dict[str, Adapter] = {name: import_module(f"harness.adapters.{name}").ADAPTER for name in GRAPH_BACKENDS}
# A way round needs a detector of torchvision's or Detectron2's: suites/parity looks at these.
GRAPHS = [pytest.param(a, v, id=f"{a.name}[{v.id}]") for a in ADAPTERS.values() for v in a.variants if not v.build.get("mend")]
PAIRS = [pytest.param(a, v, id=a.name) for a in ADAPTERS.values() for v in a.variants if v.build.get("images") == 2]
TOLERANCES = {"fp32": 1e-6, "fp16": 2e-3, "bf16": 2e-2, "int8": 5e-2}
pytestmark = [
    # nncf, onnxscript and dynamo bring their own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def model() -> Model:
    return picker()


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    import torch

    before = torch.get_num_threads()
    yield changed_in_memory("tv_fasterrcnn_tiny", tmp_path_factory.mktemp("source"))
    torch.set_num_threads(before)


@pytest.mark.parametrize(("adapter", "variant"), GRAPHS)
def test_reads_back_what_it_asked_for_and_answers_as_the_live_graph(
    adapter: Adapter, variant: Variant, model: Model, tmp_path: Path
) -> None:
    said = adapter.declines(model.spec, variant, "cpu")
    if said is not None:
        pytest.skip(said)
    try:
        adapter.build(model, variant, tmp_path)
    except Unavailable as error:
        if variant.device not in ("gpu", "npu"):
            raise
        pytest.skip(error.what)
    given = picture(32, 24, seed=1)
    with adapter.open(tmp_path, variant, "cpu") as session:
        effective, answer = session.effective, session.run(given)
    assert variant.precision in ("default", effective.precision)
    assert (variant.device or "cpu") in ("any", device_kind(effective.device))
    wanted, tolerance = eager(model, given), TOLERANCES[effective.precision]
    by_place = dict(zip(map(tuple, answer["places"].tolist()), answer["scores"], strict=True))
    surely = [i for i, score in enumerate(wanted["scores"]) if score > 0.5 + tolerance]
    assert len(surely) > 3
    for index in surely:
        assert abs(by_place[tuple(wanted["places"][index].tolist())] - wanted["scores"][index]) <= tolerance


def test_optimisation_that_is_off_shows(model: Model, tmp_path: Path) -> None:
    adapter = ADAPTERS["onnxruntime_session"]
    variant = next(v for v in adapter.variants if v.id == "unoptimised")
    adapter.build(model, variant, tmp_path)
    with adapter.open(tmp_path, variant, "cpu") as session:
        assert session.effective.provider.endswith("(ORT_DISABLE_ALL)")


@pytest.mark.covers("M19")
@pytest.mark.parametrize(("cores", "kind"), [(3, "3 runs of one session at once"), (1, "a loop over the images")])
def test_runs_at_once_are_answered_in_order_and_as_alone(
    cores: int, kind: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = ADAPTERS["onnxruntime_session"]
    variant = next(v for v in adapter.variants if v.id == "concurrent")
    assert variant.open == {"own_threads": 1, "at_once": 0}
    monkeypatch.setattr("harness.adapters.onnxruntime_session.usable_cores", lambda: cores)
    adapter.build(model, replace(variant, build={"opset": 17}), tmp_path)
    given = [picture(24, 32, seed=seed) for seed in range(8)]
    with adapter.open(tmp_path, variant, "cpu") as session:
        assert (session.batching, session.effective.threads) == (kind, 1)
        together, alone = session.run_many(given), [session.run(one) for one in given]
    for several, single in zip(together, alone, strict=True):
        for name, value in single.items():
            np.testing.assert_array_equal(several[name], value)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("run_")]


@pytest.mark.covers("M19")
def test_the_runtime_opens_the_streams_that_a_hint_asks_for(model: Model, tmp_path: Path) -> None:
    adapter = ADAPTERS["openvino_ir"]
    hints = [v for v in adapter.variants if v.id in ("latency", "throughput")]
    assert [v.open["hint"] for v in hints] == ["LATENCY", "THROUGHPUT"]
    adapter.build(model, replace(hints[0], build={"compress_to_fp16": False}), tmp_path)
    streams = []
    for variant in hints:
        with adapter.open(tmp_path, variant, "cpu") as session:
            streams.append(session.effective.streams)
            jobs = 1 if session.batching == "a loop over the images" else int(session.batching.partition(" ")[0])
            assert jobs == session.effective.streams
    assert streams[0] == 1
    assert streams[1] == 1 if usable_cores() == 1 else streams[1] > 1


def test_a_device_that_is_not_there_costs_no_conversion(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = ADAPTERS["openvino_ir"]
    monkeypatch.setitem(
        sys.modules, "openvino", SimpleNamespace(Core=lambda: SimpleNamespace(available_devices=["CPU", "GPU.0", "GPU.1"]))
    )
    npu, gpu = (next(v for v in adapter.variants if v.id == name) for name in ("npu", "gpu"))
    with pytest.raises(Unavailable, match=r"no NPU device here, only CPU, GPU\.0, GPU\.1"):
        adapter.build(model, npu, tmp_path)
    with pytest.raises(AttributeError, match="convert_model"):  # the stand-in has the device and cannot convert
        adapter.build(model, gpu, tmp_path)


@pytest.mark.parametrize(("name", "variants"), [("nncf", 2), ("onnxscript", 1)])
def test_what_an_extra_brings_is_declined_in_words_without_it(
    name: str, variants: int, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None if module == name else SimpleNamespace())
    said = [adapter.declines(model.spec, v, "cpu") for adapter in ADAPTERS.values() for v in adapter.variants]
    assert sum(name in words.lower() and "pip install" in words for words in said if words) == variants


@pytest.mark.parametrize(("adapter", "variant"), PAIRS)
@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 2), (2, 2)], ids=str)
def test_pictures_in_twos_are_answered_in_order_as_the_live_graph_answers_each(
    adapter: Adapter, variant: Variant, seeds: tuple[int, ...], model: Model, tmp_path: Path
) -> None:
    adapter.build(model, variant, tmp_path)
    given = [picture(*size, seed=seed) for seed in seeds for size in ((24, 32), (32, 24))]
    with adapter.open(tmp_path, variant, "cpu") as session:
        assert isinstance(session, TwoImagesSession)
        answers = session.run_many(given)
    assert len(answers) == len(given)
    for tensors, answer in zip(given, answers, strict=True):
        for name, value in eager(model, tensors).items():
            np.testing.assert_allclose(answer[name], value, atol=1e-6, rtol=0)


def test_a_stage_is_not_given_two_images(model: Model) -> None:
    stage = replace(model, graph=replace(model.graph, example={"features": model.graph.example["image"]}))
    with pytest.raises(Unavailable, match="stages"):
        graph_of_two(stage)


@pytest.mark.parametrize("variant", EAGER.variants, ids=lambda variant: variant.id)
def test_eager_variants_read_back_what_they_asked_for(
    variant: Variant, detector: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    said = EAGER.declines(detector.spec, variant, "cpu")
    if said is not None:
        pytest.skip(said)
    # Dynamo alone: what Inductor makes of the backbone takes a minute, and is compared where the suites run.
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    EAGER.build(detector, variant, tmp_path)
    threads = torch.get_num_threads()
    with EAGER.open(tmp_path, variant, "cpu") as session:
        answers = [session.predict([image])[0] for image in pictures()]
        effective = session.effective
        assert not torch.is_autocast_enabled("cpu")
        names = {name for name, _ in session.restored.module.named_parameters()}
    assert torch.get_num_threads() == threads
    assert names == {name for name, _ in detector.module.named_parameters()}
    assert effective.precision == variant.precision
    assert effective.threads == variant.open.get("torch_threads", threads)
    assert ("compiled" in effective.provider) == bool(variant.open.get("compile"))
    assert ("channels last" in effective.provider) == bool(variant.open.get("channels_last"))
    score = 1e-4 if variant.precision == "fp32" else 0.05
    for found, wanted in zip(answers, expected(detector), strict=True):
        best = min(len(found), len(wanted), 3)
        np.testing.assert_allclose(sorted(found.scores)[-best:], sorted(wanted.scores)[-best:], atol=score)


@pytest.mark.parametrize("name", ["fp16", "tf32"])
def test_what_only_a_gpu_computes_in_is_declined_on_a_cpu_in_words(name: str, detector: Model) -> None:
    variant = next(variant for variant in EAGER.variants if variant.id == name)
    assert "GPUs" in (EAGER.declines(detector.spec, variant, "cpu") or "")
    assert EAGER.declines(detector.spec, variant, "cuda") is None
    assert variant.precision == "fp16"


def test_tf32_is_on_while_such_a_session_answers_and_off_again(detector: Model, tmp_path: Path) -> None:
    """PyTorch's switches are there without a GPU too."""
    import torch

    seen: list[tuple[bool, bool]] = []
    EAGER.build(detector, EAGER.variants[0], tmp_path)
    variant = next(variant for variant in EAGER.variants if variant.id == "tf32")
    with EAGER.open(tmp_path, variant, "cpu") as session:
        session.restored.module.register_forward_pre_hook(
            lambda *_: seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        )
        session.predict([pictures()[0]])
        assert "TF32 on" in session.effective.provider
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    assert seen == [(True, True)]
