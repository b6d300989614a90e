"""What a legacy runner of `bentoml.detectron` makes of each kind of input: the stored model's answer, or an error, stated."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.families import Model
from harness.families.detectron2 import prepare_pixels
from harness.serving.bentoml_home import bentoml_home
from harness.serving.server import serving
from harness.serving.settings import Settings
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, changed_in_memory, pictures

bentoml = pytest.importorskip("bentoml")
pytest.importorskip("detectron2")
pytestmark = [pytest.mark.covers("M4"), *THEIR_WARNINGS]


@dataclass(frozen=True)
class Stored:
    home: Path
    model: Model
    tags: dict[str, str]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    model = changed_in_memory("d2_fasterrcnn_tiny", tmp_path_factory.mktemp("model") / "source")
    home = tmp_path_factory.mktemp("home")
    with bentoml_home(home):
        module = bentoml.detectron.save_model("module", model.module, config=model.config)
        predictor = bentoml.detectron.save_model("predictor", model.native["predictor"])
    return Stored(home, model, {"module": str(module.tag), "predictor": str(predictor.tag)})


def bgr() -> Any:
    return np.ascontiguousarray(pictures()[0][:, :, ::-1])


def inputs(config: Any) -> dict[str, tuple[Any, ...]]:
    """Every kind of input that the guide or its readers try, by name."""
    picture, tensor = bgr(), prepare_pixels(config, pictures()[0])
    return {
        "HWC uint8 array": (picture,),
        "HWC float array": (picture.astype(np.float32),),
        "CHW tensor": (tensor,),
        "CHW array": (tensor.numpy(),),
        "several HWC arrays": (picture, picture),
        "several CHW tensors": (tensor, tensor),
        "list of dicts": ([{"image": tensor}],),
        "dict": ({"image": tensor},),
    }


# The number of answers, or the error. A module wants pictures as the network takes them, each an argument; a predictor one picture
# as OpenCV reads it. Nothing says so but the error.
TABLE: dict[tuple[str, str], int | str] = {
    ("module", "HWC uint8 array"): "must match the size of tensor",
    ("module", "HWC float array"): "must match the size of tensor",
    ("module", "CHW tensor"): 1,
    ("module", "CHW array"): 1,
    ("module", "several HWC arrays"): "must match the size of tensor",
    ("module", "several CHW tensors"): 2,
    ("module", "list of dicts"): "'list' object has no attribute 'to'",
    ("module", "dict"): "'dict' object has no attribute 'to'",
    ("predictor", "HWC uint8 array"): 1,
    ("predictor", "HWC float array"): 1,
    ("predictor", "CHW tensor"): "step must be greater than zero",
    ("predictor", "CHW array"): "must match the size of tensor",
    ("predictor", "several HWC arrays"): "takes 2 positional arguments but 3 were given",
    ("predictor", "several CHW tensors"): "takes 2 positional arguments but 3 were given",
    ("predictor", "list of dicts"): "list indices must be integers or slices",
    ("predictor", "dict"): "unhashable type|KeyError|slice",
}


def wanted(stored: Stored, kind: str, given: tuple[Any, ...]) -> list[Any]:
    """What the stored model itself answers, loaded as its users load it."""
    import torch

    with bentoml_home(stored.home):
        loaded = bentoml.detectron.load_model(stored.tags[kind])
    if kind == "predictor":
        return [loaded(*given)["instances"]]
    with torch.inference_mode():
        return [answer["instances"] for answer in loaded([{"image": torch.as_tensor(one)} for one in given])]


def told(answer: Any) -> list[list[Any]]:
    together = answer if isinstance(answer, list) else [answer]
    return [_plain(one["instances"] if isinstance(one, dict) else one) for one in together]


def _plain(instances: Any) -> list[Any]:
    return [instances.pred_boxes.tensor.tolist(), instances.scores.tolist(), instances.pred_classes.tolist()]


@pytest.fixture(scope="module", params=["module", "predictor"])
def runner(request: pytest.FixtureRequest, stored: Stored) -> Iterator[tuple[str, Any]]:
    with bentoml_home(stored.home):
        found = bentoml.detectron.get(stored.tags[request.param]).to_runner()
        found.init_local(quiet=True)
        yield request.param, found
        found.destroy()


@pytest.mark.parametrize("how", ["run", "async_run"])
@pytest.mark.parametrize("name", list(dict.fromkeys(name for _, name in TABLE)))
def test_in_process(stored: Stored, runner: tuple[str, Any], name: str, how: str) -> None:
    kind, found = runner
    given = inputs(stored.model.config)[name]

    def ask() -> Any:
        return found.run(*given) if how == "run" else asyncio.run(found.async_run(*given))

    outcome = TABLE[kind, name]
    if isinstance(outcome, str):
        with pytest.raises(Exception, match=outcome):
            ask()
        return
    assert told(ask()) == [_plain(one) for one in wanted(stored, kind, given)]
    assert len(told(ask())) == outcome


SERVICE = """
import os
import bentoml
from harness.serving.marked import Marked
from harness.serving.settings import MARK
from harness.suites.meta.harness.adapters.test_bentoml_runners import inputs, told

stored = {kind: bentoml.detectron.get(kind) for kind in ("module", "predictor")}
given = inputs(stored["module"].custom_objects["config"])
runners = {kind: found.to_runner() for kind, found in stored.items()}
svc = bentoml.legacy.Service("runners", runners=list(runners.values()))
svc.add_asgi_middleware(Marked, mark=os.environ[MARK])
text = bentoml.io.JSON()


@svc.api(input=text, output=text)
def run(asked):
    try:
        return {"told": told(runners[asked["kind"]].run(*given[asked["name"]]))}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


@svc.api(input=text, output=text)
async def async_run(asked):
    try:
        return {"told": told(await runners[asked["kind"]].async_run(*given[asked["name"]]))}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
"""


TIMEOUT_S = 5
"""What the service gives a request; BentoML's own default is 60."""

ASKED = [(kind, name, how) for kind, name in TABLE for how in ("run", "async_run")]


@pytest.fixture(scope="module")
def heard(stored: Stored, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str, str], Any]]:
    """What the service answers to each request: its JSON, or the status of a reply that is none."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "service.py").write_text(SERVICE)

    def ask(asked: tuple[str, str, str]) -> Any:
        kind, name, how = asked
        body = json.dumps({"kind": kind, "name": name}).encode()
        request = urllib.request.Request(f"{url}/{how}", body, {"Content-Type": "application/json"})  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
                return json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BENTOML_CONFIG_OPTIONS", f"api_server.traffic.timeout={TIMEOUT_S} runners.resources.cpu=1")
        with (
            serving("service:svc", Settings("none", stored.home), folder / "log") as server,
            ThreadPoolExecutor(len(ASKED)) as pool,
        ):
            url = server.url
            answered = {asked: ask(asked) for asked in ASKED if isinstance(TABLE[asked[:2]], int)}
            broken = [asked for asked in ASKED if asked not in answered]
            yield answered | dict(zip(broken, pool.map(ask, broken), strict=True))
    assert server.processes() == []


@pytest.mark.parametrize("asked", ASKED, ids="-".join)
def test_behind_a_service(stored: Stored, heard: dict[tuple[str, str, str], Any], asked: tuple[str, str, str]) -> None:
    kind, name, _ = asked
    if isinstance(TABLE[kind, name], str):
        # What is raised in the runner's process never comes back: bentoml-runner-raises in docs/findings.md.
        assert heard[asked] == 504
        return
    given = inputs(stored.model.config)[name]
    assert heard[asked]["told"] == [_plain(one) for one in wanted(stored, kind, given)]
