"""Lists of one become the answer; everything else passes as it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from harness.serving.unbatched import Unbatched

pytestmark = pytest.mark.covers("M6")


def through(path: str, *bodies: bytes, status: int = 200, kind: str = "http") -> tuple[int, dict[bytes, bytes], bytes]:
    async def app(_: Any, __: Any, send: Any) -> None:
        headers = [(b"Content-Length", str(sum(map(len, bodies))).encode()), (b"x-other", b"kept")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, body in enumerate(bodies, start=1):
            await send({"type": "http.response.body", "body": body, "more_body": number < len(bodies)})

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    asyncio.run(Unbatched(app, routes=("/detect",))({"type": kind, "path": path}, receive, send))
    start, *rest = sent
    headers = {name.lower(): value for name, value in start["headers"]}
    return start["status"], headers, b"".join(one["body"] for one in rest)


@pytest.mark.parametrize(
    ("bodies", "status", "body"),
    [
        ((b'[{"boxes":[[1,2],[3,4]],"batch":2}]',), 200, b'{"boxes":[[1,2],[3,4]],"batch":2}'),
        ((b'[{"boxes":', b"[]", b"}]\n"), 200, b'{"boxes":[]}'),
        ((b'[{"error":"this is no picture."}]',), 400, b'{"error":"this is no picture."}'),
        ((b'{"error":"of the library"}',), 200, b'{"error":"of the library"}'),
    ],
    ids=["one", "in parts", "wrong", "no list"],
)
def test_a_list_of_one_becomes_the_answer(bodies: tuple[bytes, ...], status: int, body: bytes) -> None:
    found = through("/detect", *bodies)
    assert (found[0], found[2]) == (status, body)
    assert found[1] == {b"content-length": str(len(body)).encode(), b"x-other": b"kept"}


def test_what_the_library_itself_refuses_keeps_its_status() -> None:
    assert through("/detect", b'[{"error":"busy"}]', status=503)[::2] == (503, b'[{"error":"busy"}]')


def test_other_routes_are_let_be() -> None:
    assert through("/draw", b'[{"error":"x"}]')[::2] == (200, b'[{"error":"x"}]')
