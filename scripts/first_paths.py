"""Times the ways of a new user on this machine: ``python -m scripts.first_paths`` prints them as a table.

From a clone to the first answer; from a LiteLLM to one that is wired, with the gateway before it; from the embedded
PostgreSQL to a server. LiteLLM is installed before its clock runs, as whoever comes with one has it.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from dotenv import dotenv_values
from rich.console import Console
from rich.table import Table
from tests.acceptance.wiring.staging import CONFIG, SECRETS, SETTINGS, Tree
from tests.acceptance.wiring.test_litellm_starts import QUIET
from tests.fixtures.gateway import NO_STORES, Gateway, free_port
from tests.fixtures.litellm import MASTER_KEY, running_litellm
from tests.fixtures.qdrant_server import qdrant_beside
from tests.fixtures.servers import SERVERS, running_postgres, running_servers
from tests.integration.db.databases import owned_database

from scripts.peers import installed

ROOT = Path(__file__).resolve().parent.parent
HX = (sys.executable, "-m", "hx_gateway")
CHAT = {"model": "hx-chat", "messages": [{"role": "user", "content": "Say something."}]}
EVENTS = 100_000
EVENTS_AT_ONCE = 500
STOP_SECONDS = 120.0


class Steps:
    """What was done, and how many seconds it took."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float]] = []

    @contextmanager
    def timed(self, path: str, step: str) -> Iterator[None]:
        """Time one step of a path."""
        began = time.monotonic()
        yield
        self.rows.append((path, step, time.monotonic() - began))


def main() -> None:
    """Go all three ways, and print what they took."""
    os.environ["HX_TEST_LITELLM"] = str(installed() / "litellm")
    steps, console = Steps(), Console(width=110)
    for path in (first_answer, wired, moved):
        console.print(f"[dim]{path.__name__.replace('_', ' ')} ...[/]")
        with tempfile.TemporaryDirectory(prefix="hxpath-", ignore_cleanup_errors=True) as folder, ExitStack() as stack:
            # The account that PostgreSQL runs as goes through it.
            Path(folder).chmod(0o755)
            path(steps, Path(folder), stack)
    table = Table("path", "step", "seconds", title=f"{machine()}, {datetime.now(UTC):%Y-%m-%d}")
    for path_name, step, seconds in steps.rows:
        table.add_row(path_name, step, f"{seconds:.1f}")
    console.print(table)


def first_answer(steps: Steps, folder: Path, stack: ExitStack) -> None:
    """From nothing but Git, Python and make to a chat."""
    path, clone, port = "clone → first answer", folder / "clone", free_port()
    with steps.timed(path, "git clone"):
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("HX_", "PG_", "WRAPPER_"))}
    with steps.timed(path, "make run: install, create the cluster, answer the first chat"):
        server = subprocess.Popen(
            ["make", "run"], cwd=clone, env={**environ, "WRAPPER_PORT": str(port)}, start_new_session=True
        )
        stack.callback(ended, server)
        until(lambda: answers(port, (clone / ".data" / "admin.key").read_text().strip()), server)


def wired(steps: Steps, folder: Path, stack: ExitStack) -> None:
    """From a LiteLLM without stores to one that has them, and a gateway before it that passes ``smoke``."""
    path = "LiteLLM → wired"
    provider = Gateway(NO_STORES, made(folder / "provider")).start()
    stack.callback(provider.stop)
    servers = stack.enter_context(running_servers(SERVERS[0]))
    qdrant = stack.enter_context(qdrant_beside())
    out = folder / "stores.env"
    given = {"PG_ADMIN_URL": servers.postgres.url, "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(servers.redis.port)}
    with steps.timed(path, "db bootstrap: role, database, Redis's user"):
        told = run("db", "bootstrap", "--litellm", "--out", str(out), environ=given)
        (line,) = (line for line in told.splitlines() if line.startswith("user "))
        with redis.Redis.from_url(servers.redis.url) as admin:
            admin.execute_command("ACL", "SETUSER", *line.split()[1:])
    stores = {name: value or "" for name, value in dotenv_values(out, interpolate=False).items()}
    tree = Tree(folder / "root", stores | {"QDRANT_URL": qdrant.url})
    tree.write(CONFIG, QUIET.replace("URL/v1", f"{provider.url}/v1"))
    with steps.timed(path, "wire"):
        run("wire", "--root", str(tree.root), environ=tree.environ)
    secrets = {name: value or "" for name, value in dotenv_values(tree.path(SECRETS), interpolate=False).items()}
    # LiteLLM's own database needs an engine that the lock does not have.
    own = {name: value for name, value in secrets.items() if name != "DATABASE_URL"} | {"PROVIDER_KEY": provider.key}
    with steps.timed(path, "LiteLLM starts with the wired files"):
        port = stack.enter_context(running_litellm(tree.path(CONFIG), made(folder / "litellm"), own))
    environ = {
        "HX_ENV_FILE": f"{tree.path(SECRETS)}:{tree.path(SETTINGS)}",
        "WRAPPER_HOST": "127.0.0.1",
        "LITELLM_BASE_URL": f"http://127.0.0.1:{port}",
        "LITELLM_API_KEY": MASTER_KEY,
    }
    with steps.timed(path, "the gateway starts, all stores are healthy"):
        gateway = Gateway(environ, made(folder / "gateway")).start()
        stack.callback(gateway.stop)
        gateway.wait_until(lambda: gateway.get("/v1/keys", key=gateway.key).status == 200)
    with steps.timed(path, "smoke"):
        run("smoke", "--url", gateway.url, environ=gateway.environ)


def moved(steps: Steps, folder: Path, stack: ExitStack) -> None:
    """From the embedded PostgreSQL, with events in it, to a server."""
    path, data = "embedded → server", made(folder / "data")
    alone = {"REDIS_URL": "none", "QDRANT_URL": "none"}
    gateway = Gateway(alone, data).start()
    gateway.wait_until(lambda: gateway.get("/v1/keys", key=gateway.key).status == 200)
    batch = {"events": [{"event_type": "t", "trace_id": f"trace-{number}"} for number in range(EVENTS_AT_ONCE)]}
    for _ in range(EVENTS // EVENTS_AT_ONCE):
        answer = gateway.request("POST", "/api/v1/observability/events", batch, key=gateway.key)
        if answer.status != 200:
            raise SystemExit(f"events were answered with {answer.status}")
    server = stack.enter_context(running_postgres("debian15"))
    target = stack.enter_context(owned_database(server))
    with steps.timed(path, "stop the gateway"):
        gateway.stop()
    with steps.timed(path, f"db move: {EVENTS:,} events, counted and compared"):
        run("db", "move", "--to", target, environ=gateway.environ)
    with steps.timed(path, "start it with PG_URL, all of it answers"):
        after = Gateway({**alone, "PG_URL": target}, data).start()
        stack.callback(after.stop)
        after.wait_until(lambda: after.get("/v1/keys", key=after.key).status == 200)


def run(*words: str, environ: Mapping[str, str]) -> str:
    """Run a command of ours and return what it says; leave with that where it fails."""
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run([*HX, *words], env={**plain, **environ}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"hx-gateway {' '.join(words[:2])} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def answers(port: int, key: str) -> bool:
    """Return whether a chat is answered."""
    gateway: Any = Gateway({"WRAPPER_PORT": str(port), "HX_ADMIN_KEY": key}, Path(tempfile.gettempdir()))
    return bool(gateway.request("POST", "/v1/chat/completions", CHAT, key=key).status == 200)


def until(done: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Return once ``done`` is true; what is not there yet is asked for again while ``process`` runs."""
    while process.poll() is None:
        try:
            if done():
                return
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit(f"the server ended with {process.returncode}")


def ended(process: subprocess.Popen[bytes]) -> None:
    """Stop a server as Ctrl-C does."""
    os.killpg(process.pid, signal.SIGINT)
    process.wait(STOP_SECONDS)


def made(folder: Path) -> Path:
    """Make a folder that PostgreSQL's account can go through, and return it."""
    folder.mkdir()
    folder.chmod(0o755)
    return folder


def machine() -> str:
    """Return what this runs on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
