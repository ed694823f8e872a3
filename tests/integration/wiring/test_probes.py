"""What is said of stores that answer, refuse or are away: real ones."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

import asyncpg
import redis.asyncio
from aiohttp import web

from hx_gateway.wiring.inputs import stores_from
from hx_gateway.wiring.probes import _probe
from tests.fixtures.gateway import free_port
from tests.fixtures.servers import Servers

PASSWORD = "cAnary/1#2?3%4:5@6\"7'8 9\\ü"


async def qdrant(key: str | None) -> tuple[web.AppRunner, str]:
    """Serve the one path of Qdrant's that is asked for."""

    async def collections(request: web.Request) -> web.Response:
        refused = key is not None and request.headers.get("api-key") != key
        return web.json_response({"result": {"collections": []}}, status=403 if refused else 200)

    app = web.Application()
    app.router.add_get("/collections", collections)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner, f"http://127.0.0.1:{port}"


async def test_stores_that_answer_pass_whatever_is_in_their_passwords(servers: Servers) -> None:
    connection = await asyncpg.connect(servers.postgres.url)
    literal = "'" + PASSWORD.replace("'", "''") + "'"
    await connection.execute(f"DROP ROLE IF EXISTS wired; CREATE ROLE wired LOGIN PASSWORD {literal}")
    await connection.close()
    client = redis.asyncio.Redis.from_url(servers.redis.url)
    await client.acl_setuser("wired", enabled=True, passwords=[f"+{PASSWORD}"], categories=["+@all"], reset_keys=True)
    await client.aclose()
    runner, url = await qdrant("made-up-key")
    given = {
        "PG_HOST": "127.0.0.1",
        "PG_PORT": str(servers.postgres.port),
        "PG_DB": "postgres",
        "PG_USER": "wired",
        "PG_PASS": PASSWORD,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(urlsplit(servers.redis.url).port),
        "REDIS_USER": "wired",
        "REDIS_PASS": PASSWORD,
        "QDRANT_URL": url,
    }
    try:
        steps = await _probe(stores_from({**given, "QDRANT_API_KEY": "made-up-key"}))
        assert [(step.name, step.outcome) for step in steps] == [
            ("PostgreSQL", "pass"),
            ("Redis", "pass"),
            ("Qdrant", "pass"),
        ]
        steps = await _probe(stores_from({**given, "REDIS_PASS": "wrong", "PG_USER": "nobody"}))
    finally:
        await runner.cleanup()
    for step in steps:
        assert (step.outcome, "refuses the credentials" in step.remedy) == ("fail", True), step
        assert PASSWORD not in repr(step)
        assert quote(PASSWORD, safe="") not in repr(step)


async def test_stores_that_are_away_are_named_with_where_they_were_looked_for(servers: Servers) -> None:
    port = free_port()
    given = {"PG_HOST": "127.0.0.1", "PG_PORT": str(port), "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port)}
    steps = await _probe(stores_from({**given, "QDRANT_URL": f"http://127.0.0.1:{port}"}))
    assert [step.outcome for step in steps] == ["fail"] * 3
    for step, variable in zip(steps, ("PG_HOST", "REDIS_HOST", "QDRANT_URL"), strict=True):
        assert f"127.0.0.1:{port}" in step.detail
        assert "refused" in step.detail
        assert variable in step.remedy
