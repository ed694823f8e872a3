"""Paths, hosts and targets written so that a check and what comes behind it might read them differently."""

from __future__ import annotations

import pytest

from tests.acceptance.people import SCOPES, somewhere
from tests.acceptance.security.attacks import Decision, decision_of, variants_of
from tests.acceptance.security.conftest import Site
from tests.fixtures.gateway import exchange

LEAST_VARIANTS = 100
REFUSED_AT_THE_DOOR = frozenset({400, 404})
ELSEWHERE = "198.51.100.7"


def decided(site: Site, method: str, target: str, key: str, *, host: str = "gateway", more: str = "") -> Decision:
    """Return what becomes of a request that is sent byte for byte, from an address that is not this machine's."""
    authorization = f"authorization: Bearer {key}\r\n" if key else ""
    source = f"x-forwarded-for: {ELSEWHERE if key else somewhere()['x-forwarded-for']}\r\n"
    body = "content-type: application/json\r\ncontent-length: 2\r\n" if method in ("POST", "PATCH") else ""
    head = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{source}{authorization}{body}{more}\r\n"
    data = head.encode("utf-8", "surrogateescape") + (b"{}" if body else b"")
    return decision_of(exchange(site.gateway.port, data))


def guarded(site: Site) -> list[tuple[str, str]]:
    """Return what is not for a member's key, with a method for each."""
    world = site.world
    return [
        ("GET", "/v1/keys"),
        ("GET", "/v1/audit"),
        ("PATCH", f"/v1/teams/{world.team}"),
        ("GET", "/v1/prices"),
        ("GET", "/api/v1/observability/dead_letters"),
        ("GET", "/metrics"),
        ("GET", "/health"),
    ]


def test_no_way_to_write_a_path_gets_around_its_policy(site: Site) -> None:
    member, tried, let_through = site.world.keys["member"], 0, []
    for method, path in guarded(site):
        canonical = {key: decided(site, method, path, key) for key in (member, "")}
        assert {decision.status for decision in canonical.values()} == {401, 403}, path
        for variant in variants_of(path):
            for key, expected in canonical.items():
                found = decided(site, method, variant, key)
                tried += 1
                if found.status != expected.status and found.status not in REFUSED_AT_THE_DOOR:
                    let_through.append((method, variant, "with a key" if key else "without", found))
    assert let_through == []
    assert tried >= LEAST_VARIANTS * 2 * len(guarded(site))


def test_a_key_confined_to_routes_takes_no_other_however_it_is_written(site: Site) -> None:
    secret = site.people.key(allowed_routes=["/v1/chat/*"])["key"]
    site.gateway.wait_until(lambda: site.people.ask("GET", "/v1/embeddings", key=secret).status != 401)
    assert decided(site, "POST", "/v1/embeddings", secret) == Decision(403, "route_not_allowed")
    for variant in [*variants_of("/v1/embeddings"), *variants_of("/v1/chat/../embeddings")]:
        found = decided(site, "POST", variant, secret)
        assert found.status in (403, *REFUSED_AT_THE_DOOR), (variant, found)


@pytest.mark.parametrize("method", ["get", "Get", "GETT", "TRACE", "CONNECT", "PROPFIND", "HEAD", "OPTIONS"])
def test_no_method_gets_around_a_policy(site: Site, method: str) -> None:
    for key in (site.world.keys["member"], ""):
        found = decided(site, method, "/v1/keys", key)
        assert found.is_refusal, (method, found)


@pytest.mark.parametrize(
    "header",
    [
        "x-http-method-override: GET",
        "x-original-url: /healthz",
        "x-rewrite-url: /healthz",
        "x-forwarded-prefix: /healthz/..",
        "x-forwarded-host: localhost",
        "x-forwarded-for: 127.0.0.1",
        "x-real-ip: 127.0.0.1",
        "forwarded: for=127.0.0.1",
        "x-hx-role: platform_admin",
    ],
)
def test_no_header_names_another_path_place_or_role(site: Site, header: str) -> None:
    member = site.world.keys["member"]
    for _, path in guarded(site):
        method = "PATCH" if "/teams/" in path else "GET"
        assert decided(site, method, path, member, more=f"{header}\r\n").status == 403, (path, header)
        assert decided(site, method, path, "", more=f"{header}\r\n").status == 401, (path, header)


HOSTS = (
    *("gateway/healthz?", "gateway#", "gateway?", "gateway/", "a b", "@gateway", "x@gateway", "gateway\\", "[::1", ""),
    *("gateway:port", "gateway:99999999", "gateway,other", "gateway\t", "..", "%00", "localhost", "127.0.0.1:1"),
)


@pytest.mark.parametrize("host", HOSTS)
def test_no_host_changes_what_is_decided(site: Site, host: str) -> None:
    for key, expected in ((site.world.keys["member"], 403), ("", 401)):
        for path in ("/v1/keys", "/metrics"):
            found = decided(site, "GET", path, key, host=host)
            assert found.status in (400, expected), (host, path, found)


def test_the_absolute_form_is_decided_by_its_path(site: Site) -> None:
    member = site.world.keys["member"]
    for target in (
        "http://gateway/v1/keys",
        "HTTP://gateway/v1/keys",
        "http://gateway/v1/keys?/healthz",
        "http://gateway//v1/keys",
        "http://gateway/healthz/../v1/keys",
        "http://gateway",
        "http://other/v1/keys",
        "http://gateway@other/v1/keys",
        "http://other#@gateway/v1/keys",
        "http:///v1/keys",
        "file:///v1/keys",
        "https:/v1/keys",
        "*",
        "gateway:80",
    ):
        for key, expected in ((member, 403), ("", 401)):
            found = decided(site, "GET", target, key)
            # The root itself is for anyone.
            allowed = {200, *REFUSED_AT_THE_DOOR} if target == "http://gateway" else {expected, *REFUSED_AT_THE_DOOR}
            assert found.status in allowed, (target, found)


def test_health_details_and_metrics_are_not_for_who_only_says_it_is_here(site: Site) -> None:
    for path in ("/health", "/health/db", "/metrics"):
        for source in ("127.0.0.1", "::1", "localhost", "127.0.0.1, 127.0.0.1", "unknown", ""):
            answer = site.people.ask("GET", path, key="", headers={"x-forwarded-for": source or " "})
            assert answer.status == 401, (path, source)


def test_every_scope_of_a_key_leaves_the_admin_routes_closed(site: Site) -> None:
    secret = site.people.key(scopes=[*SCOPES, "passthrough"])["key"]
    site.people.until(secret, let_in=True)
    for method, path in guarded(site):
        assert decided(site, method, path, secret).status in (403, 404), path
