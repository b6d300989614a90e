"""Requests to a server over connections that stay open, one a thread, as clients of a service have them."""

from __future__ import annotations

import threading
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

_TRIES = 2


class Client:
    """Of one server; any number of threads may ask at once. Close it when no thread asks any more."""

    def __init__(self, url: str, patience_s: float) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._patience_s = parts.hostname or "", parts.port or 80, patience_s
        self._own = threading.local()
        self._lock = threading.Lock()
        self._all: list[HTTPConnection] = []

    def post(self, route: str, body: bytes, headers: dict[str, str]) -> tuple[int, str, bytes]:
        """Status, content type and body of the reply, whatever its status. Raises OSError and HTTPException.

        A connection that the server closed since its last reply is opened anew, once: nothing of the request was read then.
        """
        for attempt in range(1, _TRIES + 1):
            connection, fresh = self._connection()
            try:
                connection.request("POST", f"/{route}", body, headers)
                reply = connection.getresponse()
                return reply.status, str(reply.headers["Content-Type"]), reply.read()
            except (ConnectionError, HTTPException) as error:
                connection.close()
                stale = not fresh and isinstance(error, ConnectionError)
                if not stale or attempt == _TRIES:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Of all threads."""
        with self._lock:
            for connection in self._all:
                with suppress(OSError):
                    connection.close()
            self._all.clear()

    def _connection(self) -> tuple[HTTPConnection, bool]:
        """This thread's, and whether it has not been used since it was opened."""
        known: HTTPConnection | None = getattr(self._own, "connection", None)
        if known is None:
            known = self._own.connection = HTTPConnection(self._host, self._port, timeout=self._patience_s)
            with self._lock:
                self._all.append(known)
        return known, known.sock is None
