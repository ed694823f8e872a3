"""Whose address a request has: what a client writes about itself counts for nothing."""

from __future__ import annotations

import ipaddress

import pytest

from hx_gateway.http.client_address import ClientAddresses

TRUSTED = ClientAddresses([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("127.0.0.1")])
NOBODY = ClientAddresses([])


def forwarded(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", value.encode()) for value in values]


def test_a_direct_peer_is_the_client() -> None:
    assert NOBODY.find("203.0.113.7", []) == ("203.0.113.7", False)


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", ""])
def test_this_machine_is_local(peer: str) -> None:
    assert NOBODY.find(peer, [])[1]


def test_a_header_from_a_stranger_is_ignored() -> None:
    assert TRUSTED.find("203.0.113.7", forwarded("198.51.100.1")) == ("203.0.113.7", False)


def test_the_right_most_address_that_is_no_proxy_counts() -> None:
    headers = forwarded("1.1.1.1, 198.51.100.1", "10.1.2.3")
    assert TRUSTED.find("10.0.0.1", headers) == ("198.51.100.1", False)


def test_a_proxied_request_is_never_local() -> None:
    assert NOBODY.find("127.0.0.1", forwarded("127.0.0.1")) == ("127.0.0.1", False)
    assert TRUSTED.find("127.0.0.1", forwarded("127.0.0.1")) == ("127.0.0.1", False)
    assert not NOBODY.find("127.0.0.1", [(b"forwarded", b"for=127.0.0.1")])[1]


def test_nonsense_in_the_header_falls_back_to_the_peer() -> None:
    assert TRUSTED.find("10.0.0.1", forwarded("not-an-address")) == ("10.0.0.1", False)
