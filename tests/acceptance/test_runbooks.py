"""The procedures of the runbooks do what they say, with two gateways, a PostgreSQL and a Redis."""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from hx_gateway.access.peppers import use_pepper
from hx_gateway.services.embedded.account import server_account
from hx_gateway.services.embedded.postgres import find_binaries
from tests.acceptance.people import People
from tests.acceptance.terminal import Shell, answers, filled
from tests.acceptance.test_key_import import INSERT, ROWS, TABLE, TEXTS, fetch, sha256
from tests.contract.doc_pages import example, read
from tests.fixtures.gateway import Gateway
from tests.fixtures.servers import Servers

# What is typed does not depend on the stores' versions.
pytestmark = pytest.mark.parametrize("servers", ["postgres18-valkey"], indirect=True, scope="module")
HEALTH = "/api/v1/observability/health"
EVENT = {"trace_id": "made-up", "event_type": "AGENT_START", "agent_name": "made-up", "message": "Started"}


@dataclass
class Host:
    """A gateway that keeps its admin key in its data directory, and the database it has."""

    people: People
    environ: dict[str, str]
    database: str

    def restart(self) -> None:
        """Do what ``systemctl restart`` does."""
        self.people.gateway.stop()
        self.people.gateway.start()
        self.read_key()

    def read_key(self) -> None:
        gateway = self.people.gateway
        gateway.key = (gateway.data_dir / "admin.key").read_text().strip()

    def revision(self, name: str) -> None:
        """Say that the database is at another revision."""
        asyncio.run(fetch(self.database, "UPDATE hx_gateway.alembic_version SET version_num = $1", name))


@pytest.fixture(scope="module")
def host(servers: Servers) -> Iterator[Host]:
    stores = {"PG_URL": servers.postgres.ordinary_url(), "REDIS_URL": servers.redis.url, "QDRANT_URL": "none"}
    environ = {**stores, "HX_TRUSTED_PROXIES": "127.0.0.1", "HX_EVENT_BATCH_MS": "50"}
    with tempfile.TemporaryDirectory(prefix="hxgw-") as directory:
        gateway = Gateway(environ, Path(directory))
        del gateway.environ["HX_ADMIN_KEY"]
        gateway.start()
        there = Host(People(gateway), environ, servers.postgres.url)
        there.read_key()
        try:
            gateway.wait_until(lambda: there.people.ask("GET", "/v1/keys").status == 200)
            yield there
        finally:
            gateway.stop()


@pytest.fixture
def terminal(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Return a shell beside the data directory, with PostgreSQL's programs and the gateway's settings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".data").symlink_to(host.people.gateway.data_dir)
    monkeypatch.setenv("PATH", f"{find_binaries(server_account())}:{os.environ['PATH']}")
    monkeypatch.setenv("PG_URL", host.environ["PG_URL"])
    monkeypatch.setenv("REDIS_URL", host.environ["REDIS_URL"])
    return Shell(host.people, tmp_path)


def typed(terminal: Shell, page: str, name: str, **marks: str) -> str:
    """Type an example of a page; return what it prints."""
    return "\n".join(terminal.type(filled(example(read(f"runbooks/{page}.md"), name), {**marks})))


def test_a_programs_key_gets_a_new_secret_beside_the_old_one(host: Host, terminal: Shell) -> None:
    made = host.people.key()
    new = typed(terminal, "rotate-keys", "rotate grace", madeUpKeyId1=made["id"]).strip()
    host.people.until(new, let_in=True)
    assert host.people.is_let_in(made["key"])
    assert host.people.done("GET", f"/v1/keys/{made['id']}")["rotates_until"] is not None
    newest = typed(terminal, "rotate-keys", "rotate grace", madeUpKeyId1=made["id"]).strip()
    host.people.until(made["key"], let_in=False)
    assert host.people.is_let_in(new)
    assert host.people.is_let_in(newest)


def test_a_key_that_was_seen_is_ended_and_looked_through(host: Host, terminal: Shell) -> None:
    made = host.people.key()
    host.people.until(made["key"], let_in=True)
    told = typed(terminal, "rotate-keys", "rotate leaked", madeUpKeyId1=made["id"])
    new = re.search(r"^sk-hx-\S+$", told, re.MULTILINE)
    assert new is not None
    assert "block" in told
    host.people.until(new[0], let_in=True)
    host.people.until(made["key"], let_in=False)


def test_another_admin_key_is_made_and_the_one_before_ends(host: Host, terminal: Shell) -> None:
    gateway, other = host.people.gateway, host.people.key(admin_role="platform_admin")
    before = gateway.key
    typed(terminal, "rotate-keys", "rotate admin")
    host.restart()
    assert gateway.key != before
    gateway.wait_until(lambda: host.people.ask("GET", "/v1/keys", key=other["key"]).status == 200)
    assert typed(terminal, "rotate-keys", "rotate admin prove").split() == ["200", "401"]


def test_keys_go_over_to_another_pepper_when_they_are_used_and_the_log_stays_whole(host: Host, terminal: Shell) -> None:
    file = host.people.gateway.data_dir / "peppers.json"
    used, unused = host.people.key(), host.people.key()
    old = json.loads(file.read_text())["current"]
    new = typed(terminal, "rotate-pepper", "pepper add").strip()
    typed(terminal, "rotate-pepper", "pepper use")
    host.restart()
    for made in (used, unused):
        stored = "SELECT pepper_id FROM hx_gateway.api_keys WHERE id = $1"
        assert asyncio.run(fetch(host.database, stored, made["id"]))[0][0] == old
    host.people.until(used["key"], let_in=True)
    host.people.gateway.wait_until(lambda: f"{new}|1\n" in typed(terminal, "rotate-pepper", "pepper prove"))
    told = typed(terminal, "rotate-pepper", "pepper prove")
    assert 'hx_key_checks_total{outcome="renewed"} 1.0' in told
    assert f"\n{old}|" in told
    use_pepper(file, old)
    host.restart()
    for made in (used, unused):
        host.people.until(made["key"], let_in=True)
    assert host.people.done("GET", "/v1/audit/check")["broken_at"] is None


def test_two_hosts_know_each_others_keys_and_count_together(
    host: Host, terminal: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("POOL_SIZE", "2"), ("POOL_OVERFLOW", "0"), ("PG_MAX_CONNECTIONS", "2")):
        monkeypatch.setenv(name, value)
    assert re.search(r"pools: 2 x \d+ = \d+ of 40", typed(terminal, "scale-out", "scale doctor"))
    (tmp_path / "second").mkdir()
    shared = {
        "HX_PEPPER_FILE": str(host.people.gateway.data_dir / "peppers.json"),
        "HX_ADMIN_KEY": host.people.gateway.key,
    }
    second = Gateway({**host.environ, **shared}, tmp_path / "second").start()
    try:
        second.wait_until(lambda: second.get("/v1/keys", key=second.key).status == 200)
        ports = {"4010": str(host.people.gateway.port), "4011": str(second.port)}
        assert typed(terminal, "scale-out", "scale prove", **ports).split() == ["200", "200", "429"]
        assert "waiting" in typed(terminal, "scale-out", "scale leave", **ports)
    finally:
        second.stop()


def test_an_upgrade_is_proved_and_a_gateway_from_before_it_goes_on(host: Host, terminal: Shell) -> None:
    gateway, ask = host.people.gateway, host.people.ask
    told = typed(terminal, "upgrade", "upgrade prove")
    assert "0 failed" in told
    (revision,) = set(re.findall(r"^(?:database|newest) +(\w+)$", told, re.MULTILINE))
    host.revision("9999")
    try:
        assert host.people.key()["key"]
        assert ask("POST", "/api/v1/observability/events", {"events": [EVENT]}).json()["accepted"] == 1
        gateway.wait_until(lambda: ask("GET", HEALTH).json()["waiting"] == 0)
        assert ask("GET", HEALTH).json()["reasons"] == []
    finally:
        host.revision(revision)


def test_clients_of_litellm_come_over_with_their_keys(
    host: Host, terminal: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(fetch(host.database, "CREATE DATABASE litellm_before"))
    source = urlunsplit(urlsplit(host.database)._replace(path="/litellm_before"))
    asyncio.run(fetch(source, TABLE))
    for name, row in ROWS.items():
        asyncio.run(fetch(source, INSERT, sha256(name), f"sk-...{TEXTS[name][-4:]}", name, *row))
    asyncio.run(fetch(source, """CREATE TABLE "LiteLLM_SpendLogs" (request_id text, spend double precision)"""))
    monkeypatch.setenv("DATABASE_URL", source)
    monkeypatch.setenv("OLD_KEY", TEXTS["search"])
    typed(terminal, "from-litellm", "litellm teams")
    (team,) = host.people.done("GET", "/v1/teams?name=Search")["data"]
    assert "3 to take over, 1 left out" in typed(terminal, "from-litellm", "litellm plan")
    assert "3 new" in typed(terminal, "from-litellm", "litellm import", **{"tm-…": team["id"]})
    (key,) = host.people.done("GET", f"/v1/keys?team_id={team['id']}")["data"]
    typed(terminal, "from-litellm", "litellm budget", madeUpKeyId1=key["id"])
    assert typed(terminal, "from-litellm", "litellm spend").strip() == "COPY 0"
    models, answer, *_ = answers(re.sub(r"\}\n?[^{}]*$", "}", typed(terminal, "from-litellm", "litellm prove")))
    assert {model["id"] for model in models["data"]} == {"hx-chat", "emb-premium"}
    assert answer["choices"][0]["message"]["content"] == "HX-OK"


def test_models_are_served_while_the_database_is_away_and_it_is_taken_up_again(
    host: Host, terminal: Shell, servers: Servers
) -> None:
    health, _models, embedding, chat = answers(typed(terminal, "classic-checks", "checks calls"))
    assert (health, len(embedding["data"][0]["embedding"])) == ({"status": "ok"}, 384)
    assert chat["choices"][0]["message"]["content"] == "HX-OK"
    there, figures = answers(typed(terminal, "classic-checks", "checks deps"))
    assert there == {"postgres": True, "redis": True, "qdrant": True}
    assert figures["db"]["status"] == "healthy"
    gateway = host.people.gateway
    servers.postgres.kill()
    try:
        gateway.wait_until(lambda: not gateway.get("/healthz/deps").json()["postgres"])
        deps, refused, *statuses = answers(typed(terminal, "classic-checks", "checks away"))
    finally:
        servers.postgres.start()
    assert (deps["postgres"], deps["redis"]) == (False, True)
    assert refused["error"]["message"] == "Gateway dependency unavailable: PostgreSQL."
    assert refused["error"]["code"] == "dependency_unavailable"
    assert statuses == [200, 200]
    gateway.wait_until(lambda: bool(gateway.get("/healthz/deps").json()["postgres"]))
    gateway.wait_until(lambda: host.people.ask("GET", HEALTH).json()["waiting"] == 0)
    told = typed(terminal, "classic-checks", "checks back")
    assert answers(told.partition("\n")[0])[0]["postgres"] is True
