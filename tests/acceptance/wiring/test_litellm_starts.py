"""A real LiteLLM proxy starts with the configuration that was wired, and the wired gateway passes ``smoke`` before it.

All of it is made by the commands: the stores' role and user by ``db bootstrap``, the files by ``wire``. Behind the
proxy is a gateway with the demo models, as a provider. The proxy runs without its own database, for which the locked
LiteLLM has no engine: what it would read of it is asked of its own code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from dotenv import dotenv_values
from typer.testing import CliRunner

from hx_gateway.cli.db import app as db_commands
from tests.acceptance.wiring.staging import CONFIG, LITELLM_CONFIG, SECRETS, SETTINGS, Tree
from tests.fixtures.gateway import NO_STORES, Answer, Gateway, exchange
from tests.fixtures.litellm import MASTER_KEY, running_litellm
from tests.fixtures.qdrant_server import QdrantServer, qdrant_beside
from tests.fixtures.servers import SERVERS, Servers, running_servers

pytestmark = pytest.mark.peers

# The configuration full of comments, with models that a provider here has; what calls others when it starts or answers
# has no place in a test.
WIRED_MODELS = """\
  - model_name: hx-chat
    litellm_params: {model: openai/hx-chat, api_base: "URL/v1", api_key: os.environ/PROVIDER_KEY}
  - model_name: emb-premium
    litellm_params: {model: openai/emb-premium, api_base: "URL/v1", api_key: os.environ/PROVIDER_KEY}
"""
QUIET = (
    LITELLM_CONFIG.replace("    callbacks:\n    - prometheus\n", "")
    .replace('  alerting: [ "slack" ]\n', "")
    .replace("\nlitellm_settings:", f"{WIRED_MODELS}\nlitellm_settings:")
)
# Run by LiteLLM's own interpreter: what the proxy and its command make of the file and the environment.
LOADED = """
import asyncio, json, sys
import litellm
from litellm.proxy import proxy_server
from litellm.proxy.db.db_url_settings import unsupported_db_scheme

_, _, general = asyncio.run(proxy_server.ProxyConfig().load_config(router=None, config_file_path=sys.argv[1]))
url = general["database_url"]
if url.startswith("os.environ/"):
    url = litellm.get_secret_str(url)
place = litellm.cache.cache.redis_client.connection_pool.connection_kwargs
print(json.dumps({
    "database_url": url,
    "unsupported": unsupported_db_scheme(url),
    "disable_spend_logs": proxy_server.disable_spend_logs,
    "disable_error_logs": general["disable_error_logs"],
    "cache": type(litellm.cache.cache).__name__,
    "redis": [place["username"], place["host"], place["port"]],
}))
"""


@dataclass
class Host:
    """A staging root that was wired, its stores, and what runs with its files."""

    tree: Tree
    servers: Servers
    qdrant: QdrantServer
    values: dict[str, str]
    litellm_port: int
    gateway: Gateway
    redis: Any

    def ask_litellm(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
        data = json.dumps(body).encode() if body is not None else b""
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {MASTER_KEY}\r\nconnection: close\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        return exchange(self.litellm_port, head.encode() + data)


def bootstrapped(servers: Servers, folder: Path, admin: Any) -> dict[str, str]:
    """Make the role, the database and Redis's user, and return their URLs."""
    out = folder / "stores.env"
    given = {"PG_ADMIN_URL": servers.postgres.url, "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(servers.redis.port)}
    done = CliRunner().invoke(db_commands, ["bootstrap", "--litellm", "--out", str(out)], env=given)
    assert done.exit_code == 0, done.output
    (line,) = (line for line in done.output.splitlines() if line.startswith("user "))
    admin.execute_command("ACL", "SETUSER", *line.split()[1:])
    admin.acl_log_reset()
    return {name: value for name, value in dotenv_values(out, interpolate=False).items() if value is not None}


@pytest.fixture(scope="module", params=SERVERS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    with ExitStack() as stack:
        provider = Gateway(NO_STORES, tmp_path_factory.mktemp("provider")).start()
        stack.callback(provider.stop)
        servers = stack.enter_context(running_servers(request.param))
        qdrant = stack.enter_context(qdrant_beside())
        admin = stack.enter_context(redis.Redis.from_url(servers.redis.url, decode_responses=True))
        tree = Tree(folder / "root", bootstrapped(servers, folder, admin) | {"QDRANT_URL": qdrant.url})
        tree.write(CONFIG, QUIET.replace("URL/v1", f"{provider.url}/v1"))
        wired = tree.run("wire")
        assert wired.exit_code == 0, wired.output
        values = {name: value or "" for name, value in dotenv_values(tree.path(SECRETS), interpolate=False).items()}
        # All but what it has no engine for.
        own = {name: value for name, value in values.items() if name != "DATABASE_URL"}
        own["PROVIDER_KEY"] = provider.key
        port = stack.enter_context(running_litellm(tree.path(CONFIG), folder, own))
        # As the unit has it, with what two hosts in one need: other ports, and this one's LiteLLM.
        files = f"{tree.path(SECRETS)}:{tree.path(SETTINGS)}"
        places = {"WRAPPER_HOST": "127.0.0.1", "LITELLM_BASE_URL": f"http://127.0.0.1:{port}"}
        environ = {"HX_ENV_FILE": files, "LITELLM_API_KEY": MASTER_KEY, **places}
        gateway = Gateway(environ, tmp_path_factory.mktemp("gateway")).start()
        stack.callback(gateway.stop)
        gateway.wait_until(lambda: gateway.get("/v1/keys", key=gateway.key).status == 200)
        yield Host(tree, servers, qdrant, values, port, gateway, admin)


def test_the_proxy_answers_and_caches_in_redis(host: Host) -> None:
    question = {"model": "hx-chat", "messages": [{"role": "user", "content": "hi"}]}
    first, second = (host.ask_litellm("POST", "/v1/chat/completions", question) for _ in range(2))
    assert first.json()["choices"][0]["message"]["content"], first.body
    assert second.json()["id"] == first.json()["id"]
    ping = host.ask_litellm("GET", "/cache/ping").json()
    assert (ping["status"], ping["cache_type"], ping["set_cache_response"]) == ("healthy", "redis", "success")
    assert int(host.redis.dbsize()) > 0


def test_the_wired_gateway_passes_smoke_in_front_of_it(host: Host) -> None:
    gateway = host.gateway
    command = [sys.executable, "-m", "hx_gateway", "smoke", "--url", gateway.url, "--json"]
    done = subprocess.run(command, env=gateway.environ, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()
    checks = json.loads(done.stdout)["checks"]
    assert {(check["outcome"], check["detail"]) for check in checks} == {("pass", "")}
    assert {model["id"] for model in gateway.get("/v1/models", key=gateway.key).json()["data"]} >= {"hx-chat", "fast"}


def test_the_gateway_is_on_the_wired_stores(host: Host) -> None:
    gateway = host.gateway
    deps = [gateway.get(f"/health/{part}", key=gateway.key).json()["status"] for part in ("db", "cache", "vector")]
    assert deps == ["healthy"] * 3
    assert any(asked.startswith("GET /collections") for asked in host.qdrant.asked)
    assert host.redis.exists("hx:instances")
    command = [sys.executable, "-m", "hx_gateway", "db", "current"]
    current = subprocess.run(command, env=gateway.environ, capture_output=True, text=True, check=True).stdout
    found, newest = (line.split()[1] for line in current.splitlines())
    assert found == newest


def test_redis_refused_neither_of_them_anything(host: Host) -> None:
    # To Redis 6.2 all of CLIENT is an administrator's. LiteLLM's library asks it for what it can do without.
    oldest = str(host.redis.info("server")["redis_version"]).startswith("6.")
    assert {entry["object"] for entry in host.redis.acl_log()} <= ({"client"} if oldest else set())


def test_litellms_own_code_reads_what_was_wired(host: Host) -> None:
    python = Path(os.environ["HX_TEST_LITELLM"]).parent / "python"
    environ = {"PATH": os.environ["PATH"], "LITELLM_MASTER_KEY": MASTER_KEY, "PROVIDER_KEY": "made-up", **host.values}
    environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(host.tree.root)}
    command = [str(python), "-c", LOADED, str(host.tree.path(CONFIG))]
    done = subprocess.run(command, env=environ, cwd=host.tree.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded: Any = json.loads(done.stdout.splitlines()[-1])
    assert loaded == {
        "database_url": host.values["DATABASE_URL"],
        "unsupported": None,
        "disable_spend_logs": False,
        "disable_error_logs": False,
        "cache": "RedisCache",
        "redis": ["hx_gateway", "127.0.0.1", host.servers.redis.port],
    }
