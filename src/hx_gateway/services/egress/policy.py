"""What an operator lets users' URLs reach, and how much time and data each may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hx_gateway.services.egress.addresses import (
    NEVER_ALLOWED,
    AddressKind,
    IPAddress,
    IPNetwork,
    faces_of,
    kind_of,
    never_allowed,
)
from hx_gateway.services.egress.url import NETWORK_SCHEMES, is_host_name


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressPolicy:
    """Public addresses over TLS, unless more is allowed here. Raises ``ValueError`` for what could never take effect.

    ``allow_networks`` and ``allow_hosts`` open private addresses: the first for every name that leads there, the second
    for exactly these lower-case names wherever they lead, so name only what the operator's own DNS answers. Neither
    opens link-local addresses, metadata services of clouds, multicast, or addresses that hide another.
    ``socket_directories`` hold the Unix sockets that may be dialled: whoever may write there chooses what they are.

    ``connect_seconds`` bounds the look-up of a name, and then the connection with its TLS handshake; ``read_seconds``
    each wait for data; ``total_seconds`` everything after the check. ``max_bytes`` is what is read of one answer, or of
    one connection.
    """

    allow_networks: tuple[IPNetwork, ...] = ()
    allow_hosts: frozenset[str] = frozenset()
    schemes: frozenset[str] = frozenset({"https", "wss"})
    ports: tuple[range, ...] = (range(80, 81), range(443, 444), range(8000, 9001))
    socket_directories: tuple[Path, ...] = ()
    connect_seconds: float = 2.0
    read_seconds: float = 5.0
    total_seconds: float = 5.0
    max_bytes: int = 256 * 1024

    def __post_init__(self) -> None:
        for network in self.allow_networks:
            if never_allowed(network):
                raise ValueError(f"{str(network)!r} cannot be allowed: see NEVER_ALLOWED")
        for host in self.allow_hosts:
            if not is_host_name(host):
                raise ValueError(f"{host!r} is not a lower-case host name; an address belongs into allow_networks")
        if unknown := self.schemes - NETWORK_SCHEMES:
            raise ValueError(f"unknown schemes {sorted(unknown)}; known are {sorted(NETWORK_SCHEMES)}")
        if not all(directory.is_absolute() for directory in self.socket_directories):
            raise ValueError("socket_directories must be absolute")
        if min(self.connect_seconds, self.read_seconds, self.total_seconds, self.max_bytes) <= 0:
            raise ValueError("times and max_bytes must be above 0")

    def permits_port(self, port: int) -> bool:
        """Tell whether ``port`` may be dialled, at whatever address."""
        return any(port in ports for ports in self.ports)

    def permits(self, host: str, address: IPAddress) -> bool:
        """Tell whether ``address`` may be dialled where the URL says ``host``."""
        return all(self._permits_face(host, face) for face in faces_of(address))

    def _permits_face(self, host: str, address: IPAddress) -> bool:
        kind = kind_of(address)
        if kind is AddressKind.PUBLIC:
            return True
        if kind in NEVER_ALLOWED:
            return False
        return host in self.allow_hosts or any(address in network for network in self.allow_networks)
