"""DB-Guard: admin routes stop while a store is away, model traffic does not."""

from __future__ import annotations

import pytest

from hx_gateway.errors import Unavailable
from hx_gateway.pipeline.stages.db_guard import DbGuardMiddleware
from tests.unit.pipeline.doubles import FixedStore, context

PREFIXES = ("/v1/keys", "/v1/api_keys", "/v1/teams", "/v1/users", "/v1/tenants")


def guard(pg: bool = True, redis: bool = True, *, enabled: bool = True) -> tuple[DbGuardMiddleware, list[FixedStore]]:
    stores = [FixedStore(is_healthy=pg), FixedStore("redis", "Redis", is_healthy=redis)]
    return DbGuardMiddleware(stores[0], stores[1], PREFIXES, enabled=enabled), stores


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("pg", "redis", "named"),
    [(False, True, "PostgreSQL"), (True, False, "Redis"), (False, False, "PostgreSQL, Redis")],
)
async def test_what_failed_is_named_exactly(prefix: str, pg: bool, redis: bool, named: str) -> None:
    with pytest.raises(Unavailable) as caught:
        await guard(pg, redis)[0](context(f"{prefix}/some"))
    assert caught.value.message == f"Gateway dependency unavailable: {named}."
    assert (caught.value.status, caught.value.code) == (503, "dependency_unavailable")
    assert 1 <= int(caught.value.headers["retry-after"]) <= 5


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/keysmith", "/v1/models", "/healthz"])
async def test_other_paths_pass_while_both_stores_are_away(path: str) -> None:
    assert await guard(False, False)[0](context(path)) is None


async def test_healthy_stores_let_everything_through() -> None:
    assert await guard()[0](context("/v1/keys")) is None


async def test_the_guard_can_be_turned_off() -> None:
    assert await guard(False, False, enabled=False)[0](context("/v1/keys")) is None


async def test_a_storm_of_requests_makes_no_probe() -> None:
    guarded, stores = guard(False, False)
    for _ in range(1000):
        with pytest.raises(Unavailable):
            await guarded(context("/v1/keys"))
    assert [store.probes for store in stores] == [0, 0]
