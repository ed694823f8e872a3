"""A real LiteLLM proxy starts with the configuration that was wired, and caches in the Redis that was given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import pytest
import redis
from dotenv import dotenv_values

from tests.acceptance.wiring.staging import CONFIG, LITELLM_CONFIG, SECRETS, Tree
from tests.fixtures.gateway import Answer, exchange
from tests.fixtures.litellm import MASTER_KEY, running_litellm
from tests.fixtures.servers import Servers

pytestmark = pytest.mark.peers

# What calls others when it starts or answers has no place in a test.
QUIET = (
    LITELLM_CONFIG.replace("    callbacks:\n    - prometheus\n", "")
    .replace('  alerting: [ "slack" ]\n', "")
    .replace("api_key: os.environ/OPENAI_API_KEY}", "api_key: made-up, mock_response: hello}")
)


def ask(port: int, method: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
    data = json.dumps(body).encode() if body is not None else b""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {MASTER_KEY}\r\nconnection: close\r\n"
    return exchange(
        port, f"{head}content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data
    )


@pytest.fixture
def wired(tree: Tree, servers: Servers) -> Iterator[tuple[int, Servers]]:
    """Run the proxy with everything but the database: the locked LiteLLM is without Prisma."""
    tree.write(CONFIG, QUIET)
    tree.environ = {"PG_URL": servers.postgres.url, "REDIS_URL": servers.redis.url, "QDRANT_URL": "none"}
    assert tree.run("wire").exit_code == 0
    values = dotenv_values(tree.path(SECRETS), interpolate=False)
    environ = {name: value for name, value in values.items() if value is not None and name != "DATABASE_URL"}
    with running_litellm(tree.path(CONFIG), tree.root, environ) as port:
        yield port, servers


def test_it_answers_and_caches_in_redis(wired: tuple[int, Servers]) -> None:
    port, servers = wired
    question = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}
    first, second = (ask(port, "POST", "/v1/chat/completions", question) for _ in range(2))
    assert first.json()["choices"][0]["message"]["content"] == "hello"
    assert second.json()["id"] == first.json()["id"]
    ping = ask(port, "GET", "/cache/ping").json()
    assert (ping["status"], ping["cache_type"], ping["set_cache_response"]) == ("healthy", "redis", "success")
    assert redis.Redis.from_url(servers.redis.url).dbsize() > 0
