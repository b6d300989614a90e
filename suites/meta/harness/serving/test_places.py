"""A place to listen at is free and can be written as an address, or it is said in words why there is none."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address

import pytest

from harness.errors import UsageError
from harness.serving.places import Place, bracketed, free_place

pytestmark = pytest.mark.covers("M5")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as plug:
            plug.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", pytest.param("::1", marks=needs_ipv6)])  # noqa: S104
def test_a_free_port_is_found_at_every_kind_of_address(host: str) -> None:
    place = free_place(host)
    address = ip_address(place.address)
    assert place.url == f"http://{bracketed(host)}:{place.port}"
    with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET) as plug:
        plug.bind((place.address, place.port))


def test_an_address_of_version_six_stands_in_brackets() -> None:
    assert Place("::1", "::1", 3000).url == "http://[::1]:3000"
    assert Place("localhost", "127.0.0.1", 3000).url == "http://localhost:3000"


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {port} of 127\.0\.0\.1 is taken.*\n  Choose another --port"):
            free_place("127.0.0.1", port)
    assert free_place("127.0.0.1", port).port == port


@pytest.mark.parametrize("host", ["no such host", "a..b", "ä" * 80, "192.0.2.1"])
def test_an_address_that_is_not_ours_is_told(host: str) -> None:
    with pytest.raises(UsageError, match=r"can(not)? be listened at") as raised:
        free_place(host)
    assert raised.value.cure == "Give an address of this machine."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may listen anywhere")
def test_a_port_that_only_root_may_have_is_told() -> None:
    with pytest.raises(UsageError, match="may not listen at port 1 of"):
        free_place("127.0.0.1", 1)
