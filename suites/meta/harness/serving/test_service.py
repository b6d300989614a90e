"""A served detector answers as the stored one does, refuses in sentences, survives bad clients and leaves no process."""

from __future__ import annotations

import base64
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from harness import levels
from harness.certificates import Limits
from harness.checks.differences import unequal
from harness.checks.reference import fault
from harness.compare import compare
from harness.detections import Detections, Pixels
from harness.drawing import drawn
from harness.families import Model, family
from harness.serving.answers import from_json
from harness.serving.frames import DetectorFrames, images_to_bytearray_df
from harness.serving.pictures import decoded, encoded
from harness.serving.server import DETECTOR, NotServing, start
from harness.serving.settings import Settings
from harness.serving.store import PlainStore
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, changed_in_memory, pictures
from harness.suites.meta.harness.serving.commanded import commanded
from harness.suites.meta.harness.serving.test_pictures import header_of
from harness.wire import bad_uploads, files

pytest.importorskip("bentoml")
pytestmark = [pytest.mark.covers("M5"), *THEIR_WARNINGS]
TOKEN = "open sesame"  # noqa: S105 - of a server on loopback, for the time of a test


@dataclass(frozen=True)
class Reply:
    status: int
    kind: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert self.kind.startswith("application/json")
        return str(self.json["error"])


def post(url: str, body: bytes, kind: str = "image/png", token: str | None = TOKEN) -> Reply:
    headers = {"Content-Type": kind} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
            return Reply(reply.status, reply.headers["Content-Type"], reply.read())
    except urllib.error.HTTPError as error:
        return Reply(error.code, error.headers["Content-Type"], error.read())


def form(name: str = "image", content: bytes = b"", filename: str | None = "picture.png", times: int = 1) -> tuple[bytes, str]:
    named = "" if filename is None else f'; filename="{filename}"'
    part = f'--x\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"
    return part * times + b"--x--\r\n", "multipart/form-data; boundary=x"


@dataclass(frozen=True)
class Served:
    model: Model
    url: str
    batched: bool

    def wanted(self, picture: Pixels) -> Detections:
        return family(self.model.spec.family).predict(self.model.module, self.model.config, [picture])[0]

    def answer(self, content: bytes, kind: str = "image/png") -> Detections:
        reply = post(f"{self.url}/detect", content, kind)
        assert reply.status == 200, reply.body
        return from_json(reply.json, self.model.spec)


MODELS = (
    "tv_maskrcnn_tiny",
    "tv_maskrcnn_tiny in batches",
    "d2_maskrcnn_tiny",
    "d2_keypointrcnn_tiny",
    "d2_keypointrcnn_tiny in batches",
)


@pytest.fixture(scope="module", params=MODELS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if request.param.startswith("d2"):
        pytest.importorskip("detectron2")
    name, _, batched = request.param.partition(" ")
    folder = tmp_path_factory.mktemp("served")
    model = changed_in_memory(name, folder / "source")
    tag = PlainStore(folder / "home").save("served", model)
    with commanded(str(tag), folder / "home", folder, "--token", TOKEN, *(("--batch", "8") if batched else ())) as command:
        url = command.url()
        assert command.said().startswith(f"{tag} at {url}: ")
        yield Served(model, url, bool(batched))
        command.end()


def test_every_picture_is_answered_bit_for_bit(served: Served) -> None:
    for picture in pictures():
        assert not unequal(served.wanted(picture), served.answer(encoded(picture)))
        assert not unequal(served.wanted(picture), served.answer(*form(content=encoded(picture))))


@pytest.mark.parametrize("kind", files(np.zeros((2, 2, 3), np.uint8)))
def test_the_wire_does_not_change_the_answer(served: Served, kind: str) -> None:
    content = files(pictures()[0])[kind]
    answer = served.answer(content)
    assert not unequal(served.wanted(decoded(content)), answer)
    assert len(answer.scores) > 0 or kind == "grey png"


def test_the_drawing_is_the_stored_models_pixel_for_pixel(served: Served) -> None:
    if served.model.spec.family == "detectron2":
        pytest.importorskip("cv2")
    for picture in pictures():
        reply = post(f"{served.url}/draw", encoded(picture))
        assert (reply.status, reply.kind) == (200, "image/png")
        wanted = drawn(picture, served.wanted(picture), served.model.spec)
        assert np.array_equal(decoded(reply.body), wanted)
        assert not np.array_equal(wanted, picture) or not len(served.wanted(picture).scores)


def test_a_posted_dataframe_is_answered_bit_for_bit(served: Served) -> None:
    pd = pytest.importorskip("pandas")
    given = images_to_bytearray_df([encoded(picture) for picture in pictures()])
    body = json.dumps({"df": given.to_dict(orient="records")}).encode()
    reply = post(f"{served.url}/predict", body, "application/json")
    assert reply.status == 200
    model = served.model
    assert pd.DataFrame(reply.json).equals(DetectorFrames(model.spec, model.module, model.config, model.attached).predict(given))


GOOD = encoded(np.zeros((40, 40, 3), np.uint8))
TOO_LARGE = bad_uploads(np.zeros((40, 40, 3), np.uint8))["200 megapixels"]
BAD_UPLOADS = {
    "no picture": (b"hello", "image/png", 400, "this is no picture"),
    "truncated": (encoded(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8))[:-200], "image/png", 400, "damaged"),
    "200 megapixels": (TOO_LARGE.body, TOO_LARGE.kind, 400, "too large"),
    "200 megapixels alone": (header_of(20_000, 10_000), "image/png", 400, "too large"),
    "65 megapixels": (header_of(13_000, 5_001), "image/png", 400, "are 65 megapixels"),
    "empty": (b"", "image/png", 400, "empty: 0 bytes"),
    "empty form": (*form(), 400, "empty: 0 bytes"),
    "wrong field": (*form("file", GOOD), 400, "the form has 'file' (file)"),
    "twice": (*form(content=GOOD, times=2), 400, "more than once"),
    "an address": (*form(content=b"http://127.0.0.1:1/picture.png", filename=None), 400, "'image' (text)"),
    "broken form": (b"--y\r\n", "multipart/form-data; boundary=x", 400, "the form"),
    "no boundary": (b"", "multipart/form-data", 400, "the form"),
    "json": (b'{"image": "http://127.0.0.1:1/picture.png"}', "application/json", 415, "holds no picture"),
    "a pickle": (b"x", "application/vnd.bentoml+pickle", 415, "holds no picture"),
    "too many bytes": (bytes(65 * 2**20), "image/png", 413, "larger than 64 MiB"),
}


@pytest.mark.covers("M6")
def test_of_many_at_once_each_gets_its_own_answer_and_a_wrong_one_spoils_none(served: Served) -> None:
    given = {f"picture {number}": encoded(picture) for number, picture in enumerate(pictures())} | {"wrong": b"hello"}
    wanted = {name: served.wanted(decoded(content)) for name, content in given.items() if name != "wrong"}
    limits = Limits(served.model.spec.score_threshold, served.model.spec.detection_cap, levels.SCORE)
    formed = []
    with ThreadPoolExecutor(12) as pool:
        for name, reply in pool.map(lambda name: (name, post(f"{served.url}/detect", given[name])), list(given) * 12):
            if name == "wrong":
                assert (reply.status, reply.error.partition(". ")[0]) == (400, "this is no picture")
                continue
            assert reply.status == 200
            answer = from_json(reply.json, served.model.spec)
            # A batch sums in another order than one picture alone.
            assert not fault(compare({name: wanted[name]}, {name: answer}, limits))
            formed.append(reply.json.get("batch", 1))
    assert (max(formed) > 1) == served.batched
    assert max(formed) <= 8


@pytest.mark.parametrize("name", BAD_UPLOADS)
@pytest.mark.parametrize("route", ["detect", "draw"])
def test_bad_uploads_get_a_sentence_and_the_server_lives(served: Served, name: str, route: str) -> None:
    body, kind, status, words = BAD_UPLOADS[name]
    reply = post(f"{served.url}/{route}", body, kind)
    assert reply.status == status
    assert words in reply.error
    assert reply.error.endswith(".")
    assert post(f"{served.url}/detect", GOOD).status == 200


@pytest.mark.parametrize("filename", ["../../marked", "/tmp/marked", "a" * 4000, "ä\u202e.png", ""])  # noqa: S108
def test_the_clients_name_of_a_file_does_not_matter(served: Served, filename: str) -> None:
    assert post(f"{served.url}/detect", *form(content=GOOD, filename=filename)).status == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{{", "validation error"),
        (b'{"df": 3}', "validation error"),
        (b"{}", "validation error"),
        (b'{"df": []}', "the DataFrame has no row"),
        (b'{"df": [{"image": "a"}]}', "the columns are 'image'"),
        (b'{"df": [{"image_data": "no base64!"}]}', "row 0: this is no base64"),
        (json.dumps({"df": [{"image_data": base64.b64encode(b"text").decode()}]}).encode(), "row 0: this is no picture"),
        (json.dumps({"df": [{"image_data": base64.b64encode(GOOD).decode()}, {}]}).encode(), "row 1: it holds a float"),
    ],
)
def test_bad_rows_get_a_sentence(served: Served, body: bytes, words: str) -> None:
    pytest.importorskip("pandas")
    reply = post(f"{served.url}/predict", body, "application/json")
    assert reply.status == 400
    assert words in reply.error


@pytest.mark.parametrize("route", ["detect", "draw", "predict", "about", "metrics", "docs.json"])
@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1]])
def test_without_the_token_nothing_is_told(served: Served, route: str, token: str | None) -> None:
    reply = post(f"{served.url}/{route}", GOOD, token=token)
    assert reply.status == 401
    assert "Authorization: Bearer TOKEN" in reply.error
    assert "a token is needed" in reply.error or "the token is wrong" in reply.error


def test_it_says_what_it_serves(served: Served) -> None:
    told = post(f"{served.url}/about", b"{}", "application/json").json
    assert told["classes"] == list(served.model.spec.classes)
    assert told["versions_differ"] == []
    assert told["tag"].startswith("served:")


def test_a_client_that_goes_away_does_no_harm(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port))) as plug:
            head = f"POST /detect HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
            plug.sendall(head.encode() + b"Content-Length: 100000\r\n\r\nhalf")
    assert post(f"{served.url}/detect", GOOD).status == 200


def test_a_model_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(NotServing, match="the store has no nobody"):
        start(DETECTOR, Settings("nobody", tmp_path / "home"), tmp_path / "log")
    assert time.monotonic() - began < 120


def test_a_token_in_the_environment_is_asked_for_and_stopping_leaves_no_process(served: Served, tmp_path: Path) -> None:
    store = PlainStore(tmp_path / "home")
    store.save("mine", served.model)
    with commanded("mine", store.home, tmp_path, HARNESS_TOKEN=TOKEN) as command:
        url = command.url()
        assert post(f"{url}/detect", GOOD).status == 200
        assert post(f"{url}/detect", GOOD, token=None).status == 401
        tree = psutil.Process(command.process.pid).children(recursive=True)
        assert tree
        command.end()
    assert not [child for child in tree if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
