"""A server is taken for up when it is, and for nobody else; it can be stopped at any time; what it said is told."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.serving.marked import HEADER, UP
from harness.serving.server import DETECTOR, NotServing, Server, Stopped, _answers, start
from harness.serving.settings import Settings
from harness.serving.store import PlainStore
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, changed_in_memory
from harness.suites.meta.harness.serving.commanded import commanded, servers_of
from harness.suites.meta.harness.serving.test_places import needs_ipv6

pytestmark = [pytest.mark.covers("M5"), *THEIR_WARNINGS]


@contextmanager
def somebody(mark: str | None) -> Iterator[int]:
    """A server that says that it is up, with such a mark; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == UP else 404)
            if mark is not None:
                self.send_header(HEADER, mark)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def a_process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("mark", "it_is"), [(None, False), ("another", False), ("mine", True)])
def test_only_the_server_that_was_started_is_taken_for_it(mark: str | None, it_is: bool, tmp_path: Path) -> None:
    with somebody(mark) as port, a_process() as process:
        assert _answers(Server(f"http://127.0.0.1:{port}", process, "mine", tmp_path / "log", tmp_path)) is it_is


def test_what_speaks_no_http_is_not_taken_for_it(tmp_path: Path) -> None:
    with socket.socket() as other, a_process() as process:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def greet() -> None:
            plug, _ = other.accept()
            with plug:
                plug.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                plug.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        assert not _answers(Server(url, process, "mine", tmp_path / "log", tmp_path))
        thread.join()


def test_a_port_that_is_taken_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with somebody(None) as port, pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 is taken"):
        start(DETECTOR, Settings("m", tmp_path / "home"), tmp_path / "log", port=port)
    assert not (tmp_path / "log").exists()


def test_the_end_of_the_log_goes_with_the_message(tmp_path: Path) -> None:
    pytest.importorskip("bentoml")
    with pytest.raises(NotServing, match="the store has no nobody") as raised:
        start(DETECTOR, Settings("nobody", tmp_path / "home"), tmp_path / "log")
    # Not in the sentence, which a table of verdicts shows; in the traceback.
    assert "\n" not in str(raised.value)
    assert raised.value.__notes__ == [raised.value.last_lines]
    lines = raised.value.last_lines.splitlines()
    assert lines[0] == "The end of its log:"
    assert [line.strip() for line in lines[1:]] == [line.strip() for line in (tmp_path / "log").read_text().splitlines()][-20:]


def test_what_is_stopped_before_it_is_up_leaves_nothing(tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(Stopped):
        start(DETECTOR, Settings("nobody", tmp_path / "home"), tmp_path / "log", stopped=stopped)
    assert servers_of(tmp_path / "home") == []


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bentoml")
    folder = tmp_path_factory.mktemp("home")
    PlainStore(folder).save("mine", changed_in_memory("tv_retinanet_tiny", tmp_path_factory.mktemp("model") / "source"))
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_stops_while_it_starts(home: Path, tmp_path: Path, number: signal.Signals) -> None:
    with commanded("mine", home, tmp_path) as command:
        command.await_(command.servers)
        began = time.monotonic()
        command.end(number)
        assert time.monotonic() - began < 30
    assert " at http" not in command.said()


def test_the_command_stops_when_its_terminal_closes(home: Path, tmp_path: Path) -> None:
    with commanded("mine", home, tmp_path) as command:
        command.url()
        assert command.servers()
        command.end(signal.SIGHUP)


def test_a_server_that_ends_by_itself_is_told_with_what_it_said(home: Path, tmp_path: Path) -> None:
    with commanded("mine", home, tmp_path) as command:
        command.url()
        for process in command.servers():
            process.kill()
        assert command.process.wait(60) == 3
    log, _, sentence = command.said().partition("\nharness: the server ended by itself, with status -9\n")
    assert sentence == ""
    assert log.partition("The end of its log:\n")[2].strip()


def test_a_server_that_does_not_start_is_told_with_what_it_said(home: Path, tmp_path: Path) -> None:
    with commanded("mine", home, tmp_path, "--device", "cuda", CUDA_VISIBLE_DEVICES="") as command:
        assert command.process.wait(120) == 3
    said = command.said()
    assert "The end of its log:\n" in said
    assert said.splitlines()[-1].startswith("harness: the server did not start: ")


@needs_ipv6
def test_the_command_serves_at_an_address_of_version_six(home: Path, tmp_path: Path) -> None:
    with commanded("mine", home, tmp_path, "--host", "::1") as command:
        assert command.url().startswith("http://[::1]:")
        command.end()


def test_the_command_says_which_port_is_taken(home: Path, tmp_path: Path) -> None:
    with somebody(None) as port, commanded("mine", home, tmp_path, "--port", str(port)) as command:
        assert command.process.wait(60) == 2
    assert f"port {port} of 127.0.0.1 is taken" in command.said()
    assert " at http" not in command.said()


@pytest.mark.parametrize(
    ("options", "variables", "words"),
    [
        (["--token", " a "], {}, "begins or ends with a blank"),
        (["--token", "schlüssel"], {}, "not printable ASCII"),
        ([], {"HARNESS_TOKEN": ""}, "the token is empty"),
        (["--host", "no such host"], {}, "is no address that can be listened at"),
    ],
)
def test_the_command_refuses_what_nobody_can_ask(
    home: Path, tmp_path: Path, options: list[str], variables: dict[str, str], words: str
) -> None:
    with commanded("mine", home, tmp_path, *options, **variables) as command:
        assert command.process.wait(60) == 2
    assert words in command.said()
    assert "Traceback" not in command.said()
