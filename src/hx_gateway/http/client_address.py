"""Whose address a request really has, and whether it comes from this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from hx_gateway.pipeline.context import Headers

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_PROXY_HEADERS = frozenset({b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via"})


class ClientAddresses:
    """Believes ``X-Forwarded-For`` from the networks given, and from nobody else."""

    def __init__(self, trusted: Sequence[IPNetwork]) -> None:
        self._trusted = tuple(trusted)

    def find(self, peer: str, headers: Headers) -> tuple[str, bool]:
        """Return the client's address, and whether it is this machine without a proxy in between.

        The right-most address that is not a trusted proxy's is the client's: what stands left of it was the
        client's to write. A proxied request is never local, whoever sent it.
        """
        address = _parse(peer)
        proxied = any(name in _PROXY_HEADERS for name, _ in headers)
        if not proxied:
            return peer, address is None or address.is_loopback
        if address is None or not self._is_trusted(address):
            return peer, False
        hops = [hop for name, value in headers if name == b"x-forwarded-for" for hop in value.split(b",")]
        for hop in reversed(hops):
            forwarded = _parse(hop.strip().decode("latin-1"))
            if forwarded is None:
                return peer, False
            if not self._is_trusted(forwarded):
                return str(forwarded), False
        return peer, False

    def _is_trusted(self, address: IPAddress) -> bool:
        return any(address in network for network in self._trusted)


@lru_cache(maxsize=4096)
def _parse(text: str) -> IPAddress | None:
    """Return the address; ``None`` for what is not one, such as the peer of a Unix socket."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
