"""The demo page shows what the endpoint detects, or says plainly why it does not; tried in a real browser."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from harness.cli import main
from harness.detections import Detections, Pixels
from harness.drawing import colour
from harness.serving.demo import NoAnswer, _outlined, ask
from harness.serving.pictures import decoded, encoded
from harness.serving.server import DETECTOR, serving
from harness.serving.settings import Settings
from harness.serving.store import PlainStore
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, changed_in_memory, expected, pictures
from harness.wire import files

pytestmark = [pytest.mark.covers("M16"), *THEIR_WARNINGS]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PICTURE = np.zeros((40, 60, 3), np.uint8)
GOOD = {
    "height_px": 40,
    "width_px": 60,
    "boxes": [[1, 2, 30, 20], [5, 20, 50, 38]],
    "scores": [0.25, 0.75],
    "labels": [0, 1],
    "classes": ["disc", "<b>bar</b>"],
}

UNREAD = "The endpoint's answer cannot be read:"


@contextmanager
def endpoint(reply: Callable[[bytes, str | None], tuple[int, bytes]]) -> Iterator[str]:
    """Something that answers every POST as told."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, said = reply(body, self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_picture_goes_out_as_it_is_and_comes_back_with_outlines() -> None:
    seen = []

    def reply(body: bytes, token: str | None) -> tuple[int, bytes]:
        seen.append((body, token))
        return 200, json.dumps(GOOD).encode()

    content = encoded(PICTURE)
    with endpoint(reply) as url:
        found = ask(f" {url}/ ", " secret ", content)
    assert seen == [(content, "Bearer secret")]
    assert [row[:2] for row in found.rows] == [["<b>bar</b>", 0.75], ["disc", 0.25]]
    assert found.rows[0][2:] == [5.0, 20.0, 50.0, 38.0]
    assert found.picture.shape == PICTURE.shape
    assert found.picture[20:39, 5:51].any()
    assert not found.picture[39:, :].any()


def test_a_rotated_picture_is_shown_upright() -> None:
    content = files(np.zeros((60, 40, 3), np.uint8))["jpeg, rotated by EXIF"]
    with endpoint(lambda *_: (200, json.dumps(GOOD).encode())) as url:
        assert ask(url, "", content).picture.shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("status", "said", "words"),
    [
        (401, {"error": "a token is needed: send it."}, "The endpoint refuses the token: a token is needed: send it."),
        (403, "", "The endpoint refuses the token: 403"),
        (413, {"error": "too large."}, "The endpoint refuses (413): too large."),
        (500, "Internal Server Error", "The endpoint failed (500): Internal Server Error"),
        (502, "", "The endpoint failed (502): it does not say why."),
        (200, "<html>", "Nothing that detects answers at"),
        (200, [1], "What answers there does not answer with detections."),
        (200, "[" * 100_000, "Nothing that detects answers at"),
        (200, {"boxes": []}, "The endpoint's answer cannot be read: height_px: Field required."),
        (200, {**GOOD, "classes": ["disc"]}, f"{UNREAD} Value error, 2 boxes, 2 scores, 2 labels, 1 classes."),
        (200, {**GOOD, "classes": ["disc", None]}, f"{UNREAD} classes.1: Input should be a valid string."),
        (200, {**GOOD, "labels": [0, "bar"]}, f"{UNREAD} labels.1: Input should be a valid integer."),
        (200, {**GOOD, "labels": [None, 1]}, f"{UNREAD} labels.0: Input should be a valid integer."),
        (200, {**GOOD, "labels": [0, 10**400]}, f"{UNREAD} labels.1: "),
        (200, {**GOOD, "scores": [0.5, float("nan")]}, f"{UNREAD} scores.1: Input should be a finite number."),
        (200, {**GOOD, "scores": None}, f"{UNREAD} scores: Input should be a valid list."),
        (200, {**GOOD, "boxes": [[1, 2, 30, 20], [5, 20, float("nan"), 38]]}, f"{UNREAD} boxes.1.2: Input should be a finite"),
        (200, {**GOOD, "boxes": [[1, 2, 30, 20], [5, 20, 50]]}, f"{UNREAD} boxes.1: List should have at least 4 items"),
        (200, {**GOOD, "boxes": [[30, 2, 1, 20], [5, 20, 50, 38]]}, f"{UNREAD} Value error, the box [30.0, 2.0, 1.0, 20.0] ends"),
        (200, {**GOOD, "boxes": [[1, 2, 30, 20], [5, 38, 50, 20]]}, f"{UNREAD} Value error, the box [5.0, 38.0, 50.0, 20.0] ends"),
        (200, {**GOOD, "width_px": 61}, "The endpoint saw a picture of 61 x 40 pixels, this one has 60 x 40."),
    ],
)
def test_what_the_endpoint_does_instead_is_said_plainly(status: int, said: Any, words: str) -> None:
    body = said.encode() if isinstance(said, str) else json.dumps(said).encode()
    with endpoint(lambda *_: (status, body)) as url, pytest.raises(NoAnswer) as raised:
        ask(url, "", encoded(PICTURE))
    assert raised.value.what.startswith(words)


def test_a_box_outside_of_the_picture_is_drawn_as_far_as_it_is_seen() -> None:
    far = {**GOOD, "boxes": [[-1e300, -5, 1e300, 20], [5, 20, 50, 1e9]]}
    with endpoint(lambda *_: (200, json.dumps(far).encode())) as url:
        found = ask(url, "", encoded(PICTURE))
    assert found.picture[20].any(axis=1).all()
    assert not found.picture[39, 10:49].any()
    assert found.rows[1][2:] == [-1e300, -5.0, 1e300, 20.0]


@pytest.mark.parametrize("token", ["schlüssel", "κλειδί", "a\nb", "a\r\nHost: elsewhere"])
def test_a_token_that_cannot_be_sent_is_said_to_be_that(token: str) -> None:
    asked = []
    with endpoint(lambda *told: (asked.append(told), (200, b""))[1]) as url, pytest.raises(NoAnswer) as raised:
        ask(url, token, encoded(PICTURE))
    assert raised.value.what.startswith("Nothing was sent: the token has a character that is not printable ASCII")
    assert asked == []


HALF = b"Transfer-Encoding: chunked\r\n\r\nff\r\n{"


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b"", b"HTTP/1.1 200 OK\r\n" + HALF])
def test_what_speaks_no_sound_http_is_said_plainly(greeting: bytes) -> None:
    with greeter(greeting) as url, pytest.raises(NoAnswer, match=r"^Nothing that detects answers at http://127"):
        ask(url, "", encoded(PICTURE))


def test_an_endpoint_that_hangs_up_in_the_middle_of_its_reason_is_told_with_its_status() -> None:
    with greeter(b"HTTP/1.1 413 No\r\n" + HALF) as url, pytest.raises(NoAnswer) as raised:
        ask(url, "", encoded(PICTURE))
    assert raised.value.what == "The endpoint refuses (413): it does not say why."


@contextmanager
def greeter(greeting: bytes) -> Iterator[str]:
    """Whoever connects hears this, whatever he says."""

    def greet() -> None:
        plug, _ = server.accept()
        with plug:
            plug.recv(2**20)
            plug.sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=greet)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost:3000",
        "file:anywhere",
        "http://",
        "http://127.0.0.1:1",
        "http://[::1",
        "http://a b",
        "http://a\nb",
        "http://ä..b",
    ],
)
def test_an_address_that_is_none_is_said_plainly(address: str) -> None:
    with pytest.raises(NoAnswer, match=r"^(The endpoint must begin|Nothing that detects)"):
        ask(address, "", encoded(PICTURE))


def test_the_command_wants_an_address() -> None:
    done = CliRunner().invoke(main, ["demo", "--endpoint", "localhost:3000"])
    assert done.exit_code == 2
    assert "no address of a served detector" in done.output


@contextmanager
def shown(url: str) -> Iterator[str]:
    """``harness demo``, as a person starts and stops it; gives the page's address."""
    command = [sys.executable, "-m", "harness.cli", "demo", "--endpoint", url, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("the page is at http://127.0.0.1:"), said
        yield said.removeprefix("the page is at ").partition(". ")[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stdout.read() == "stopped\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Any]:
    pytest.importorskip("gradio")
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = launched.new_page(viewport={"width": 1100, "height": 1300})
        page.set_default_timeout(120_000)
        yield page
        launched.close()


def picture_in(page: Any, selector: str) -> Pixels:
    """What the browser shows there: the file that it has from the page, decoded."""
    fetched = """async image => {
        await image.decode();
        const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
        return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
    }"""
    return decoded(base64.b64decode(page.locator(selector).evaluate(fetched)))


def outlined(picture: Pixels, answer: Detections, classes: Sequence[str]) -> Pixels:
    """The picture that the page must show of the stored model's own answer; the best box of it is there in its class's colour."""
    best_first = np.argsort(-answer.scores, kind="stable")
    found = [
        (classes[answer.labels[at]], int(answer.labels[at]), float(answer.scores[at]), answer.boxes_xyxy_px[at].tolist())
        for at in best_first
    ]
    shown = _outlined(picture, found)
    x1, y1, x2, y2 = (int(edge) for edge in found[0][3])
    # Below its caption, which may be as wide as the box.
    assert all((shown[y1 + 20 : y2, edge] == colour(found[0][1])).all() for edge in (x1, x2))
    return shown


def test_in_a_browser_a_served_detector_is_asked_and_refuses(browser_page: Any, tmp_path: Path) -> None:
    pytest.importorskip("bentoml")
    model = changed_in_memory("tv_maskrcnn_tiny", tmp_path / "source")
    tag = PlainStore(tmp_path / "home").save("served", model)
    picture = tmp_path / "picture.png"
    picture.write_bytes(encoded(pictures()[0]))
    (tmp_path / "no picture.png").write_bytes(b"this is a text")
    settings = Settings(str(tag), tmp_path / "home", "open sesame", threads=1)
    page, elsewhere = browser_page, []
    with serving(DETECTOR, settings, tmp_path / "log") as server, shown(server.url) as address:
        page.on("request", lambda request: elsewhere.append(request.url) if address not in request.url else None)
        page.goto(address)
        said = page.locator("#said")
        page.get_by_role("button", name="Detect").click()
        said.get_by_text("Choose a picture first.").wait_for()
        assert page.get_by_label("Endpoint").input_value() == server.url

        page.locator("input[type=file]").first.set_input_files(picture)
        page.get_by_role("button", name="Remove Image").or_(page.get_by_label("Remove Image")).first.wait_for()
        page.get_by_role("button", name="Detect").click()
        said.get_by_text("The endpoint refuses the token: a token is needed").wait_for()

        page.get_by_label("Token").fill("open sesame")
        page.get_by_role("button", name="Detect").click()
        wanted = expected(model)[0]
        said.get_by_text(f"{len(wanted.scores)} detections.").wait_for()
        assert np.array_equal(picture_in(page, "#shown img"), outlined(pictures()[0], wanted, model.spec.classes))
        best = model.spec.classes[int(wanted.labels[wanted.scores.argmax()])]
        assert page.get_by_role("gridcell").first.inner_text().strip() == best

        page.get_by_label("Endpoint").fill("http://127.0.0.1:1")
        page.get_by_role("button", name="Detect").click()
        said.get_by_text("Nothing that detects answers at http://127.0.0.1:1").wait_for()
        assert [url for url in elsewhere if not url.startswith(("data:", "blob:"))] == []
    assert server.processes() == []
