from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from hx_gateway.services.egress.policy import EgressPolicy

TEN = EgressPolicy(allow_networks=(ip_network("10.0.0.0/8"),))


@pytest.mark.parametrize("address", ["10.0.0.1", "10.255.255.255", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "8.8.8.8"])
def test_an_allowed_network_is_open_however_its_addresses_are_written(address: str) -> None:
    assert TEN.permits("a.example", ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "192.168.0.1",
        "127.0.0.1",
        "::ffff:192.168.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::192.168.0.1",
        "169.254.169.254",
        "::10.0.0.1",
        "2002:a00:1::",
        "::1",
    ],
)
def test_an_allowed_network_opens_no_other(address: str) -> None:
    assert not TEN.permits("a.example", ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254", "100.100.100.200", "0.0.0.0",
     "::", "224.0.0.1", "fe80::1", "2002:a00:1::", "255.255.255.255"],
)  # fmt: skip
def test_not_even_everything_allowed_opens_what_is_never_allowed(address: str) -> None:
    everything = EgressPolicy(
        allow_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")), allow_hosts=frozenset({"a.example"})
    )
    assert not everything.permits("a.example", ip_address(address))
    assert everything.permits("b.example", ip_address("127.0.0.1"))
    assert everything.permits("b.example", ip_address("fd00::1"))


def test_an_allowed_host_is_open_under_its_own_name_only() -> None:
    policy = EgressPolicy(allow_hosts=frozenset({"mcp.corp.example"}))
    assert policy.permits("mcp.corp.example", ip_address("192.168.0.1"))
    assert not policy.permits("x.mcp.corp.example", ip_address("192.168.0.1"))
    assert not policy.permits("corp.example", ip_address("192.168.0.1"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"allow_networks": (ip_network("169.254.0.0/16"),)}, "'169.254.0.0/16' cannot be allowed"),
        ({"allow_hosts": frozenset({"10.0.0.1"})}, "'10.0.0.1' is not a lower-case host name"),
        ({"allow_hosts": frozenset({"A.example"})}, "'A.example' is not a lower-case host name"),
        ({"schemes": frozenset({"file"})}, r"unknown schemes \['file'\]"),
        ({"socket_directories": (Path("run"),)}, "must be absolute"),
        ({"max_bytes": 0}, "above 0"),
        ({"connect_seconds": -1.0}, "above 0"),
    ],
)
def test_a_policy_that_could_not_take_effect_is_refused(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        EgressPolicy(**arguments)
