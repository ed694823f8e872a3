"""Another registry is read page by page within bounds, and whatever it answers ends in a message."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import pytest

from hx_gateway.registry.official.source import PAGE_BYTES, Bounds, RegistrySource, SourceFailed, SourceRefused, root_of
from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.services.egress.policy import EgressPolicy
from tests.fixtures.foreign_registry import ForeignRegistry, foreign_registry

LOOPBACK = EgressPolicy(
    allow_networks=(ip_network("127.0.0.1/32"),),
    schemes=frozenset({"http", "https"}),
    ports=(range(1024, 65536),),
    max_bytes=PAGE_BYTES,
)
BOUNDS = Bounds(pages=20, bytes=2 * PAGE_BYTES, seconds=30.0)
SINCE = datetime(2026, 11, 25, 12, 4, tzinfo=UTC)


@pytest.fixture
def foreign() -> Iterator[ForeignRegistry]:
    with foreign_registry() as registry:
        for number in range(7):
            registry.put(f"com.example/s{number}")
        yield registry


@pytest.fixture
def source() -> Iterator[RegistrySource]:
    guard = EgressGuard(LOOPBACK)
    yield RegistrySource(guard)
    guard.close()


async def names(source: RegistrySource, address: str, bounds: Bounds = BOUNDS, **more: Any) -> list[str]:
    return [each["server"]["name"] async for page in source.pages(address, bounds, **more) for each in page]


ALL = [f"com.example/s{number}" for number in range(7)]


@pytest.mark.parametrize("path", ["", "/", "/v0.1", "/v0.1/", "/v0.1/servers", "/old"])
async def test_all_pages_are_read_wherever_the_address_points(
    source: RegistrySource, foreign: ForeignRegistry, path: str
) -> None:
    assert await names(source, foreign.url + path) == ALL


async def test_only_what_changed_is_asked_for(source: RegistrySource, foreign: ForeignRegistry) -> None:
    assert await names(source, foreign.url, updated_since=SINCE, latest=True) == ALL[3:]
    assert foreign.asked[0] == {"limit": "100", "version": "latest", "updated_since": "2026-11-25T12:04:00Z"}


async def test_a_registry_whose_cursor_comes_back_is_left_there(
    source: RegistrySource, foreign: ForeignRegistry
) -> None:
    assert await names(source, f"{foreign.url}/repeats") == ALL[:3] * 2
    assert await names(source, f"{foreign.url}/null") == []


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("endless", "more than 20 pages"),
        ("fails", "status 500"),
        ("locked", "status 401"),
        ("page", "no JSON object (invalid_json)"),
        ("list", "no JSON object (not_an_object)"),
        ("deep", "no JSON object (json_too_deep)"),
        ("other", "no list of servers"),
        ("cursor", "cursor"),
        ("large", "more than is read"),
        ("crowded", "more than 2,000 servers"),
        ("old/none", "status 404"),
    ],
)
async def test_a_registry_that_answers_otherwise_is_told_of(
    source: RegistrySource, foreign: ForeignRegistry, mode: str, words: str
) -> None:
    with pytest.raises(SourceFailed) as failed:
        await names(source, f"{foreign.url}/{mode}")
    assert words in failed.value.message
    assert failed.value.param == "source"


async def test_bytes_are_counted_over_all_pages(source: RegistrySource, foreign: ForeignRegistry) -> None:
    with pytest.raises(SourceFailed, match=r"more than 1,000 bytes"):
        await names(source, foreign.url, Bounds(pages=20, bytes=1000, seconds=30.0))


async def test_no_redirect_is_followed_and_no_private_address_dialled(
    source: RegistrySource, foreign: ForeignRegistry
) -> None:
    with pytest.raises(SourceRefused, match="redirects"):
        await names(source, f"{foreign.url}/redirects")
    with pytest.raises(SourceRefused, match="public addresses"):
        await names(source, "http://169.254.169.254:8080/latest")
    with pytest.raises(SourceFailed, match="takes no connection"):
        await names(source, "http://127.0.0.1:1024")


@pytest.mark.parametrize(
    "address",
    ["", "registry.example.com", "ftp://registry.example.com", "https://", "https://a@registry.example.com"]
    + ["https://registry.example.com/?a=1", "https://registry.example.com/#a", "https://[::1"],
)
def test_what_is_no_address_of_a_registry_is_refused(address: str) -> None:
    with pytest.raises(SourceRefused, match=r"^source: must be"):
        root_of(address)


async def test_the_latest_version_of_a_server_is_asked_for(source: RegistrySource, foreign: ForeignRegistry) -> None:
    found = await source.latest(foreign.url, ALL[0])
    assert found is not None
    assert found["server"]["name"] == ALL[0]
    foreign.take_back(ALL[0])
    assert await source.latest(foreign.url, ALL[0]) is None
