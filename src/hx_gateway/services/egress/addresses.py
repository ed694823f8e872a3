"""What an IP address is for, by an explicit list: the flags of ``ipaddress`` call several that lead inside global.

Python 3.11 says ``is_global`` of ``64:ff9b::a9fe:a9fe``, ``2002:7f00:1::``, ``::127.0.0.1`` and ``fec0::1``, and more.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class AddressKind(Enum):
    """What an address is for."""

    PUBLIC = "public"
    PRIVATE = "private"
    METADATA = "metadata"
    LINK_LOCAL = "link_local"
    MULTICAST = "multicast"
    RESERVED = "reserved"
    TRANSITION = "transition"


# No list of allowed networks opens these: a cloud's credentials, one link or many hosts at once, or what hides an IPv4
# address that is better written as itself.
NEVER_ALLOWED = frozenset(AddressKind) - {AddressKind.PUBLIC, AddressKind.PRIVATE}

# The first that holds an address says what it is. RFC 6890 and the IANA special-purpose registries it founded, and
# what clouds put elsewhere.
_SPECIAL: tuple[tuple[AddressKind, tuple[str, ...]], ...] = (
    (
        AddressKind.METADATA,
        (
            "169.254.169.254/32",  # most clouds
            "100.100.100.200/32",  # Alibaba Cloud
            "168.63.129.16/32",  # Azure's wire server, a public address
            "192.0.0.192/32",  # Oracle Cloud
            "fd00:ec2::/32",  # AWS
            "fd20:ce::254/128",  # Google Cloud
            "fd00:42::42/128",  # Scaleway
        ),
    ),
    (AddressKind.LINK_LOCAL, ("169.254.0.0/16", "fe80::/10")),  # RFC 3927, RFC 4291
    (AddressKind.MULTICAST, ("224.0.0.0/4", "ff00::/8")),  # RFC 5771, RFC 4291
    (
        AddressKind.TRANSITION,
        (
            "192.88.99.0/24",  # 6to4 relays, RFC 7526
            "::ffff:0:0/96",  # IPv4-mapped, RFC 4291: judged as the IPv4 address, see faces_of
            "::ffff:0:0:0/96",  # IPv4-translated, RFC 2765
            "64:ff9b:1::/48",  # NAT64 with local prefixes, RFC 8215: they do not tell where the IPv4 address stands
            "2001::/32",  # Teredo, RFC 4380
            "2002::/16",  # 6to4, RFC 3056
        ),
    ),
    (
        AddressKind.PRIVATE,
        (
            "10.0.0.0/8",  # RFC 1918
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",  # carriers' NAT, RFC 6598
            "127.0.0.0/8",  # loopback, RFC 1122
            "192.0.0.0/24",  # protocol assignments, RFC 6890
            "192.0.2.0/24",  # documentation, RFC 5737
            "198.51.100.0/24",
            "203.0.113.0/24",
            "198.18.0.0/15",  # benchmarks, RFC 2544
            "::1/128",  # loopback, RFC 4291
            "fc00::/7",  # unique local, RFC 4193
            "fec0::/10",  # site-local, RFC 3879
            "100::/64",  # discard, RFC 6666
            "2001::/23",  # protocol assignments, RFC 2928: benchmarks and ORCHID among them
            "2001:db8::/32",  # documentation, RFC 3849
            "3fff::/20",  # documentation, RFC 9637
        ),
    ),
    (
        AddressKind.RESERVED,
        (
            "0.0.0.0/8",  # "this" network, RFC 791: Linux takes 0.0.0.0 for loopback
            "240.0.0.0/4",  # RFC 1112; the limited broadcast, RFC 919
            "::/96",  # unspecified, and IPv4-compatible, RFC 4291
        ),
    ),
)
_RANGES = tuple((ip_network(text), kind) for kind, texts in _SPECIAL for text in texts)
# Addresses for one host come from here only (RFC 4291, IANA); the well-known prefix of NAT64 leads to IPv4 (RFC 6052).
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
# Interface identifiers of ISATAP, RFC 5214 section 6.1: an IPv4 address follows, below any prefix.
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})


def kind_of(address: IPAddress) -> AddressKind:
    """Return what ``address`` itself is for; see :func:`faces_of` for what is written inside it."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return AddressKind.LINK_LOCAL
        if int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
            return AddressKind.TRANSITION
    for network, kind in _RANGES:
        if address in network:
            return kind
    if isinstance(address, IPv4Address) or address in _GLOBAL_UNICAST or address in _NAT64:
        return AddressKind.PUBLIC
    return AddressKind.RESERVED


def faces_of(address: IPAddress) -> tuple[IPAddress, ...]:
    """Return all that a packet to ``address`` may reach: a mapped one is its IPv4 address, one of NAT64 is both.

    Each must be allowed. The other ways to write an IPv4 address in an IPv6 one are ``TRANSITION``, and never are.
    """
    if isinstance(address, IPv4Address) or address.scope_id is not None:
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address in _NAT64:
        return (address, IPv4Address(int(address) & 0xFFFF_FFFF))
    return (address,)


def never_allowed(network: IPNetwork) -> bool:
    """Tell whether all of ``network`` is of one kind that no list opens."""
    for known, kind in _RANGES:
        if network.network_address in known and network.broadcast_address in known:
            return kind in NEVER_ALLOWED
    return False
