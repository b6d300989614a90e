"""The client that loads are made with: connections stay open, one a thread, and one that the server closed is opened anew."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import RemoteDisconnected
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.serving.client import Client

pytestmark = pytest.mark.covers("M6")


class Handler(BaseHTTPRequestHandler):
    """Answers with the connection's own number and the body; closes after the reply, or before it, where it is told to."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/closes_before":
            self.close_connection = True
            return
        answer = f"{self.client_address[1]} {self.headers.get('X-Token', '')} ".encode() + body
        self.send_response(404 if self.path == "/nowhere" else 200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        # Without a word: as a server does whose patience with an idle connection has ended.
        self.close_connection = self.path == "/closes_after"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Not to the terminal."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_one_connection_serves_a_thread_and_each_thread_has_its_own(url: str) -> None:
    with closing(Client(url, 10.0)) as client:
        own = {client.post("here", b"x", {})[2] for _ in range(5)}
        assert len(own) == 1
        barrier = threading.Barrier(4)

        def ask(_: int) -> bytes:
            barrier.wait()
            return client.post("here", b"x", {})[2]

        with ThreadPoolExecutor(4) as pool:
            others = set(pool.map(ask, range(4)))
        assert len(others | own) == 5


def test_whatever_status_comes_is_told_with_its_body(url: str) -> None:
    with closing(Client(url, 10.0)) as client:
        status, kind, body = client.post("nowhere", b"who", {"X-Token": "sesame"})
        assert (status, kind, body.split()[1:]) == (404, "text/plain", [b"sesame", b"who"])


def test_a_connection_that_the_server_closed_is_opened_anew(url: str) -> None:
    with closing(Client(url, 10.0)) as client:
        first = client.post("closes_after", b"x", {})[2]
        assert client.post("here", b"x", {})[2] != first


def test_a_server_that_closes_instead_of_answering_is_told(url: str) -> None:
    with closing(Client(url, 10.0)) as client:
        with pytest.raises(RemoteDisconnected):
            client.post("closes_before", b"x", {})
        assert client.post("here", b"y", {})[2].endswith(b"y")
        with pytest.raises(RemoteDisconnected):
            client.post("closes_before", b"x", {})


def test_nobody_there_is_told() -> None:
    with closing(Client("http://127.0.0.1:9", 5.0)) as client, pytest.raises(ConnectionRefusedError):
        client.post("here", b"x", {})
