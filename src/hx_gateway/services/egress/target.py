"""Where a checked URL leads, and the one door through which sockets to it are made."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Any

from aiohttp import AddrInfoType

from hx_gateway.services.egress.addresses import IPAddress
from hx_gateway.services.egress.caps import Caps
from hx_gateway.services.egress.errors import EgressFailed, EgressReason

SocketFactory = Callable[[AddrInfoType], socket.socket]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedTarget:
    """A URL with all addresses that its host had when it was checked; nothing else is dialled for it.

    ``field_name`` is the field that held the URL. ``host`` is what TLS verifies and ``Host`` names. Keep it for one
    exchange: the host moves, and so do rules.
    """

    field_name: str
    scheme: str
    host: str
    port: int
    addresses: tuple[IPAddress, ...]
    # Its path and query may be what lets somebody in.
    url: str = field(repr=False)

    def address_infos(self) -> list[AddrInfoType]:
        """The addresses as sockets take them."""
        return [_address_info(address, self.port) for address in self.addresses]

    def through(self, factory: SocketFactory) -> SocketFactory:
        """Return ``factory`` behind a check that each socket is for one of these addresses and this port.

        It is the last before a connection, whatever a client made of the URL. Raises ``PermissionError``.
        """

        def checked(info: AddrInfoType) -> socket.socket:
            host, port = info[4][:2]
            if port != self.port or ip_address(host) not in self.addresses:
                raise PermissionError("this address was not checked")
            return factory(info)

        return checked


@dataclass(frozen=True, slots=True)
class CheckedSocket:
    """A Unix socket: its path, without links, in a directory that is allowed. ``field_name`` is as above."""

    field_name: str
    path: str


def new_socket(info: AddrInfoType) -> socket.socket:
    """Return a socket of the family of ``info``."""
    return socket.socket(info[0], info[1], info[2])


async def dial(target: CheckedTarget, factory: SocketFactory, *, caps: Caps, seconds: float) -> socket.socket:
    """Connect to the first address that answers; each has its share of ``seconds``. Raises ``EgressFailed``."""
    loop = asyncio.get_running_loop()
    make = target.through(factory)
    infos = target.address_infos()
    ends = loop.time() + seconds
    failure: OSError = ConnectionError("no address")
    for left, info in zip(range(len(infos), 0, -1), infos, strict=True):
        try:
            async with asyncio.timeout_at(min(caps.ends, loop.time() + (ends - loop.time()) / left)):
                return await _connect(make(info), info[4])
        except OSError as error:
            failure = error
    raise _not_connected(caps, failure) from failure


async def dial_socket(target: CheckedSocket, *, caps: Caps, seconds: float) -> socket.socket:
    """Connect to a Unix socket within ``seconds``. Raises ``EgressFailed``."""
    try:
        async with asyncio.timeout_at(min(caps.ends, asyncio.get_running_loop().time() + seconds)):
            return await _connect(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), target.path)
    except OSError as error:
        raise _not_connected(caps, error) from error


def _not_connected(caps: Caps, error: OSError) -> EgressFailed:
    return caps.failed(EgressReason.TIMEOUT if isinstance(error, TimeoutError) else EgressReason.CONNECT)


async def _connect(peer: socket.socket, address: tuple[Any, ...] | str) -> socket.socket:
    try:
        peer.setblocking(False)
        # No loop looks this up again: it is a number or a path.
        await asyncio.get_running_loop().sock_connect(peer, address)
    except BaseException:
        peer.close()
        raise
    return peer


def _address_info(address: IPAddress, port: int) -> AddrInfoType:
    if isinstance(address, IPv6Address):
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), port))
