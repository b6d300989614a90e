"""Which server answers: the reply that says that it is up bears the mark that it was started with."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from harness.serving.gate import App, Message, Receive, Send

UP = "/readyz"
"""What BentoML answers with 200 once a service can be asked."""

HEADER = "x-harness-server"


class Marked:
    """ASGI middleware: ``mark`` as a header of the reply of ``/readyz``; an empty one changes nothing."""

    def __init__(self, app: App, mark: str) -> None:
        self._app, self._mark = app, mark

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """As ASGI 3 has it."""

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (HEADER.encode(), self._mark.encode())]}
            await send(message)

        asked = self._mark and scope["type"] == "http" and scope["path"] == UP
        await self._app(scope, receive, marked if asked else send)
