"""A gateway lives on what ``db bootstrap`` makes: its role in PostgreSQL, its user in Redis, and no right beside."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from dotenv import dotenv_values
from typer.testing import CliRunner

from hx_gateway.cli.db import app
from hx_gateway.migrations.runner import current, head
from tests.acceptance.people import UNPROBED, People
from tests.fixtures.gateway import Gateway
from tests.fixtures.servers import Servers

QUESTION = {"model": "hx-chat", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}


@dataclass
class Made:
    """What was made for a gateway, and the gateway."""

    people: People
    urls: dict[str, str | None]
    redis: Any

    def refusals(self) -> list[Any]:
        """Return what Redis refused to anybody; the scripts' own calls are among it."""
        found: list[Any] = self.redis.acl_log()
        return found


@pytest.fixture(scope="module")
def made(servers: Servers) -> Iterator[Made]:
    with tempfile.TemporaryDirectory(prefix="hxgw-") as directory:
        out = Path(directory) / "stores.env"
        given = {"PG_ADMIN_URL": servers.postgres.url, "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(servers.redis.port)}
        done = CliRunner().invoke(app, ["bootstrap", "--out", str(out)], env=given)
        assert done.exit_code == 0, done.output
        (line,) = (line for line in done.output.splitlines() if line.startswith("user "))
        admin: Any = redis.Redis.from_url(servers.redis.url, decode_responses=True)
        admin.execute_command("ACL", "SETUSER", *line.split()[1:])
        admin.acl_log_reset()
        environ = {"HX_ENV_FILE": str(out), "QDRANT_URL": "none", "HX_EMBEDDED": "off", **UNPROBED}
        gateway = Gateway(environ, Path(directory)).start()
        gateway.wait_until(lambda: gateway.get("/v1/keys", key=gateway.key).status == 200)
        yield Made(People(gateway), dotenv_values(out, interpolate=False), admin)
        gateway.stop()
        admin.close()


def test_it_migrated_as_its_own_role(made: Made) -> None:
    assert asyncio.run(current(str(made.urls["PG_URL"]))) == head()
    deps = made.people.ask("GET", "/healthz/deps", key="").json()
    assert deps == {"postgres": True, "redis": True, "qdrant": True}


def test_all_that_is_kept_in_redis_works_with_these_rights(made: Made) -> None:
    people = made.people
    key = people.key(
        limits={"rpm": 50, "tpm": 100_000, "max_parallel": 5}, budgets=[{"limit_usd": 10, "period": "day"}]
    )
    cached = people.key(cache={"mode": "exact"})
    for secret in (key["key"], cached["key"], cached["key"]):
        answer = people.ask("POST", "/v1/chat/completions", QUESTION, key=secret)
        assert answer.status == 200, answer.body
    assert people.done("DELETE", "/v1/cache?tenant_id=default")["purged"] == 1
    people.ask("POST", "/api/v1/registry/services", {"name": "made-up", "endpoint": "http://127.0.0.1:9"})
    for _ in range(2):
        assert people.ask("GET", "/api/v1/registry/services").status == 200
    people.done("POST", f"/v1/keys/{key['id']}/block")
    people.until(key["key"], let_in=False)
    names = set(made.redis.keys("*"))
    assert any(name.endswith(":money") for name in names)
    assert "hx:instances" in names
    assert all(name.startswith("hx:") for name in names)
    assert made.refusals() == []


def test_smoke_passes(made: Made) -> None:
    gateway = made.people.gateway
    command = [sys.executable, "-m", "hx_gateway", "smoke", "--url", gateway.url, "--json"]
    done = subprocess.run(command, env=gateway.environ, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()
    assert {check["outcome"] for check in json.loads(done.stdout)["checks"]} == {"pass"}
    assert made.refusals() == []


def test_doctor_finds_nothing_wrong_with_the_role_and_the_user(made: Made) -> None:
    command = [sys.executable, "-m", "hx_gateway", "doctor", "--json"]
    done = subprocess.run(command, env=made.people.gateway.environ, capture_output=True, check=False)
    findings = json.loads(done.stdout)["findings"]
    stores = [one for one in findings if one["subject"].startswith(("PostgreSQL", "Redis"))]
    assert len(stores) > 2
    assert [one for one in stores if one["state"] == "problem"] == []
    assert made.refusals() == []
