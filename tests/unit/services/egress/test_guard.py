from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from aiohttp import AddrInfoType
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.services.egress.addresses import IPAddress
from hx_gateway.services.egress.errors import EgressDenied, EgressError, EgressFailed, EgressReason
from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.services.egress.policy import EgressPolicy
from hx_gateway.services.egress.target import CheckedTarget, new_socket
from hx_gateway.services.egress.url import NETWORK_SCHEMES, TCP_SCHEMES
from tests.fixtures.egress import NAMES, TLS, FixedDns, Spy, dial
from tests.fixtures.egress_corpus import SPELLINGS, Trick

PORT = 8080
OPEN = EgressPolicy(schemes=NETWORK_SCHEMES)
PUBLIC = "93.184.216.34"


def target_of(url: str, *addresses: IPAddress) -> CheckedTarget:
    return CheckedTarget(field_name="url", scheme="http", host="a.example", port=8080, addresses=addresses, url=url)


def guard(dns: FixedDns, spy: Spy | None = None, policy: EgressPolicy = OPEN) -> EgressGuard:
    return EgressGuard(policy, resolver=dns, ssl_context=TLS, socket_factory=spy or Spy())


@pytest.mark.parametrize(("trick", "url"), SPELLINGS, ids=[trick.name for trick, _ in SPELLINGS])
async def test_no_spelling_of_the_corpus_is_allowed(trick: Trick, url: str) -> None:
    with pytest.raises(EgressDenied) as caught:
        await guard(FixedDns(NAMES)).check(url.replace("{port}", str(PORT)), schemes=NETWORK_SCHEMES, field="endpoint")
    assert caught.value.reason in trick.reasons


def test_what_the_system_reads_into_a_spelling_would_be_refused_too() -> None:
    """The second wall: were the host let through, the address that inet_aton(3) makes of it would not be."""
    read = {}
    for _, url in SPELLINGS:
        host = url.partition("://")[2].partition("/")[0].rpartition("@")[2].replace(":{port}", "")
        with suppress(OSError, ValueError):  # the system reads no number there
            read[host] = ip_address(socket.inet_aton(host))
    assert read.keys() >= {"127.1", "0x7f.0x1", "2130706433", "0177.0.0.1", "0"}
    # An octal number may be a public address as well.
    assert {host for host, address in read.items() if OPEN.permits(host, address)} == {PUBLIC, "02130706433"}


def test_the_corpus_is_large_and_says_nothing_twice() -> None:
    assert len({url for _, url in SPELLINGS}) == len(SPELLINGS) >= 200


async def test_a_name_is_looked_up_once_whatever_dns_says_later() -> None:
    dns, spy = FixedDns({"a.example": [PUBLIC]}, {"a.example": ["127.0.0.1"]}), Spy()
    way_out = guard(dns, spy)
    for url in ("http://a.example/", "https://a.example/", "ws://a.example/", "tcp://a.example:8080"):
        dns._answers[:] = [{"a.example": [PUBLIC]}, {"a.example": ["127.0.0.1"]}]
        target = await way_out.check(url, schemes=NETWORK_SCHEMES)
        with pytest.raises(EgressFailed) as caught:
            await dial(way_out, target)
        assert caught.value.reason is EgressReason.CONNECT
    assert dns.asked == ["a.example"] * 4
    assert {host for host, _ in spy.dialled} == {PUBLIC}


async def test_an_address_needs_no_dns() -> None:
    dns = FixedDns(NAMES)
    target = await guard(dns).check(f"http://{PUBLIC}/")
    assert target.addresses == (IPv4Address(PUBLIC),)
    assert dns.asked == []


async def test_every_address_of_a_name_is_kept_and_tried() -> None:
    answers = [PUBLIC, "2606:2800:220:1::1"]
    spy = Spy()
    way_out = guard(FixedDns({"a.example": answers}), spy)
    target = await way_out.check("tcp://a.example:8080", schemes=TCP_SCHEMES)
    with pytest.raises(EgressFailed):
        await dial(way_out, target)
    assert spy.dialled == [(PUBLIC, 8080), ("2606:2800:220:1::1", 8080)]


async def test_an_unknown_name_and_a_private_one_read_the_same() -> None:
    way_out = guard(FixedDns(NAMES))
    told = set()
    for host in ("ten.attacker.test", "unknown.attacker.test", "empty.attacker.test"):
        with pytest.raises(EgressDenied, match=r"^endpoint: its host does not lead .* ask an operator") as caught:
            await way_out.check(f"http://{host}/", field="endpoint")
        told.add((caught.value.message, caught.value.reason in (EgressReason.DNS, EgressReason.ADDRESS)))
    assert len(told) == 1


async def test_a_dns_that_hangs_is_not_waited_for() -> None:
    class Hanging(FixedDns):
        async def resolve(self, host: str) -> Sequence[IPAddress]:
            await asyncio.sleep(60)
            return await super().resolve(host)

    policy = EgressPolicy(connect_seconds=0.01)
    with pytest.raises(EgressDenied) as caught:
        await asyncio.wait_for(guard(Hanging(NAMES), policy=policy).check("https://a.example/"), 5)
    assert (caught.value.reason, caught.value.failure_class) == (EgressReason.DNS, "dns")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://a.example/", EgressReason.SCHEME),
        ("wss://a.example/", EgressReason.SCHEME),
        ("https://a.example:9443/", EgressReason.PORT),
        ("https://a.example:22/", EgressReason.PORT),
    ],
)
async def test_by_default_only_https_on_web_ports_passes(url: str, reason: EgressReason) -> None:
    way_out = guard(FixedDns({"a.example": [PUBLIC]}), policy=EgressPolicy())
    for allowed in ("https://a.example/", "https://a.example:8443/"):
        assert (await way_out.check(allowed)).host == "a.example"
    with pytest.raises(EgressDenied) as caught:
        await way_out.check(url)
    assert caught.value.reason is reason


@pytest.mark.parametrize("url", ["http://10.1.2.3/", "http://[::ffff:10.1.2.3]/", "http://ten.attacker.test/"])
async def test_an_allowed_network_can_be_reached_and_no_other(url: str) -> None:
    spy = Spy()
    policy = EgressPolicy(schemes=NETWORK_SCHEMES, allow_networks=(ip_network("10.0.0.0/8"),))
    way_out = guard(FixedDns(NAMES), spy, policy)
    target = await way_out.check(url)
    with pytest.raises(EgressFailed):
        await dial(way_out, target)
    assert [host for host, _ in spy.dialled] == [str(address) for address in target.addresses]
    for other in ("http://192.168.0.1/", "http://[::ffff:192.168.0.1]/", "http://localhost/", "http://[fd00::1]/"):
        with pytest.raises(EgressDenied):
            await way_out.check(other)


async def test_nothing_unchecked_is_dialled_even_for_a_client_that_reads_the_url_otherwise() -> None:
    spy = Spy()
    way_out = guard(FixedDns(NAMES), spy)
    for url in ("http://127.0.0.1:8080/", "http://[::1]:8080/", "http://a.example:8081/", "http://b.example:8080/"):
        target = target_of(url, IPv4Address(PUBLIC))
        with pytest.raises(EgressFailed):
            await way_out.request(target)
    assert spy.dialled == []


def test_a_socket_is_made_for_a_checked_address_and_port_only() -> None:
    target = target_of("", IPv4Address(PUBLIC), IPv6Address("2606::1"))
    make = target.through(new_socket)
    allowed = target.address_infos()
    for info in allowed:
        make(info).close()
    other: list[AddrInfoType] = [
        (*allowed[0][:4], ("127.0.0.1", 8080)),
        (*allowed[0][:4], (PUBLIC, 8081)),
        (*allowed[1][:4], ("::1", 8080, 0, 0)),
        (*allowed[1][:4], ("2606::1%1", 8080, 0, 1)),
    ]
    for info in other:
        with pytest.raises(PermissionError):
            make(info)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "127.0.0.1"),
        ("Host", "127.0.0.1"),
        ("content-length", "5"),
        ("Transfer-Encoding", "chunked"),
        ("connection", "x"),
        ("x\r\ny", "z"),
        ("x y", "z"),
        ("", "z"),
        ("x", "y\r\nhost: 127.0.0.1"),
        ("x", "y\x00"),
        ("x", "é"),
    ],
)
async def test_a_header_that_changes_the_message_is_refused(name: str, value: str) -> None:
    spy = Spy()
    way_out = guard(FixedDns({"a.example": [PUBLIC]}), spy)
    for url in ("http://a.example/", "ws://a.example/"):
        target = await way_out.check(url, schemes=NETWORK_SCHEMES)
        with pytest.raises(EgressDenied) as caught:
            await dial(way_out, target, {name: value})
        assert caught.value.reason is EgressReason.HEADER
    assert spy.dialled == []


async def test_a_target_does_not_show_its_query() -> None:
    target = await guard(FixedDns({"a.example": [PUBLIC]})).check("http://a.example/?token=secret")
    assert "secret" not in repr(target)


def test_closing_closes_the_resolver() -> None:
    dns = FixedDns(NAMES)
    guard(dns).close()
    assert dns.closed


# Spellings of an address, of which most are refused; what is left must be dialled as it was checked.
def _spell(address: IPAddress, form: int) -> str:
    number = int(address)
    if isinstance(address, IPv4Address):
        octets = [number >> shift & 255 for shift in (24, 16, 8, 0)]
        return [
            str(address),
            str(number),
            hex(number),
            oct(number).replace("o", ""),
            ".".join(map(hex, octets)),
            ".".join(f"0{octet:o}" for octet in octets),
            f"{octets[0]}.{number & 0xFFFFFF}",
            f"{address}.",
            f"[::ffff:{address}]",
            f"[::ffff:{number >> 16:x}:{number & 0xFFFF:x}]",
            f"[64:ff9b::{address}]",
            f"[::{address}]",
            f"[2002:{number >> 16:x}:{number & 0xFFFF:x}::]",
            f"x@{address}",
        ][form % 14]
    return [f"[{address}]", f"[{address.exploded}]", f"[{address.compressed.upper()}]", f"[{address}%251]"][form % 4]


SPECIAL = st.sampled_from(["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fd00::1", PUBLIC, "10.9.8.7"])
ADDRESSES = st.one_of(SPECIAL.map(ip_address), st.ip_addresses())
ANSWERS = st.lists(st.lists(ADDRESSES.map(str), max_size=4), min_size=1, max_size=3)
HOSTS = st.one_of(st.just("a.example"), st.builds(_spell, ADDRESSES, st.integers(0, 13)))


@given(HOSTS, ANSWERS, st.sampled_from(["http", "https", "ws", "wss", "tcp"]), st.booleans())
def test_whatever_the_spelling_what_is_dialled_was_checked(
    host: str, answers: list[list[str]], scheme: str, ten_allowed: bool
) -> None:
    ten = ip_network("10.0.0.0/8")
    policy = EgressPolicy(schemes=NETWORK_SCHEMES, allow_networks=(ten,) if ten_allowed else ())
    dns, spy = FixedDns(*({"a.example": answer} for answer in answers)), Spy()
    way_out = guard(dns, spy, policy)

    async def go() -> None:
        target = await way_out.check(f"{scheme}://{host}:{PORT}", schemes=NETWORK_SCHEMES)
        assert {str(address) for address in target.addresses} == set(answers[0]) or "a.example" not in host
        with pytest.raises(EgressFailed):
            await dial(way_out, target)
        assert {(str(address), PORT) for address in target.addresses} == set(spy.dialled)

    try:
        asyncio.run(go())
    except EgressError:
        assert spy.dialled == []
    assert len(dns.asked) <= 1
    for text, _ in spy.dialled:
        address = ip_address(text)
        inner = getattr(address, "ipv4_mapped", None) or address
        assert inner.is_global or (ten_allowed and inner in ten)
