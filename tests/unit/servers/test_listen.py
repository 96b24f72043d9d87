"""Addresses to listen on: parsing, resolving, binding."""

from __future__ import annotations

import socket

import pytest

from vramtap.errors import ListenError, UsageError
from vramtap.servers.listen import (
    MAX_PORT,
    ListenAddress,
    bind,
    host_port,
    is_loopback,
    limit_unsent,
    parse_address,
    resolve,
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("localhost:65535", "localhost", 65535),
        ("[::1]:5901", "::1", 5901),
        ("::1:5901", "::1", 5901),
        ("0.0.0.0:80", "0.0.0.0", 80),
    ],
)
def test_address_has_host_and_port(text: str, host: str, port: int) -> None:
    assert parse_address(text, "--vnc", "127.0.0.1:5900") == ListenAddress(host, port, or_any_port=False)


@pytest.mark.parametrize(
    "text", ["foo", ":5900", "host:", "host:x", "host:-1", "host:65536", "host:٣", "host:1 "]
)
def test_invalid_address_is_a_usage_error_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--web .*: not HOST:PORT \(for example 127.0.0.1:8080,"):
        parse_address(text, "--web", "127.0.0.1:8080")


def test_ipv6_address_is_written_in_brackets() -> None:
    assert host_port("2001:db8::1", 80) == "[2001:db8::1]:80"
    assert str(ListenAddress("192.0.2.7", 80)) == "192.0.2.7:80"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_address(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "localhost"])
def test_address_that_is_not_loopback(address: str) -> None:
    assert not is_loopback(address)


async def test_empty_host_resolves_to_all_addresses() -> None:
    assert (socket.AF_INET, "0.0.0.0") in await resolve("", 0)


@pytest.mark.parametrize("host", ["no host", "a..b"])
async def test_unknown_name_raises_listen_error(host: str) -> None:
    with pytest.raises(ListenError, match=rf"^listen {host}:7: .*\(give a name or an address"):
        await resolve(host, 7)


@pytest.mark.parametrize(
    ("address", "port", "message"),
    [
        ("192.0.2.1", 0, r"Cannot assign requested address \(give an address of this machine\)"),
        ("127.0.0.1", MAX_PORT + 1, r"the last port is 65535 \(choose a lower port\)"),
    ],
)
def test_address_that_cannot_be_bound_raises_listen_error(address: str, port: int, message: str) -> None:
    with pytest.raises(ListenError, match=f"^listen {address}:{port}: {message}"):
        bind(socket.AF_INET, address, port, 1)


def test_limit_unsent_ignores_sockets_that_are_not_tcp() -> None:
    one, other = socket.socketpair()
    with one, other:
        limit_unsent(one)
        one.sendall(b"still usable")
        assert other.recv(100) == b"still usable"
