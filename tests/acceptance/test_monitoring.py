"""Dashboards and alerts over metrics that a real Prometheus scrapes from a real gateway, which had a bad day."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.acceptance.people import SCOPES, People, living
from tests.contract.doc_pages import DOCS, blocks
from tests.fixtures.foreign_registry import foreign_registry
from tests.fixtures.gateway import Answer, free_port
from tests.fixtures.monitoring import alerts, panels, recorded, selectors
from tests.fixtures.prometheus import Prometheus, needs_prometheus, running_prometheus
from tests.fixtures.servers import SERVERS, Servers, running_servers
from tests.fixtures.zoo import Zoo

pytestmark = needs_prometheus

MOST_CONNECTIONS = 40
# What Grafana would put there: over all gateways, and over the minute that the test has lasted.
VARIABLES = {"$instance": ".*", "$__rate_interval": "1m", "$__range": "1m"}
# These take a disk that is full.
NOT_BROUGHT_ABOUT = {"hx_events_dropped_total", "hx_events_rejected_total"}
MODEL = """
  - model_name: {name}
    litellm_params: {{model: openai/{name}, api_base: "{base}", api_key: sk-made-up}}
"""


@dataclass
class Watched:
    """A gateway, who asks it, its stores, and who watches it."""

    people: People
    servers: Servers
    prometheus: Prometheus

    def chat(self, text: str, *, key: str | None = None, cache: str = "", **fields: Any) -> Answer:
        body = {"model": "hx-chat", "messages": [{"role": "user", "content": text}], "max_tokens": 16, **fields}
        return self.people.ask("POST", "/v1/chat/completions", body, key=key, headers={"x-hx-cache": cache})

    def sees(self, expr: str) -> bool:
        """Return whether Prometheus has series of an expression by now."""
        return bool(self.prometheus.query(expr))

    def until(self, expr: str) -> None:
        """Return once it has."""
        self.prometheus.wait_until(lambda: self.sees(expr))


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def _models(folder: Path, zoo: Zoo) -> Path:
    bases = {
        "fine": f"{zoo.url}/ok/v1",
        "refused": f"{zoo.url}/status_401/v1",
        "limited": f"{zoo.url}/status_429/v1",
        "away": "http://127.0.0.1:1/v1",
    }
    path = folder / "models.yaml"
    path.write_text("model_list:" + "".join(MODEL.format(name=name, base=base) for name, base in bases.items()))
    return path


def _settings(folder: Path, zoo: Zoo, registry: str) -> dict[str, str]:
    return {
        "HX_MODEL_CONFIG": str(_models(folder, zoo)),
        "HX_DEMO": "true",
        "WRAPPER_PORT": str(free_port()),
        "HX_CACHE": "exact",
        "HX_CACHE_EMBEDDING_MODEL": "emb-premium",
        "HX_EGRESS_ALLOW": "127.0.0.1/32",
        "HX_EGRESS_SCHEMES": "http,https,tcp",
        "HX_REGISTRY_SYNC": f"default={registry}",
        "HX_EVENT_BATCH_MS": "50",
        "HX_MAX_CONNECTIONS": str(MOST_CONNECTIONS),
    }


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, zoo_beside: Zoo) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("monitoring")
    with ExitStack() as stack:
        registry = stack.enter_context(foreign_registry())
        registry.put("org.example/mail")
        servers = stack.enter_context(running_servers(SERVERS[0]))
        asyncio.run(_execute(servers.postgres.url, "CREATE EXTENSION vector"))
        settings = _settings(folder, zoo_beside, registry.url)
        prometheus = stack.enter_context(running_prometheus(int(settings["WRAPPER_PORT"]), folder))
        people = stack.enter_context(living(servers, settings))
        made = Watched(people, servers, prometheus)
        made.until('up{job="hx-gateway"} == 1')
        _use_the_registry(made)
        _call_models(made)
        _use_the_record(made)
        _lose_both_stores(made)
        _crowd_the_gateway(made)
        made.until("hx_edge_refusals_total")
        yield made


def _call_models(watched: Watched) -> None:
    """Answers, whole and as streams, from models and from the cache, that cost something; and all kinds of failures."""
    people = watched.people
    budgets = [{"limit_usd": 0.001, "soft_usd": 0.00002, "period": "day"}]
    key = people.key(budgets=budgets)["key"]
    people.until(key, let_in=True)
    people.gateway.wait_until(lambda: '"meaning_cache_ready"' in people.gateway.log())
    for cache in ("", "", "meaning"):
        assert watched.chat("How do I reset it?", key=key, cache=cache).status == 200
    assert watched.chat("how do I reset it", key=key, cache="meaning").status == 200
    assert watched.chat("Tell me", key=key, stream=True).status == 200
    assert watched.chat("Too much", key=key, max_tokens=100_000).status == 429
    assert people.ask("POST", "/v1/embeddings", {"model": "emb-premium", "input": ["one", "two"]}).status == 200
    assert watched.chat("hello", model="nobody-has-it").status == 404
    assert people.ask("GET", "/v1/models", key="sk-hx-nobody-has-this-one").status == 401
    assert watched.chat("hello", model="fine", stream=True).status == 200
    statuses = {name: watched.chat("hello", model=name).status for name in ("refused", "limited", "away")}
    assert statuses == {"refused": 502, "limited": 429, "away": 502}


def _use_the_record(watched: Watched) -> None:
    """Events that are stored, and one that the database refuses."""
    refuse = "CHECK (event_type <> 'REFUSED') NOT VALID"
    table = "agent_observability.trace_events"
    asyncio.run(_execute(watched.servers.postgres.url, f"ALTER TABLE {table} ADD CONSTRAINT refusing {refuse}"))
    events = [{"trace_id": "t", "event_type": kind} for kind in ("STARTED", "ENDED", "REFUSED")]
    prefix = "/api/v1/observability"
    assert watched.people.ask("POST", f"{prefix}/events", {"events": events}).status == 200
    assert watched.people.ask("GET", f"{prefix}/trace_events").status == 200
    watched.until("hx_events_dead_lettered_total > 0")


def _use_the_registry(watched: Watched) -> None:
    """A required service that is there and then is not, and a read that finds nothing."""
    people = watched.people
    prefix = "/api/v1/registry/services"
    key = people.key(scopes=SCOPES, tenant_id="default")["key"]
    people.until(key, let_in=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        body = {"name": "mail", "protocol": "tcp", "endpoint": endpoint, "is_required": True, "priority": "critical"}
        assert people.ask("POST", prefix, body, key=key).status == 201
        assert people.done("POST", f"{prefix}/mail/check", key=key)["status"] == "healthy"
    for _ in range(3):
        found = people.done("POST", f"{prefix}/mail/check", key=key)
    assert found["status"] == "unhealthy"
    assert people.ask("GET", f"{prefix}/nobody", key=key).status == 404


def _lose_both_stores(watched: Watched) -> None:
    """Lose Redis and PostgreSQL until both were noticed, and give them back."""
    redis, postgres = watched.servers.redis, watched.servers.postgres
    # Nobody has used it, so that somebody has to be asked about it.
    unused = watched.people.key()["key"]
    redis.kill()
    postgres.kill()
    # Neither of the two caches can say.
    watched.people.gateway.wait_until(
        lambda: watched.chat(uuid4().hex, cache="meaning").header("x-hx-cache") == "bypass"
    )
    watched.people.gateway.wait_until(lambda: watched.people.ask("GET", "/v1/models", key=unused).status == 503)
    for name in ("HxRedisDown", "HxPostgresDown"):
        watched.until(f'ALERTS{{alertname="{name}", alertstate="pending"}}')
    redis.start()
    postgres.start()
    watched.until("min(hx_dependency_up) == 1")


def _crowd_the_gateway(watched: Watched) -> None:
    """More connections than it takes."""
    with ExitStack() as stack:
        address = ("127.0.0.1", watched.people.gateway.port)
        opened = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(MOST_CONNECTIONS + 1)]
        assert opened[-1].recv(12) == b"HTTP/1.1 503"


def _substituted(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr


def test_every_panel_shows_something(watched: Watched) -> None:
    watched.until('hx_registry_required_services{status="unhealthy"} > 0')
    empty = [panel for panel in panels() if not watched.sees(_substituted(panel[2]))]
    assert empty == []


def test_every_alert_looks_at_series_that_there_are(watched: Watched) -> None:
    asked = {selector for alert in alerts().values() for selector in selectors(alert["expr"])}
    missing = {each for each in asked if not watched.sees(each.metric + each.matchers)}
    assert {each.metric for each in missing} == NOT_BROUGHT_ABOUT
    assert {name for name in recorded() if not watched.sees(name)} == set()


def test_prometheus_understands_every_query_of_a_runbook(watched: Watched) -> None:
    texts = [path.read_text() for path in (DOCS / "runbooks").glob("Hx*.md")]
    queries = {
        line for text in texts for block in blocks(text) if not block.language for line in block.text.splitlines()
    }
    assert len(queries) > len(texts)
    for query in queries:
        watched.prometheus.query(query)


def test_prometheus_evaluates_every_rule(watched: Watched) -> None:
    groups = watched.prometheus.get("rules")["groups"]
    states = {rule["name"]: (rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]}
    assert states == dict.fromkeys(alerts().keys() | recorded(), ("ok", ""))


def test_what_went_wrong_fires_and_says_what(watched: Watched) -> None:
    firing = {
        alert["labels"]["alertname"]: alert
        for alert in watched.prometheus.get("alerts")["alerts"]
        if alert["state"] == "firing"
    }
    expected = {"HxEventsDeadLettered", "HxBudgetNearLimit", "HxUpstreamCredentialRefused", "HxConnectionsRefused"}
    assert firing.keys() >= expected
    told = json.dumps([alert["annotations"] for alert in firing.values()])
    assert re.search(r"refused\S* refuses the credential", told), told
    assert "with 23514" in told
    assert not re.search(r"no value|error calling|\{\{", told)


def test_the_key_of_prometheus_reads_metrics_from_afar_and_nothing_else(watched: Watched) -> None:
    key = watched.people.made("keys", admin_role="platform_admin", allowed_routes=["/metrics"])["key"]
    afar = {"x-forwarded-for": "192.0.2.7"}
    watched.people.gateway.wait_until(
        lambda: watched.people.ask("GET", "/metrics", key=key, headers=afar).status == 200, 15
    )
    assert watched.people.ask("GET", "/metrics", key="", headers=afar).status == 401
    assert watched.people.ask("GET", "/v1/keys", key=key, headers=afar).status == 403


def test_what_is_well_does_not_fire(watched: Watched) -> None:
    names = {alert["labels"]["alertname"] for alert in watched.prometheus.get("alerts")["alerts"]}
    well = {"HxGatewayDown", "HxJournalFull", "HxJournalPaused", "HxJournalDamaged", "HxEventsLost", "HxProberBehind"}
    assert names & well == set()
