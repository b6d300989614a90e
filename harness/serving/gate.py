"""What stands before a served detector: the token, the size of a request, and what an upload must look like.

BentoML itself would fetch a picture from any address that a client writes into a file's field, and answers a wrong upload with an
error of its own; here the picture must be in the request, and every refusal is a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from hmac import compare_digest
from typing import Any, TypeAlias
from uuid import uuid4

from harness.errors import UsageError

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

FIELD = "image"
LARGEST_BYTES = 64 * 2**20
_HEARD_OUT = 4
"""So many times the largest request is read to its end before it is refused."""

_TOLD = "image/png"
"""What the file behind the gate says that it is; whoever decodes it looks for himself."""

_RAW = ("image/", "application/octet-stream")


class _Refused(UsageError):
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Gate:
    """ASGI middleware around BentoML's application.

    ``token`` None lets everybody in; with one, every request but the two that ask whether the server is up needs
    ``Authorization: Bearer TOKEN``. ``pictures`` are the routes that take one picture: as the field ``image`` of a form, or as the
    whole body. Behind the gate it is always a form with one file, whatever name the client gave it.
    """

    def __init__(self, app: App, token: str | None, pictures: tuple[str, ...], largest_bytes: int = LARGEST_BYTES) -> None:
        self._app, self._token, self._pictures, self._largest_bytes = app, token, pictures, largest_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """As ASGI 3 has it."""
        if scope["type"] != "http" or scope["path"] in ("/livez", "/readyz"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._demand_token(headers)
            if scope["method"] != "POST":
                await self._app(scope, receive, send)
                return
            body = await self._body(headers, receive)
            if scope["path"] in self._pictures:
                kind, body = _form(await _picture(headers, body))
                kept = [
                    (name, value) for name, value in scope["headers"] if name.lower() not in (b"content-type", b"content-length")
                ]
                new = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
                scope = {**scope, "headers": [*kept, *new]}
        except _Refused as refused:
            await _answer(send, refused)
            return
        await self._app(scope, _replayed(body, receive), send)

    def _demand_token(self, headers: Mapping[str, str]) -> None:
        if self._token is None:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not compare_digest(given.strip().encode(), self._token.encode()):
            said = "the token is wrong" if given else "a token is needed"
            raise _Refused(401, f"{said}: send the header 'Authorization: Bearer TOKEN'.")

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        """All of the request. Of one that is too large some more is read and forgotten, so that its client hears why."""
        largest, parts, size = self._largest_bytes, [], 0
        too_large = _Refused(413, f"the request is larger than {largest / 2**20:.0f} MiB.")
        if int(headers.get("content-length") or 0) > _HEARD_OUT * largest:
            raise too_large
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Refused(400, "the request ended before its end.")
            size += len(message.get("body", b""))
            if size <= largest:
                parts.append(message.get("body", b""))
            more = message.get("more_body", False)
            if size > largest and (not more or size > _HEARD_OUT * largest):
                raise too_large
            if not more:
                return b"".join(parts)


async def _picture(headers: Mapping[str, str], body: bytes) -> bytes:
    kind = headers.get("content-type", "")
    if kind.lower().startswith(_RAW):
        return body
    wanted = f"send the picture as the file {FIELD!r} of a multipart form, or alone with its own content type."
    if not kind.lower().startswith("multipart/form-data"):
        raise _Refused(415, f"a request of the kind {kind or '(none)'!r} holds no picture: {wanted}")
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException
    from starlette.requests import Request

    async def whole() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    request = Request({"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode("latin-1"))]}, whole)
    try:
        async with request.form(max_files=4, max_fields=4) as form:
            fields = sorted(set(form))
            files = form.getlist(FIELD)
            if len(files) != 1 or fields != [FIELD] or not isinstance(files[0], UploadFile):
                found = ", ".join(f"{name!r} ({'file' if isinstance(form[name], UploadFile) else 'text'})" for name in fields)
                raise _Refused(400, f"the form has {found or 'no field'}{' more than once' if len(files) > 1 else ''}: {wanted}")
            return await files[0].read()
    except MultiPartException as error:
        raise _Refused(400, f"the form cannot be read ({error.message}): {wanted}") from error


def _form(picture: bytes) -> tuple[str, bytes]:
    boundary = uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{FIELD}"; filename="picture"\r\nContent-Type: {_TOLD}\r\n\r\n'
    return f"multipart/form-data; boundary={boundary}", b"".join((head.encode(), picture, f"\r\n--{boundary}--\r\n".encode()))


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _answer(send: Send, refused: _Refused) -> None:
    content = json.dumps({"error": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
