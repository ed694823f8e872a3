"""The guards of these tests: loopback is allowed only where a test says so."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest

from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.services.egress.policy import EgressPolicy
from hx_gateway.services.egress.url import NETWORK_SCHEMES
from tests.fixtures.egress import TLS, FixedDns

MakeGuard = Callable[..., EgressGuard]


@pytest.fixture
def guard() -> MakeGuard:
    """Give a guard to which 127.0.0.1 is allowed, and every port."""

    def make(*names: dict[str, list[str]], tls: Any = TLS, **rules: Any) -> EgressGuard:
        rules.setdefault("allow_networks", (ip_network("127.0.0.1/32"),))
        rules.setdefault("schemes", NETWORK_SCHEMES)
        policy = EgressPolicy(ports=(range(1, 65_536),), **rules)
        return EgressGuard(policy, resolver=FixedDns(*(names or ({},))), ssl_context=tls)

    return make


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Note the address of every connect of this process."""
    seen: list[Any] = []
    connect = socket.socket.connect

    def spy(peer: socket.socket, address: Any) -> None:
        seen.append(address)
        connect(peer, address)

    monkeypatch.setattr(socket.socket, "connect", spy)
    return seen
