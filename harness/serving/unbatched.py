"""ASGI middleware around a batchable route: a list of one answer becomes the answer, with the status of its own.

BentoML's batchable methods take and return lists, one entry a request: each client gets a list of one, and an exception anywhere
in a batch is status 500 for all in it. The method here returns an object for each request instead, ``{"error": sentence}`` for one
that was wrong, and this makes of it what a route that answers one request alone would have said.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from harness.serving.gate import App, Message, Receive, Send

_WRONG = b'{"error"'


class Unbatched:
    """``routes`` are those whose answers are lists of one."""

    def __init__(self, app: App, routes: tuple[str, ...]) -> None:
        self._app, self._routes = app, routes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """As ASGI 3 has it."""
        if scope["type"] != "http" or scope["path"] not in self._routes:
            await self._app(scope, receive, send)
            return
        head: list[Message] = []
        parts: list[bytes] = []

        async def single(message: Message) -> None:
            if message["type"] == "http.response.start":
                head.append(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body", False):
                return
            (start,) = head
            body = b"".join(parts).strip()
            if start["status"] == 200 and body.startswith(b"[") and body.endswith(b"]"):
                body = body[1:-1]
                start["status"] = 400 if body.startswith(_WRONG) else 200
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            start["headers"] = [*headers, (b"content-length", str(len(body)).encode())]
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, single)
