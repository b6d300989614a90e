"""Where a server listens: an address of this machine and a port that nobody else has."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from harness.errors import UsageError


@dataclass(frozen=True, slots=True)
class Place:
    """``host`` as it was given, the numbers that it stands for, and a port."""

    host: str
    address: str
    port: int

    @property
    def url(self) -> str:
        """What a client on this machine writes."""
        return f"http://{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    """As a URL has it: an IPv6 address stands in brackets."""
    return f"[{host}]" if ":" in host else host


def free_place(host: str, port: int = 0) -> Place:
    """A place that nobody listens at now; port 0 takes a free one. Raises `UsageError` in words where there is none."""
    try:
        family, _, _, _, numbers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"{host!r} is no address that can be listened at: {error}", "Give an address of this machine.") from error
    with socket.socket(family) as plug:
        # As servers do: a port whose last server has just ended is free.
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            plug.bind(numbers)
        except OSError as error:
            raise _refused(host, port, error) from error
        return Place(host, str(numbers[0]), plug.getsockname()[1])


def _refused(host: str, port: int, error: OSError) -> UsageError:
    another = "0 takes a free one."
    if error.errno == errno.EADDRINUSE:
        return UsageError(f"port {port} of {host} is taken: another program listens there", f"Choose another --port; {another}")
    if error.errno == errno.EACCES:
        return UsageError(f"this user may not listen at port {port} of {host}", f"Choose a --port over 1023; {another}")
    return UsageError(f"{host} cannot be listened at: {error.strerror or error}", "Give an address of this machine.")
