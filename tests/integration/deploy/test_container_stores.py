"""What Compose gives the containers, given to real servers: the database's first script, Redis's users, the secrets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry
from ruamel.yaml import YAML

from tests.contract.deploy.containerfile import assignments, exec_form, read_stages
from tests.contract.doc_pages import ROOT
from tests.fixtures.gateway import Gateway, free_port
from tests.fixtures.servers import PostgresServer, _redis_binary, _wait_port, running_postgres

FOLDER = ROOT / "deploy" / "container"
SERVICES: Mapping[str, Any] = YAML(typ="safe").load(FOLDER / "compose.yaml")["services"]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("container")
    shutil.copy(FOLDER / "make-secrets.sh", folder)
    environ = {"PATH": os.environ["PATH"], "GROUP": str(os.getegid())}
    subprocess.run(["sh", str(folder / "make-secrets.sh")], env=environ, check=True, capture_output=True)
    return folder / "secrets"


@pytest.fixture(scope="module")
def postgres(secrets: Path) -> Iterator[PostgresServer]:
    """Run a cluster that the script has prepared, and in which the gateway's role needs its password."""
    with running_postgres("wheel18") as server:
        environ = {
            "PATH": f"{server.binaries}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "POSTGRES_USER": "hx",
            "HX_GATEWAY_PASSWORD_FILE": str(secrets / "hx_gateway_password"),
        }
        subprocess.run([str(FOLDER / "postgres/10-hx-gateway.sh")], env=environ, check=True, capture_output=True)
        rules = server.base / "data/pg_hba.conf"
        rules.write_text("host all hx_gateway 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        server._run("psql", "-Xq", "-d", server.url, "-c", "SELECT pg_reload_conf()")
        yield server


@contextmanager
def running_redis(secrets: Path) -> Iterator[int]:
    """Run Redis as Compose does, on a port of its own."""
    port = free_port()
    words = [word.replace("/run/secrets", str(secrets)) for word in SERVICES["redis"]["command"][1:]]
    command = [str(_redis_binary("redis6")), *words, "--port", str(port), "--bind", "127.0.0.1"]
    with tempfile.TemporaryDirectory(prefix="hx-") as base:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=base)
        try:
            _wait_port(port)
            yield port
        finally:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def redis_port(secrets: Path) -> Iterator[int]:
    with running_redis(secrets) as port:
        yield port


@pytest.fixture(scope="module")
def gateway(secrets: Path, postgres: PostgresServer, redis_port: int) -> Iterator[Gateway]:
    """Run the gateway with the image's and Compose's settings and its secrets, hosts and Qdrant apart."""
    service = SERVICES["gateway"]
    stage = read_stages(FOLDER / "Containerfile")["gateway"]
    with tempfile.TemporaryDirectory(prefix="hxgw-") as directory:
        own = Path(directory) / "secrets"
        own.mkdir()
        for name in service["secrets"]:
            text = (secrets / name).read_text().replace("@postgres:5432", f"@127.0.0.1:{postgres.port}")
            (own / name).write_text(text.replace("@redis:6379", f"@127.0.0.1:{redis_port}"))
            (own / name).chmod(0o640)
        given = assignments(stage.all("ENV")) | service["environment"]
        left_out = {"PATH", "HX_DATA_DIR", "WRAPPER_PORT", "LITELLM_BASE_URL"}
        running = Gateway({name: value for name, value in given.items() if name not in left_out}, Path(directory))
        running.environ |= {"CREDENTIALS_DIRECTORY": str(own), "QDRANT_URL": "none"}
        del running.environ["HX_ADMIN_KEY"]
        running.key = (own / "HX_ADMIN_KEY").read_text().strip()
        try:
            running.start()
            yield running
        finally:
            running.stop()


def test_the_gateway_works_with_the_rights_that_its_stores_give_it(gateway: Gateway) -> None:
    smoke = [sys.executable, "-m", "hx_gateway", "smoke", "--url", gateway.url, "--key", gateway.key]
    gateway.wait_until(lambda: all(gateway.get("/healthz/deps").json().values()))
    done = subprocess.run(smoke, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert gateway.get("/health/cache", key=gateway.key).json()["status"] == "healthy"
    assert not re.search(r"NOPERM|permission denied", gateway.log())


def test_the_image_s_own_check_tells_a_gateway_that_serves_from_one_that_does_not(gateway: Gateway) -> None:
    stage = read_stages(FOLDER / "Containerfile")["gateway"]
    program, *words = exec_form(stage.only("HEALTHCHECK"))
    assert program == "python"

    def check(port: int) -> int:
        environ = {"WRAPPER_PORT": str(port), "PATH": os.environ["PATH"]}
        return subprocess.run([sys.executable, *words], env=environ, capture_output=True, check=False).returncode

    assert check(gateway.port) == 0
    assert check(free_port()) != 0


async def test_the_gateway_s_role_may_nothing_special_and_owns_its_database(
    postgres: PostgresServer, secrets: Path
) -> None:
    password = (secrets / "hx_gateway_password").read_text().strip()
    connection = await asyncpg.connect(
        host="127.0.0.1", port=postgres.port, user="hx_gateway", password=password, database="hx_gateway"
    )
    try:
        role = await connection.fetchrow(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls FROM pg_roles WHERE rolname = current_user"
        )
        owner = await connection.fetchval("SELECT datdba::regrole::text FROM pg_database WHERE datname = 'hx_gateway'")
    finally:
        await connection.close()
    assert role is not None
    assert [*role.values()] == [False] * 4
    assert owner == "hx_gateway"
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host="127.0.0.1", port=postgres.port, user="hx_gateway", password="another", database="hx_gateway"
        )


def test_redis_lets_anybody_ping_and_nothing_else(redis_port: int, secrets: Path) -> None:
    once = Retry(NoBackoff(), 0)
    anybody = redis.Redis(port=redis_port)
    assert anybody.ping()
    with pytest.raises(NoPermissionError):
        anybody.get("key")
    with pytest.raises(AuthenticationError):
        redis.Redis(port=redis_port, username="hx_gateway", password="another", retry=once).ping()
    url = (secrets / "REDIS_URL").read_text().strip().replace("@redis:6379", f"@127.0.0.1:{redis_port}")
    ours = redis.Redis.from_url(url)
    assert ours.set("key", "value")
    for forbidden in ("FLUSHALL", "CONFIG GET *", "SHUTDOWN"):
        with pytest.raises(NoPermissionError):
            ours.execute_command(forbidden)  # type: ignore[no-untyped-call]
