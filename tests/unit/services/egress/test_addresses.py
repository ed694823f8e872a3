from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.services.egress.addresses import AddressKind, faces_of, kind_of, never_allowed

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("93.184.216.34", AddressKind.PUBLIC),
        ("1.1.1.1", AddressKind.PUBLIC),
        ("9.255.255.255", AddressKind.PUBLIC),
        ("11.0.0.0", AddressKind.PUBLIC),
        ("100.63.255.255", AddressKind.PUBLIC),
        ("100.128.0.0", AddressKind.PUBLIC),
        ("172.15.255.255", AddressKind.PUBLIC),
        ("172.32.0.0", AddressKind.PUBLIC),
        ("168.63.129.17", AddressKind.PUBLIC),
        ("223.255.255.255", AddressKind.PUBLIC),
        ("2606:2800:220:1::1", AddressKind.PUBLIC),
        ("2001:200::1", AddressKind.PUBLIC),
        ("64:ff9b::5db8:d822", AddressKind.PUBLIC),
        ("10.0.0.0", AddressKind.PRIVATE),
        ("100.64.0.0", AddressKind.PRIVATE),
        ("::1", AddressKind.PRIVATE),
        ("fec0::1", AddressKind.PRIVATE),
        ("0.0.0.0", AddressKind.RESERVED),
        ("255.255.255.255", AddressKind.RESERVED),
        ("::", AddressKind.RESERVED),
        ("::127.0.0.1", AddressKind.RESERVED),
        ("4000::1", AddressKind.RESERVED),
        ("224.0.0.1", AddressKind.MULTICAST),
        ("169.254.169.254", AddressKind.METADATA),
        ("169.254.1.1", AddressKind.LINK_LOCAL),
        ("fe80::1", AddressKind.LINK_LOCAL),
        ("2606:2800:220:1::1%1", AddressKind.LINK_LOCAL),
        ("2002:5db8:d822::", AddressKind.TRANSITION),
        ("2001:0:1::1", AddressKind.TRANSITION),
        ("fd00::5efe:a00:1", AddressKind.TRANSITION),
    ],
)
def test_an_address_is_of_the_kind_its_rfc_says(text: str, kind: AddressKind) -> None:
    assert kind_of(ip_address(text)) is kind


@given(ADDRESSES)
def test_nothing_is_public_that_the_standard_library_knows_better(address: IPv4Address | IPv6Address) -> None:
    if kind_of(address) is AddressKind.PUBLIC:
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_its_ipv4_address_and_one_of_nat64_is_both(address: IPv4Address) -> None:
    assert faces_of(IPv6Address(f"::ffff:{address}")) == (address,)
    translated = IPv6Address(f"64:ff9b::{address}")
    assert faces_of(translated) == (translated, address)


@pytest.mark.parametrize(
    ("text", "never"),
    [
        ("169.254.0.0/16", True),
        ("169.254.169.254/32", True),
        ("fd00:ec2::254/128", True),
        ("::ffff:10.0.0.0/104", True),
        ("2002::/16", True),
        ("10.0.0.0/8", False),
        ("::1/128", False),
        ("fd00::/8", False),
        ("0.0.0.0/0", False),
        ("::/0", False),
        ("8.8.8.0/24", False),
    ],
)
def test_networks_that_could_never_be_allowed_are_known(text: str, never: bool) -> None:
    assert never_allowed(ip_network(text)) is never
