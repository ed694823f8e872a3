"""Two gateways over the same stores, with secrets in every setting that takes one, shared by all tests here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.acceptance.people import People, World, populate
from tests.acceptance.security.attacks import ISSUED, Parrot
from tests.fixtures.gateway import Answer, Gateway
from tests.fixtures.servers import SERVERS, Servers, running_servers

# One for each place that a secret is put: what is found somewhere says where it came from.
STORE_PASSWORDS = ("canary-of-postgres-4c1d", "canary-of-redis-77aa")
UPSTREAM_SECRETS = ("sk-canary-of-upstream-5e0f", "canary-of-upstream-header-9d1b")
WEBHOOK_SECRETS = ("canary-of-webhook-signing-31fe", "canary-of-webhook-url-08c2")
PARROTS = ("200", "400", "401", "404", "422", "429", "500", "503", "cut", "garbage")


@dataclass
class Recorded(People):
    """People who remember every secret that the gateway ever gave them."""

    secrets: set[str] = field(default_factory=set)

    def ask(self, method: str, path: str, body: object = None, *, key: str | None = None, **more: Any) -> Answer:
        answer = super().ask(method, path, body, key=key, **more)
        self.secrets |= {found.decode() for found in ISSUED.findall(answer.body)}
        return answer


@dataclass
class Site:
    """Two gateways, what they share, and who comes. ``postgres_url`` is for who looks at everything: a superuser."""

    people: Recorded
    second: Gateway
    servers: Servers
    postgres_url: str
    redis_url: str
    parrot: Parrot
    world: World

    @property
    def gateway(self) -> Gateway:
        return self.people.gateway

    @property
    def gateways(self) -> tuple[Gateway, Gateway]:
        return self.people.gateway, self.second


@pytest.fixture(scope="package")
def servers() -> Iterator[Servers]:
    """Run the newest stores: what is attacked here does not differ with their version."""
    with running_servers(SERVERS[0]) as servers:
        with redis.Redis.from_url(servers.redis.url) as client:
            client.config_set("requirepass", STORE_PASSWORDS[1])
        yield servers


@pytest.fixture(scope="package")
def site(servers: Servers) -> Iterator[Site]:
    with ExitStack() as stack:
        parrot = stack.enter_context(Parrot())
        homes = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hxgw-"))) for _ in range(3)]
        models = homes[2] / "models.yaml"
        models.write_text(model_config(parrot.port))
        environ = {
            "PG_URL": servers.postgres.ordinary_url().replace("@", f":{STORE_PASSWORDS[0]}@"),
            "REDIS_URL": servers.redis.url.replace("://", f"://:{STORE_PASSWORDS[1]}@"),
            "QDRANT_URL": "none",
            "HX_TRUSTED_PROXIES": "127.0.0.1",
            "HX_MODEL_CONFIG": str(models),
            "HX_DEMO": "true",
            "HX_BUDGET_WEBHOOK_URL": f"http://127.0.0.1:{parrot.port}/hook?token={WEBHOOK_SECRETS[1]}",
            "HX_BUDGET_WEBHOOK_SECRET": WEBHOOK_SECRETS[0],
            "HX_EVENT_BATCH_MS": "50",
        }
        first = Gateway(environ, homes[0]).start()
        stack.callback(first.stop)
        # It forwards what it does not know to the parrot.
        behind = {"LITELLM_BASE_URL": f"http://127.0.0.1:{parrot.port}", "LITELLM_API_KEY": UPSTREAM_SECRETS[0]}
        second = Gateway({**environ, **behind, "HX_PEPPER_FILE": str(homes[0] / "peppers.json")}, homes[1]).start()
        stack.callback(second.stop)
        people = Recorded(first)
        first.wait_until(lambda: {each.get("/v1/keys", key=first.key).status for each in (first, second)} == {200})
        yield Site(people, second, servers, servers.postgres.url, environ["REDIS_URL"], parrot, populate(people))


def model_config(port: int) -> str:
    """Return the models' file: one model for each way that the parrot answers."""
    entries = [
        f"""
  - model_name: parrot-{kind}
    litellm_params:
      model: openai/parrot-{kind}
      api_base: http://127.0.0.1:{port}/v1
      api_key: {UPSTREAM_SECRETS[0]}
      extra_headers: {{x-upstream-token: {UPSTREAM_SECRETS[1]}}}
      input_cost_per_token: 0.000001
      output_cost_per_token: 0.000001"""
        for kind in PARROTS
    ]
    return f"model_list:{''.join(entries)}\n"
